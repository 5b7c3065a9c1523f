"""Sizes and durations, read and written as Docker reads and writes them (go-units)."""

from __future__ import annotations

import time
from decimal import Decimal, InvalidOperation

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_SUFFIX = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def parse_bytes(text: str) -> int:
    """`512m`, `1.5g`, `64`: binary multiples, whatever the unit's spelling."""
    number = text.strip()
    lowered = number.lower()
    for ending in ("ib", "b"):
        if lowered.endswith(ending) and lowered[: -len(ending)]:
            lowered = lowered[: -len(ending)]
            break
    power = _SUFFIX.get(lowered[-1:], 0)
    digits = lowered[:-1] if power else lowered
    try:
        value = float(digits.rstrip(" ") if power else digits)
    except ValueError:
        raise ValueError(f"invalid size: '{text}'") from None
    if not 0 <= value < float("inf"):
        raise ValueError(f"invalid size: '{text}'")
    return int(value * 1024**power)


def parse_decimal(text: str) -> int:
    """`1.5` CPUs as billionths."""
    try:
        value = Decimal(text)
        if not value.is_finite():
            raise InvalidOperation
    except InvalidOperation:
        raise ValueError(f"failed to parse {text} as a rational number") from None
    nano = value * 1_000_000_000
    if nano != nano.to_integral_value():
        raise ValueError("value is too precise")
    return int(nano)


def parse_duration(text: str) -> int:
    """Go's `1h30m`, `500ms`, as nanoseconds."""
    rest, sign, total = text, 1, Decimal(0)
    if rest[:1] in ("-", "+"):
        sign, rest = -1 if rest[0] == "-" else 1, rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    while rest:
        end = 0
        while end < len(rest) and (rest[end].isdigit() or rest[end] == "."):
            end += 1
        stop = end
        while stop < len(rest) and not (rest[stop].isdigit() or rest[stop] == "."):
            stop += 1
        number, unit = rest[:end], rest[end:stop]
        if number in ("", "."):
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _NANOSECONDS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        try:
            total += Decimal(number) * _NANOSECONDS[unit]
        except InvalidOperation:
            raise ValueError(f'time: invalid duration "{text}"') from None
        rest = rest[stop:]
    return sign * int(total)


def human_size(size: float, digits: int = 4) -> str:
    """Decimal units, `digits` significant: 4.85MB."""
    return _scaled(size, 1000.0, _DECIMAL, digits)


def binary_size(size: float) -> str:
    """Binary units: 7.656GiB."""
    return _scaled(size, 1024.0, _BINARY, 4)


def _scaled(size: float, base: float, names: tuple[str, ...], digits: int) -> str:
    step = 0
    while size >= base and step < len(names) - 1:
        size /= base
        step += 1
    return f"{size:.{digits}g}{names[step]}"


def human_duration(seconds: float) -> str:
    """How long ago, in words: `About an hour`, `3 weeks`."""
    whole = int(seconds)
    minutes, hours = int(seconds / 60), int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def ago(created: float, now: float | None = None) -> str:
    return human_duration((time.time() if now is None else now) - created) + " ago"


def local_time(created: float) -> str:
    """Go's Time.String(): `2026-01-02 15:04:05 +0000 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created))


def parse_time(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; 0.0 for Go's zero time or nonsense."""
    from datetime import datetime

    if not text or text.startswith("0001-01-01"):
        return 0.0
    head, dot, fraction = text.partition(".")
    if dot:
        digits = ""
        while fraction and fraction[0].isdigit():
            digits, fraction = digits + fraction[0], fraction[1:]
        text = f"{head}.{digits[:6].ljust(6, '0')}{fraction}"
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def rfc3339(created: float) -> str:
    """`2026-01-02T15:04:05Z`, or with the local offset."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(created))
    return text[:-5] + "Z" if text.endswith("+0000") else f"{text[:-2]}:{text[-2:]}"
