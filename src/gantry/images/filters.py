"""Filters of image lists and prunes, with Docker's errors (moby `daemon/internal/filters`)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from gantry.model import numbers
from gantry.model.errors import InvalidParameter
from gantry.model.numbers import whole
from gantry.oci.image import parse_time

Filters = Mapping[str, Sequence[str]]

_TRUE: Final = ("1", "true")
_FALSE: Final = ("0", "false")


def validate(filters: Filters, accepted: frozenset[str]) -> None:
    for name in filters:
        if name not in accepted:
            raise InvalidParameter(f"invalid filter '{name}'")


def flag(filters: Filters, name: str, default: bool) -> bool:
    values = filters.get(name) or ()
    if not values:
        return default
    yes = any(value in _TRUE for value in values)
    no = any(value in _FALSE for value in values)
    if yes == no:
        raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
    return yes


def match_labels(patterns: Sequence[str], labels: Mapping[str, str]) -> bool:
    """Whether all of `key` or `key=value` hold."""
    for pattern in patterns:
        key, equals, value = pattern.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS: Final = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}


def until(text: str) -> int:
    """An `until` filter as ns since the epoch: Go duration before now, RFC 3339 (perhaps cut
    short, then local time as UTC), or seconds. InvalidParameter."""
    try:
        return _moment(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid value for 'until' filter: {error}") from None


def _moment(text: str) -> int:
    if text and (parts := _DURATION.findall(text)) and "".join(a + b for a, b in parts) == text:
        units = {**_UNITS, "h": 3600 * 10**9}
        return time.time_ns() - whole(sum(float(n) * units[unit] for n, unit in parts))
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds, _, fraction = text.partition(".")
        return numbers.nanoseconds(seconds, fraction)
    for suffix in ("", "Z", ":00Z", ":00:00Z", "T00:00:00Z"):
        parsed = parse_time(text + suffix)
        if parsed is not None:
            return parsed
    if not text.strip():
        raise InvalidParameter("failed to parse value as time or duration: value is empty")
    if "-" not in text:
        raise InvalidParameter(
            f'failed to parse value as time or duration: invalid seconds "{text}": invalid syntax'
        )
    raise InvalidParameter(
        f'parsing time "{text}" as "2006-01-02": cannot parse "{text}" as "2006"'
    )


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    """Go's path.Match: `*` and `?` stop at slashes, `[...]` classes, `\\` quotes."""
    out: list[str] = []
    i = 0
    while i < len(pattern):
        c = pattern[i]
        i += 1
        if c == "*":
            out.append("[^/]*")
        elif c == "?":
            out.append("[^/]")
        elif c == "[":
            end = pattern.find("]", i + 1)
            if end < 0:
                raise InvalidParameter("syntax error in pattern")
            body = pattern[i:end].replace("\\", "\\\\")
            out.append(f"[{body}]")
            i = end + 1
        elif c == "\\":
            if i >= len(pattern):
                raise InvalidParameter("syntax error in pattern")
            out.append(re.escape(pattern[i]))
            i += 1
        else:
            out.append(re.escape(c))
    try:
        return re.compile("".join(out))
    except re.error:
        raise InvalidParameter("syntax error in pattern")


def path_match(pattern: str, text: str) -> bool:
    return _pattern(pattern).fullmatch(text) is not None


__all__ = ["Filters", "flag", "match_labels", "path_match", "until", "validate"]
