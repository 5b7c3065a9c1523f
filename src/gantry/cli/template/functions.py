"""What templates can call: Go's own functions and the ones Docker adds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote_plus

Function = Callable[..., object]


class Error(Exception):
    """A function refused its arguments; the message is Go's."""


def show(value: object) -> str:
    """A value as Go's fmt prints it with %v."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
    if isinstance(value, Mapping):
        inner = " ".join(f"{show(key)}:{show(value[key])}" for key in sorted(value, key=str))
        return f"map[{inner}]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(show(item) for item in value) + "]"
    return str(value)


def truth(value: object) -> bool:
    """Go's truth: the zero value of any type is false."""
    return bool(value)


def as_json(value: object) -> str:
    """Compact JSON with sorted keys for rows; `to_json` of an object is asked first."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    convert = getattr(value, "to_json", None)
    if convert is None:
        return str(value)
    return convert()


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
            if value is None:
                return None
        elif isinstance(value, Sequence):
            if not isinstance(key, int):
                raise Error(f"error calling index: cannot index slice/array with type {kind(key)}")
            if not 0 <= key < len(value):
                raise Error(f"error calling index: index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        elif value is None:
            raise Error("error calling index: index of untyped nil")
        else:
            raise Error(f"error calling index: can't index item of type {kind(value)}")
    return value


def kind(value: object) -> str:
    """Go's name for the type."""
    names = {bool: "bool", int: "int", str: "string", float: "float64"}
    return names.get(type(value), "map" if isinstance(value, Mapping) else "slice")


def _slice(value: object, start: int = 0, end: int | None = None, _: int | None = None) -> object:
    if not isinstance(value, str | list | tuple):
        raise Error(f"error calling slice: can't slice item of type {kind(value)}")
    stop = len(value) if end is None else end
    if not 0 <= start <= stop <= len(value):
        raise Error(f"error calling slice: index out of range: {stop}")
    return value[start:stop]


def _len(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping | list | tuple):
        return len(value)
    if value is None:
        raise Error("error calling len: len of nil pointer")
    raise Error(f"error calling len: len of type {kind(value)}")


def _equal(first: object, *others: object) -> bool:
    if not others:
        raise Error("error calling eq: missing argument for comparison")
    for other in others:
        numbers = isinstance(first, int | float) and isinstance(other, int | float)
        same_kind = numbers or kind(first) == kind(other) or None in (first, other)
        if not same_kind:
            raise Error("error calling eq: incompatible types for comparison")
    return any(first == other for other in others)


def _less(first: object, second: object) -> bool:
    if isinstance(first, str) and isinstance(second, str):
        return first < second
    if isinstance(first, int | float) and isinstance(second, int | float):
        return first < second
    raise Error("error calling lt: incompatible types for comparison")


def _join(value: object, separator: str) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return separator.join(sorted(show(item) for item in value.values()))
    if isinstance(value, list | tuple):
        return separator.join(show(item) for item in value)
    raise Error(f"error calling join: expected slice, got {kind(value)}")


def _printf(template: str, *values: object) -> str:
    """%v %s %d %q %t %x %f %c %% with flags and widths."""
    out: list[str] = []
    rest, position = list(values), 0
    while position < len(template):
        if template[position] != "%":
            end = template.find("%", position)
            end = len(template) if end < 0 else end
            out.append(template[position:end])
            position = end
            continue
        end = position + 1
        while end < len(template) and template[end] in "+-# 0123456789.":
            end += 1
        verb = template[end : end + 1]
        flags = template[position + 1 : end]
        position = end + 1
        if verb == "%":
            out.append("%")
        elif not verb:
            out.append("%!(NOVERB)")
        elif not rest:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_verb(verb, flags, rest.pop(0)))
    return "".join(out)


def _verb(verb: str, flags: str, value: object) -> str:
    try:
        if verb in "vs":
            return f"%{flags}s" % show(value)
        if verb == "q":
            return f"%{flags}s" % quoted(show(value))
        if verb == "t":
            return f"%{flags}s" % show(value)
        if verb in "dxXocfeg":
            return f"%{flags}{verb}" % value
    except (TypeError, ValueError):
        pass
    return f"%!{verb}({kind(value)}={show(value)})"


def quoted(text: str) -> str:
    """Go's strconv.Quote."""
    out = []
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif character in "\n\t\r":
            out.append({"\n": "\\n", "\t": "\\t", "\r": "\\r"}[character])
        elif character.isprintable():
            out.append(character)
        elif ord(character) < 0x100:
            out.append(f"\\x{ord(character):02x}")
        else:
            out.append(f"\\u{ord(character):04x}")
    return '"' + "".join(out) + '"'


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _html(value: object) -> str:
    from html import escape

    return escape(show(value)).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


BASIC: Mapping[str, Function] = {
    "not": lambda value: not truth(value),
    "index": _index,
    "slice": _slice,
    "len": _len,
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),
    "lt": _less,
    "le": lambda first, second: first == second or _less(first, second),
    "gt": lambda first, second: not (first == second or _less(first, second)),
    "ge": lambda first, second: not _less(first, second),
    "print": lambda *values: "".join(show(value) for value in values),
    "println": lambda *values: " ".join(show(value) for value in values) + "\n",
    "printf": _printf,
    "html": _html,
    "urlquery": lambda value: quote_plus(show(value)),
    "json": as_json,
    "split": lambda text, separator: text.split(separator) if separator else list(text),
    "join": _join,
    "title": lambda text: " ".join(word[:1].upper() + word[1:] for word in text.split(" ")),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "pad": _pad,
    "truncate": lambda text, length: text[:length],
}

HEADER: Mapping[str, Function] = {
    **BASIC,
    "json": show,
    "split": lambda text, _: text,
    "join": lambda text, _: text,
    "title": show,
    "lower": show,
    "upper": show,
    "truncate": lambda text, _: text,
}
"""For the header line of a table: what would change a column's name leaves it alone."""

LAZY = frozenset({"and", "or"})
"""Evaluated argument by argument, until the result is known."""

NAMES = frozenset(BASIC) | LAZY
