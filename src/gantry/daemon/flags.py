"""The command line of gantryd, with dockerd's flags, and how file and flags are merged.

What pflag does is mirrored: `--flag=value`, `--flag value`, a boolean's value only by
`=`, short flags with the value behind them, lists by repeating.
"""

from __future__ import annotations

import ipaddress
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gantry.daemon.options import BY_KEY, OPTIONS, Option, Options, Value
from gantry.model.errors import InvalidParameter
from gantry.network.backends import NAMES as FIREWALLS

CONFIG_FILE: Final = "/etc/gantry/daemon.json"
_TRUE: Final = ("1", "t", "T", "true", "TRUE", "True")
_FALSE: Final = ("0", "f", "F", "false", "FALSE", "False")
_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What was asked for. action: "run", "help", "version" or "validate"."""

    action: str
    options: Options


def parse(arguments: Sequence[str]) -> CommandLine:
    """Flags and the configuration file together. InvalidParameter, one line."""
    given, config_file, action = _parse_flags(arguments)
    if action in ("help", "version"):
        return CommandLine(action, Options({}))
    from_file = read_file(config_file or CONFIG_FILE, required=config_file is not None)
    try:
        _check_conflicts(given, from_file)
    except InvalidParameter as error:
        raise InvalidParameter(
            f"unable to configure the Docker daemon with file {config_file or CONFIG_FILE}: {error}"
        )
    options = Options({**from_file, **given})
    _validate(options)
    return CommandLine(action, options)


def _parse_flags(arguments: Sequence[str]) -> tuple[dict[str, Value], str | None, str]:
    by_flag = {option.flag: option for option in OPTIONS if option.flag}
    by_short = {option.short: option for option in OPTIONS if option.short}
    given: dict[str, Value] = {}
    config_file: str | None = None
    action = "run"
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help", "help"):
            return given, None, "help"
        if word in ("-v", "--version"):
            return given, None, "version"
        if word == "--validate":
            action = "validate"
            continue
        name, equals, value = word.partition("=")
        option: Option | None
        if name == "--config-file":
            config_file = value if equals else _next(rest, name)
            continue
        if name.startswith("--"):
            option = by_flag.get(name[2:])
            if option is None:
                raise InvalidParameter(f"unknown flag: {name}")
        elif name.startswith("-") and len(name) > 1:
            option = by_short.get(name[1])
            if option is None:
                raise InvalidParameter(f"unknown shorthand flag: {name[1]!r} in {word}")
            if len(word) > 2 and not equals:
                equals, value = "=", word[2:]
                if option.kind == "flag":  # -Dl debug: booleans may be put together
                    rest.insert(0, "-" + value)
                    equals, value = "", ""
        else:
            raise InvalidParameter(f'unknown command: "{word}"')
        if not equals:
            value = "true" if option.kind == "flag" else _next(rest, name)
        _take(given, option, value, name)
    return given, config_file, action


def _next(rest: list[str], name: str) -> str:
    if not rest:
        raise InvalidParameter(f"flag needs an argument: {name}")
    return rest.pop(0)


def _take(given: dict[str, Value], option: Option, text: str, name: str) -> None:
    match option.kind:
        case "text":
            given[option.key] = text
        case "flag":
            if text not in (*_TRUE, *_FALSE):
                raise InvalidParameter(
                    f'invalid argument "{text}" for "{name}" flag: '
                    f'strconv.ParseBool: parsing "{text}": invalid syntax'
                )
            given[option.key] = text in _TRUE
        case "number":
            try:
                given[option.key] = int(text, 0)
            except ValueError:
                raise InvalidParameter(
                    f'invalid argument "{text}" for "{name}" flag: '
                    f'strconv.ParseInt: parsing "{text}": invalid syntax'
                )
        case "size":
            given[option.key] = parse_size(text)
        case "list":
            found = given.setdefault(option.key, [])
            assert isinstance(found, list)
            found.append(_pool(text) if option.key == "default-address-pools" else text)
        case "map":
            key, equals, value = text.partition("=")
            if option.key == "features" and key and not equals:
                value = equals = "true"
            if not equals or not key:
                raise InvalidParameter(
                    f'invalid argument "{text}" for "{name}" flag: not NAME=VALUE'
                )
            table = given.setdefault(option.key, {})
            assert isinstance(table, dict)
            _put(table, option.key, key, value)


def _put(table: dict[str, object], option: str, key: str, value: str) -> None:
    match option:
        case "runtimes":
            table[key] = {"path": value}
        case "default-ulimits":
            soft, _, hard = value.partition(":")
            try:
                table[key] = {"Name": key, "Soft": int(soft), "Hard": int(hard or soft)}
            except ValueError:
                raise InvalidParameter(f"invalid ulimit argument: {key}={value}")
        case "features":
            table[key] = value in _TRUE
        case "default-network-opts":
            name, _, text = value.partition("=")
            inner = table.setdefault(key, {})
            assert isinstance(inner, dict)
            inner[name] = text
        case _:
            table[key] = value


def _pool(text: str) -> dict[str, object]:
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    if set(fields) != {"base", "size"} or not fields["size"].isdigit():
        raise InvalidParameter(f"invalid default address pool: {text} (base=CIDR,size=N)")
    return {"base": fields["base"], "size": int(fields["size"])}


def parse_size(text: str) -> int:
    """ "64M" in bytes, units as Docker's (powers of 1024)."""
    number = text.strip().lower().removesuffix("ib").removesuffix("b") or text
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        return int(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, KeyError):
        raise InvalidParameter(f"invalid size: '{text}'")


# The file


def read_file(path: str, *, required: bool) -> dict[str, Value]:
    """daemon.json: known keys with values of the right types. InvalidParameter."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        if required:
            raise InvalidParameter(
                f"unable to configure the Docker daemon with file {path}: "
                f"open {path}: no such file or directory"
            )
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"unable to configure the Docker daemon with file {path}: {error}")
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise InvalidParameter("the file must hold one JSON object")
        return _typed(_flatten(found))
    except ValueError as error:
        raise InvalidParameter(f"unable to configure the Docker daemon with file {path}: {error}")
    except InvalidParameter as error:
        raise InvalidParameter(f"unable to configure the Docker daemon with file {path}: {error}")


def _flatten(found: dict[str, object]) -> dict[str, object]:
    proxies = found.pop("proxies", None)
    if isinstance(proxies, dict):
        found.update(proxies)
    gateway = found.pop("host-gateway-ip", None)  # one, as it was before 28
    if isinstance(gateway, str) and gateway:
        found.setdefault("host-gateway-ips", [gateway])
    return found


def _typed(found: dict[str, object]) -> dict[str, Value]:
    unknown = sorted(key for key in found if key not in BY_KEY)
    if unknown:
        raise InvalidParameter(
            "the following directives don't match any configuration option: " + ", ".join(unknown)
        )
    values: dict[str, Value] = {}
    for key, value in found.items():
        if value is None:
            continue
        kind = BY_KEY[key].kind
        if kind == "size" and isinstance(value, str):
            value = parse_size(value)
        wanted = {"text": str, "flag": bool, "number": int, "size": int, "list": list, "map": dict}
        right = isinstance(value, wanted[kind]) and not (
            kind in ("number", "size") and isinstance(value, bool)
        )
        if not right:
            raise InvalidParameter(
                f"json: cannot unmarshal {_go_name(value)} into Go struct field Config.{key} "
                f"of type {_GO_TYPES[kind]}"
            )
        # As dockerd merges them: what is empty says nothing (but a stop timeout of 0 does).
        if kind == "flag" or value or key == "default-stop-timeout":
            values[key] = value  # type: ignore[assignment]  # the type was just checked
    return values


_GO_TYPES: Final = {
    "text": "string",
    "flag": "bool",
    "number": "int",
    "size": "int64",
    "list": "[]string",
    "map": "map[string]string",
}


def _go_name(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _check_conflicts(given: dict[str, Value], from_file: dict[str, Value]) -> None:
    both = [
        f"{key}: (from flag: {_shown(given[key])}, from file: {_shown(from_file[key])})"
        for key in given
        if key in from_file
    ]
    if both:
        raise InvalidParameter(
            "the following directives are specified both as a flag and in the configuration "
            "file: " + ", ".join(both)
        )


def _shown(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return "[" + " ".join(str(item) for item in value) + "]"
        case dict():
            return "map[" + " ".join(f"{key}:{item}" for key, item in value.items()) + "]"
        case _:
            return str(value)


def _validate(options: Options) -> None:
    level = options.text("log-level")
    if level not in ("debug", "info", "warn", "warning", "error", "fatal", "trace", "panic"):
        raise InvalidParameter(f"invalid logging level: {level}")
    if options.text("log-format") not in ("text", "json"):
        raise InvalidParameter(f"invalid log format: {options.text('log-format')}")
    for key in ("max-concurrent-downloads", "max-concurrent-uploads"):
        if options.number(key) < 0:
            raise InvalidParameter(f"invalid {key.replace('-', ' ')}: {options.number(key)}")
    if options.number("max-download-attempts") <= 0:
        raise InvalidParameter(
            f"invalid max download attempts: {options.number('max-download-attempts')}"
        )
    if options.number("default-stop-timeout") < 0:
        raise InvalidParameter(
            f"invalid default stop timeout: {options.number('default-stop-timeout')}"
        )
    _refuse_unsupported(options)
    for label in options.words("labels"):
        if "=" not in label or not label.partition("=")[0]:
            raise InvalidParameter(f"bad attribute format: {label}")
    for option in options.words("exec-opts"):
        name, _, value = option.partition("=")
        if name != "native.cgroupdriver":
            raise InvalidParameter(f"Unknown option to --exec-opt: {name}")
        if value not in ("cgroupfs", "systemd"):
            raise InvalidParameter(f"native.cgroupdriver option {value} is not supported")
    _check_addresses(options)
    if options.text("firewall-backend") not in FIREWALLS:
        raise InvalidParameter(f'invalid firewall-backend "{options.text("firewall-backend")}"')
    if options.text("default-ipc-mode") not in ("private", "shareable"):
        raise InvalidParameter(
            f"IPC mode {options.text('default-ipc-mode')!r} is not supported as default value"
        )


def _refuse_unsupported(options: Options) -> None:
    """What protects somebody is never passed over in silence."""
    for key, asked in (
        ("authorization-plugins", bool(options.words("authorization-plugins"))),
        ("userns-remap", bool(options.text("userns-remap"))),
        ("rootless", options.flag("rootless")),
        ("cpu-rt-period", options.number("cpu-rt-period") != 0),
        ("cpu-rt-runtime", options.number("cpu-rt-runtime") != 0),
    ):
        if asked:
            raise InvalidParameter(f"{key} is not supported yet")


def _check_addresses(options: Options) -> None:
    """Texts that are to be addresses and networks."""
    for key in ("bip", "bip6", "fixed-cidr", "fixed-cidr-v6"):
        text = options.text(key)
        try:
            if text:
                ipaddress.ip_interface(text)
        except ValueError:
            raise InvalidParameter(f"--{key}: invalid CIDR address: {text}")
        if text and "/" not in text:
            raise InvalidParameter(f"--{key}: invalid CIDR address: {text}")
    single = [(key, options.text(key)) for key in ("default-gateway", "default-gateway-v6", "ip")]
    several = [
        (BY_KEY[key].flag, text)
        for key in ("dns", "host-gateway-ips")
        for text in options.words(key)
    ]
    for key, text in (*single, *several):
        try:
            if text:
                ipaddress.ip_address(text)
        except ValueError:
            raise InvalidParameter(f"--{key}: {text} is not an ip address")
    for pool in options.items("default-address-pools"):
        try:
            if not isinstance(pool, dict):
                raise ValueError
            base = ipaddress.ip_network(str(pool.get("base")), strict=False)
            size = pool.get("size")
            if not isinstance(size, int) or not base.prefixlen <= size <= base.max_prefixlen:
                raise ValueError
        except ValueError:
            raise InvalidParameter(f"invalid default address pool: {_shown_pool(pool)}")


def _shown_pool(pool: object) -> str:
    if isinstance(pool, dict):
        return f"base={pool.get('base')},size={pool.get('size')}"
    return str(pool)


def usage() -> str:
    """The text of --help."""
    lines = [
        "Usage:  gantryd [OPTIONS]",
        "",
        "The engine: containers, images, networks and volumes behind Docker's Engine API.",
        "",
        "Example:  gantryd -H unix:///run/x.sock --data-root /srv/x --exec-root /run/x -p /x",
        "",
        "Options:",
        _line("", "config-file", "text", f'Configuration file (default "{CONFIG_FILE}")'),
    ]
    for option in OPTIONS:
        if option.flag:
            shown = option.help
            if option.default not in (None, "", False, 0):
                shown += f" (default {_shown(option.default or '')})"
            lines.append(_line(option.short, option.flag, option.kind, shown))
    lines.append(_line("", "validate", "flag", "Check the configuration and exit"))
    lines.append(_line("v", "version", "flag", "Print the version and exit"))
    return "\n".join(lines) + "\n"


def _line(short: str, flag: str, kind: str, text: str) -> str:
    words = {"text": " string", "number": " int", "size": " bytes", "list": " list", "map": " map"}
    head = f"  {'-' + short + ', ' if short else '    '}--{flag}{words.get(kind, '')}"
    wrapped = textwrap.wrap(text, 60)
    return f"{head:<38} {wrapped[0]}" + "".join(f"\n{'':<39}{more}" for more in wrapped[1:])
