"""Times as Docker writes them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Final

from gantry.model import numbers
from gantry.model.errors import InvalidParameter
from gantry.model.numbers import whole

NEVER: Final = "0001-01-01T00:00:00Z"
"""Go's zero time."""

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_STAMP: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?)?"
    r"(Z|[+-]\d\d:?\d\d)?"
)


def rfc3339(ns: int) -> str:
    """Nanoseconds since the epoch as Go's RFC3339Nano in UTC; 0 is `NEVER`."""
    if ns == 0:
        return NEVER
    seconds, rest = divmod(ns, 1_000_000_000)
    moment = time.gmtime(seconds)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", moment)
    return f"{text}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


def parse_duration(text: str) -> float:
    """Go's duration ("1h30m", "1.5s", "0") in seconds. ValueError."""
    negative = text.startswith("-")
    body = text.lstrip("+-")
    if body == "0":
        return 0.0
    total, at = 0.0, 0
    while at < len(body):
        match = _DURATION.match(body, at)
        if match is None:
            break
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if at == 0 or at != len(body):
        raise ValueError(f"invalid duration {text!r}")
    return -total if negative else total


def parse_moment(text: str, now_ns: int | None = None) -> int:
    """A point in time as Docker's clients and filters give it, in nanoseconds since the epoch.

    "1700000000.5" (seconds), RFC 3339 with parts missing, or a Go duration before now.
    InvalidParameter with the text.
    """
    if re.fullmatch(r"-?\d+(\.\d{1,9})?", text):
        seconds, _, fraction = text.partition(".")
        return numbers.nanoseconds(seconds, fraction)
    match = _STAMP.fullmatch(text)
    if match is not None:
        year, month, day, hour, minute, second, fraction, zone = match.groups()
        try:
            moment = datetime(
                int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0)
            )
            if zone is None:
                moment = moment.astimezone()
            elif zone == "Z":
                moment = moment.replace(tzinfo=UTC)
            else:
                zoned = f"{moment.isoformat()}{zone[:3]}:{zone[-2:]}"
                moment = datetime.fromisoformat(zoned)
        except ValueError as error:
            raise InvalidParameter(f'parsing time "{text}": {error}') from None
        nanoseconds = int((fraction or "0").ljust(9, "0"))
        return int(moment.timestamp()) * 1_000_000_000 + nanoseconds
    try:
        span = parse_duration(text)
    except ValueError:
        raise InvalidParameter(
            f'failed to parse value as time or duration: invalid seconds "{text}": invalid syntax'
        ) from None
    return (time.time_ns() if now_ns is None else now_ns) - whole(span * 1e9)


def human(seconds: float) -> str:
    """A span as `docker ps` words it (go-units HumanDuration)."""
    full = int(seconds)
    minutes, hours = int(seconds / 60), round(seconds / 3600)
    if full < 1:
        text = "Less than a second"
    elif full == 1:
        text = "1 second"
    elif full < 60:
        text = f"{full} seconds"
    elif minutes == 1:
        text = "About a minute"
    elif minutes < 60:
        text = f"{minutes} minutes"
    elif hours == 1:
        text = "About an hour"
    elif hours < 48:
        text = f"{hours} hours"
    elif hours < 24 * 7 * 2:
        text = f"{hours // 24} days"
    elif hours < 24 * 30 * 2:
        text = f"{hours // 24 // 7} weeks"
    elif hours < 24 * 365 * 2:
        text = f"{hours // 24 // 30} months"
    else:
        text = f"{int(seconds / 3600) // 24 // 365} years"
    return text
