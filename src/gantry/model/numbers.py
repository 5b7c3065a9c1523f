"""Numbers as strangers write them."""

from __future__ import annotations

from typing import Final

BEYOND: Final = 1 << 64
"""Larger than any number that is meant."""
LAST: Final = (1 << 63) - 1
_DIGITS: Final = 20


def clamped(text: str) -> int:
    """int(text) of decimal digits with at most a sign; BEYOND (or -BEYOND) when 64 bits do not
    hold it, however long it is: the interpreter raises an error of its own at some length."""
    if len(text) <= _DIGITS:
        return int(text)
    digits = text.lstrip("+-").lstrip("0") or "0"
    value = BEYOND if len(digits) > _DIGITS else min(int(digits), BEYOND)
    return -value if text.startswith("-") else value


def nanoseconds(seconds: str, fraction: str = "") -> int:
    """A time since the epoch, of whole seconds and the digits behind the point; what 64 bits do
    not hold is their end (the year 2262)."""
    value = clamped(seconds) * 1_000_000_000 + int((fraction + "0" * 9)[:9])
    return max(-LAST, min(value, LAST))


def whole(value: float) -> int:
    """The integer part; of infinity, BEYOND."""
    return int(max(-float(BEYOND), min(value, float(BEYOND))))
