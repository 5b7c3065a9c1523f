"""Dockerfile instructions that change a config: `import -c`, `commit -c`.

Which instructions go, what they do and their errors follow moby's
`daemon/builder/dockerfile` (`BuildFromConfig`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gantry.model.errors import InvalidParameter
from gantry.model.numbers import clamped, whole

Config = dict[str, Any]
"""A container config in JSON form ({"Cmd": …, "Env": …})."""

_ALLOWED: Final = (
    "cmd",
    "entrypoint",
    "healthcheck",
    "env",
    "expose",
    "label",
    "onbuild",
    "stopsignal",
    "user",
    "volume",
    "workdir",
)


def apply_changes(config: Config, changes: Sequence[str]) -> Config:
    """A changed copy of `config`. InvalidParameter."""
    result = json.loads(json.dumps(config))
    assert isinstance(result, dict)
    own_cmd = False
    for line in _lines(changes):
        name, _, rest = line.partition(" ")
        keyword = name.lower()
        if keyword not in _ALLOWED:
            raise InvalidParameter(f"{name.upper()} is not a valid change command")
        rest = rest.strip()
        if not rest and keyword not in ("cmd", "entrypoint"):
            raise InvalidParameter(f"{name.upper()} requires at least one argument")
        if keyword == "entrypoint" and not own_cmd:
            result["Cmd"] = None  # the old one was meant for the old entry point
        own_cmd = own_cmd or keyword == "cmd"
        _INSTRUCTIONS[keyword](result, rest)
    return result


def _lines(changes: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for change in changes:
        text = re.sub(r"\\[ \t]*\n", "", change)
        lines.extend(re.sub(r"\s+", " ", line.strip(), count=1) for line in text.splitlines())
    found = [line for line in lines if line and not line.startswith("#")]
    if changes and not found:
        raise InvalidParameter("file with no instructions")
    return found


def _json_words(text: str) -> list[str] | None:
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            return None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    return None


def _command(text: str, config: Config) -> list[str]:
    """Exec form as it is, shell form through the config's shell."""
    words = _json_words(text)
    if words is not None:
        return words
    shell = config.get("Shell") or ["/bin/sh", "-c"]
    return [*shell, text]


def split_words(text: str) -> list[str]:
    """Words as the Dockerfile parser splits them: quotes and backslashes stay for `expand`."""
    words: list[str] = []
    word = ""
    quote = ""
    i = 0
    while i < len(text):
        c = text[i]
        if c == "\\" and quote != "'" and i + 1 < len(text):
            word += text[i : i + 2]
            i += 2
            continue
        if quote:
            quote = "" if c == quote else quote
            word += c
        elif c in "'\"":
            quote = c
            word += c
        elif c.isspace():
            if word:
                words.append(word)
            word = ""
        else:
            word += c
        i += 1
    return [*words, word] if word else words


class _Word:
    """One word of an instruction: quotes taken off, variables put in (moby `shlex`)."""

    def __init__(self, text: str, env: Mapping[str, str]) -> None:
        self._text = text
        self._env = env
        self._at = 0

    def read(self, stop: str = "") -> str:
        """Up to `stop` outside of quotes, or the end."""
        out = ""
        quote = ""
        while self._at < len(self._text):
            c = self._text[self._at]
            after = self._text[self._at + 1 : self._at + 2]
            if c == stop and not quote:
                break
            self._at += 1
            if c == "\\" and quote != "'" and after:
                self._at += 1
                out += after if not quote or after in '"\\$' else c + after
            elif c == "$" and quote != "'":
                out += self._variable()
            elif quote and c == quote:
                quote = ""
            elif not quote and c in "'\"":
                quote = c
            else:
                out += c
        return out

    def _variable(self) -> str:
        """What comes behind a dollar sign."""
        if self._text[self._at : self._at + 1] != "{":
            name = self._name()
            return self._env.get(name, "") if name else "$"
        self._at += 1
        name = self._name()
        value = self._env.get(name)
        operator = _OPERATOR.match(self._text, self._at)
        if not name or operator is None:
            raise InvalidParameter("unsupported modifier in substitution")
        self._at = operator.end()
        if operator[0] == "}":
            return value or ""
        other = self.read("}")
        if self._at >= len(self._text):
            raise InvalidParameter("syntax error: missing '}'")
        self._at += 1
        there = value is not None and (value != "" or ":" not in operator[0])
        if operator[0].endswith("+"):
            return other if there else ""
        if operator[0].endswith("?") and not there:
            raise InvalidParameter(f"{name}: {other or 'is not allowed to be unset'}")
        return value or "" if there else other

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found[0] if found else ""


_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]|[@*#]")
_OPERATOR: Final = re.compile(r"\}|:?[-+?]")


def expand(text: str, config: Config) -> str:
    """A word without quotes, with the values of the config's environment."""
    pairs = (item.partition("=") for item in config.get("Env") or ())
    return _Word(text, {key: value for key, _, value in pairs}).read()


def _pairs(keyword: str, text: str, config: Config) -> list[tuple[str, str]]:
    words = split_words(text)
    if "=" not in words[0]:
        key, _, value = text.partition(" ")
        if not value:
            raise InvalidParameter(f"{keyword} must have two arguments")
        return [(key, expand(value.strip(), config))]
    pairs: list[tuple[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter(
                f"Syntax error - can't find = in {word!r}. Must be of the form: name=value"
            )
        if not key:
            raise InvalidParameter(f"{keyword} names can not be blank")
        pairs.append((expand(key, config), expand(value, config)))
    return pairs


def _cmd(config: Config, text: str) -> None:
    config["Cmd"] = _command(text, config) if text else []


def _entrypoint(config: Config, text: str) -> None:
    words = _json_words(text) if text else None
    if words == [] or not text:
        config["Entrypoint"] = None
    else:
        config["Entrypoint"] = _command(text, config)


def _env(config: Config, text: str) -> None:
    env: list[str] = list(config.get("Env") or ())
    for key, value in _pairs("ENV", text, config):
        there = [i for i, item in enumerate(env) if item.partition("=")[0] == key]
        if there:
            env[there[0]] = f"{key}={value}"
        else:
            env.append(f"{key}={value}")
    config["Env"] = env


def _label(config: Config, text: str) -> None:
    labels = dict(config.get("Labels") or {})
    labels.update(_pairs("LABEL", text, config))
    config["Labels"] = labels


_PORT: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def _expose(config: Config, text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in split_words(text):
        match = _PORT.fullmatch(expand(word, config))
        if match is None:
            raise InvalidParameter(f"invalid containerPort: {word}")
        first = clamped(match[1])
        last = clamped(match[2] or match[1])
        if not 0 < first <= last < 65536:
            raise InvalidParameter(f"invalid containerPort: {word}")
        for port in range(first, last + 1):
            ports[f"{port}/{(match[3] or 'tcp').lower()}"] = {}
    config["ExposedPorts"] = ports


def _volume(config: Config, text: str) -> None:
    volumes = dict(config.get("Volumes") or {})
    for word in _json_words(text) or [expand(word, config) for word in split_words(text)]:
        if not word.strip():
            raise InvalidParameter("VOLUME specified can not be an empty string")
        volumes[word.strip()] = {}
    config["Volumes"] = volumes


def _workdir(config: Config, text: str) -> None:
    import posixpath

    path = expand(text, config)
    base = config.get("WorkingDir") or "/"
    config["WorkingDir"] = posixpath.normpath(posixpath.join("/", base, path))


def _user(config: Config, text: str) -> None:
    if len(split_words(text)) != 1:
        raise InvalidParameter("USER requires exactly one argument")
    config["User"] = expand(text, config)


_SIGNAL: Final = re.compile(r"(?:SIG)?[A-Za-z][A-Za-z0-9+-]*|\d{1,2}")


def _stop_signal(config: Config, text: str) -> None:
    signal = expand(text, config)
    if not _SIGNAL.fullmatch(signal):
        raise InvalidParameter(f"invalid signal: {signal}")
    config["StopSignal"] = signal


def _on_build(config: Config, text: str) -> None:
    keyword = text.split(maxsplit=1)[0].upper()
    if keyword == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("MAINTAINER", "FROM"):
        raise InvalidParameter(f"{keyword} isn't allowed as an ONBUILD trigger")
    config["OnBuild"] = [*(config.get("OnBuild") or ()), text]


_OPTION: Final = re.compile(r"--([a-z-]+)(?:=(\S*))?\s+")
_TIMES: Final = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}


def _healthcheck(config: Config, text: str) -> None:
    check: dict[str, Any] = {}
    while match := _OPTION.match(text):
        name, value = match[1], match[2] or ""
        if name in _TIMES:
            check[_TIMES[name]] = duration(value, name)
        elif name == "retries" and value.isdigit():
            check["Retries"] = clamped(value)
        else:
            raise InvalidParameter(f"unknown flag: {name}")
        text = text[match.end() :]
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE":
        if rest.strip():
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        check = {"Test": ["NONE"]}
    elif kind.upper() == "CMD":
        words = _json_words(rest.strip())
        if not rest.strip() or words == []:
            raise InvalidParameter("missing command after HEALTHCHECK CMD")
        check["Test"] = ["CMD", *words] if words else ["CMD-SHELL", rest.strip()]
    else:
        raise InvalidParameter(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    config["Healthcheck"] = check


_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def duration(text: str, name: str) -> int:
    """Go's duration in ns; below a millisecond is refused, as Docker does."""
    if text in ("", "0"):
        return 0
    parts = _DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    total = whole(sum(float(number) * _UNITS[unit] for number, unit in parts))
    if 0 < total < 10**6:
        raise InvalidParameter(f"Interval {name!r} cannot be less than 1ms")
    return total


_INSTRUCTIONS: Final[dict[str, Callable[[Config, str], None]]] = {
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "env": _env,
    "label": _label,
    "expose": _expose,
    "volume": _volume,
    "workdir": _workdir,
    "user": _user,
    "stopsignal": _stop_signal,
    "onbuild": _on_build,
    "healthcheck": _healthcheck,
}
