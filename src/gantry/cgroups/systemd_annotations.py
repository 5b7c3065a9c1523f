"""`org.systemd.property.NAME` annotations: any property of the unit, in GVariant's text form.

As crun and runc: "TimeoutStopUSec": "uint64 9000000", "CollectMode": "'inactive-or-failed'".
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Final

from gantry.cgroups.dbus import Value, Variant
from gantry.cgroups.systemd_manager import Property

PREFIX: Final = "org.systemd.property."
_WORDS: Final = {
    "byte": "y", "boolean": "b", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u",
    "int64": "x", "uint64": "t", "double": "d", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?))"
    r"|(?P<type>@[a-z()]+)|(?P<word>[a-z]+\d*)|(?P<mark>[\[\](),]))"
)
_NUMBERS: Final = "ynqiuxtd"


def properties(annotations: Mapping[str, str]) -> tuple[Property, ...]:
    """The properties that a specification's annotations set. OSError EINVAL: unreadable."""
    found: list[Property] = []
    for key, text in annotations.items():
        name = key.removeprefix(PREFIX)
        if name == key:
            continue
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            problem = "too short" if len(name) < 3 else "contains non-alphabetic character"
            raise OSError(errno.EINVAL, f"annotation {key} name incorrect: {problem}")
        try:
            value = parse(text)
            if re.search("[a-z]Sec$", name):
                name, value = f"{name[:-3]}USec", _microseconds(value)
        except ValueError as error:
            raise OSError(errno.EINVAL, f"annotation {key}={text} value parse error: {error}")
        found.append((name, value))
    return tuple(found)


def _microseconds(value: Variant) -> Variant:
    """systemd's documents say "Sec", its bus wants microseconds."""
    if value.signature not in _NUMBERS:
        raise ValueError("not a number")
    assert isinstance(value.value, int | float)
    return Variant("t", int(value.value * 1_000_000))


def parse(text: str) -> Variant:
    """A value in GVariant's text form: numbers, strings, booleans, arrays, tuples; with
    "uint64" or "@t" before one that is not an int32. ValueError: it is none."""
    tokens = _tokens(text)
    value = _value(tokens, "")
    if tokens:
        raise ValueError(f"unexpected {tokens[0][1]!r}")
    return value


def _tokens(text: str) -> list[tuple[str, str]]:
    found = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"unexpected {text[at:]!r}")
        found.append((match.lastgroup, match.group(match.lastgroup)))
        at = match.end()
    return found


def _value(tokens: list[tuple[str, str]], wanted: str) -> Variant:
    """Take one value off the tokens; `wanted`: the type it has to have, "" for its own."""
    if not tokens:
        raise ValueError("a value is missing")
    kind, token = tokens.pop(0)
    if kind == "type":
        return _value(tokens, token[1:])
    if kind == "word":
        if token in ("true", "false"):
            return _typed(wanted or "b", "b", token == "true")
        if token not in _WORDS:
            raise ValueError(f"unknown word {token!r}")
        return _value(tokens, _WORDS[token])
    if kind == "text":
        return _typed(wanted or "s", "sog", re.sub(r"\\(.)", r"\1", token[1:-1]))
    if kind == "number":
        return _number(token, wanted)
    if token == "[":
        return _array(tokens, wanted)
    if token == "(":
        return _tuple(tokens, wanted)
    raise ValueError(f"unexpected {token!r}")


def _typed(wanted: str, allowed: str, value: Value) -> Variant:
    if wanted not in allowed:
        raise ValueError(f"not of type {wanted!r}")
    return Variant(wanted, value)


def _number(token: str, wanted: str) -> Variant:
    number: int | float
    try:
        number = int(token, 0)
    except ValueError:
        number = float(token) if "." in token or "e" in token.lower() else int(token, 8)
    default = "d" if isinstance(number, float) else "i"
    if isinstance(number, float) and (wanted or "d") != "d":
        raise ValueError(f"{token} is not a whole number")
    return _typed(wanted or default, _NUMBERS, float(number) if wanted == "d" else number)


def _items(tokens: list[tuple[str, str]], end: str, wanted: list[str]) -> list[Variant]:
    """Values up to the closing mark; the n-th has the n-th type wanted (the last for the rest)."""
    found: list[Variant] = []
    while tokens and tokens[0][1] != end:
        found.append(_value(tokens, wanted[min(len(found), len(wanted) - 1)] if wanted else ""))
        if tokens and tokens[0] == ("mark", ","):
            tokens.pop(0)
        elif not tokens or tokens[0] != ("mark", end):
            break
    if not tokens or tokens.pop(0) != ("mark", end):
        raise ValueError(f"{end!r} is missing")
    return found


def _array(tokens: list[tuple[str, str]], wanted: str) -> Variant:
    if wanted and not wanted.startswith("a"):
        raise ValueError(f"not of type {wanted!r}")
    items = _items(tokens, "]", [wanted[1:]] if wanted else [])
    kinds = {item.signature for item in items} or ({wanted[1:]} if wanted else set())
    if len(kinds) != 1:
        raise ValueError("an array needs items of one type")
    return Variant("a" + kinds.pop(), [item.value for item in items])


def _tuple(tokens: list[tuple[str, str]], wanted: str) -> Variant:
    from gantry.cgroups.dbus import split

    items = _items(tokens, ")", split(wanted[1:-1]) if wanted else [])
    signature = f"({''.join(item.signature for item in items)})"
    if wanted and wanted != signature:
        raise ValueError(f"not of type {wanted!r}")
    return Variant(signature, [item.value for item in items])
