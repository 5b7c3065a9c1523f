"""Times on a command line: durations back from now, dates, seconds since 1970."""

from __future__ import annotations

import time

from gantry.cli.units import parse_duration
from gantry.model.errors import GantryError


def timestamp(text: str, now: float | None = None) -> str:
    """What the API takes: seconds since 1970, perhaps with a fraction.

    Sources: Docker's timetypes.GetTimestamp (Go durations, RFC 3339 with parts left out,
    in the local zone where none is given).
    """
    try:
        nanoseconds = parse_duration(text)
    except ValueError:
        pass
    else:
        moment = time.time_ns() if now is None else int(now * 1_000_000_000)
        seconds, rest = divmod(moment - nanoseconds, 1_000_000_000)
        return f"{seconds}.{rest:09d}"
    if text.replace(".", "", 1).lstrip("-").isdigit() and not text.startswith("."):
        return text
    from datetime import datetime

    try:
        moment_ = datetime.fromisoformat(text)
    except ValueError as error:
        raise GantryError(f'invalid value for "since": failed to parse time {text!r}') from error
    return f"{moment_.timestamp():.6f}"


def when(text: str) -> str:
    """`timestamp`, or nothing for nothing."""
    return timestamp(text) if text else ""
