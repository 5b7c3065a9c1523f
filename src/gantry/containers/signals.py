"""Signals by name and number (moby/sys/signal)."""

from __future__ import annotations

import re
import signal
from typing import Final

from gantry.model.errors import InvalidParameter
from gantry.model.numbers import clamped

_NUMBER: Final = re.compile(r"[+-]?\d+", re.ASCII)
_NAMES: Final = {
    **{item.name.removeprefix("SIG"): int(item) for item in signal.Signals},
    "CLD": int(signal.SIGCHLD),
    "IOT": int(signal.SIGABRT),
    "POLL": int(signal.SIGIO),
    "STKFLT": 16,
    **{f"RTMIN+{n}": 34 + n for n in range(1, 16)},
    **{f"RTMAX-{n}": 64 - n for n in range(1, 15)},
    "RTMIN": 34,
    "RTMAX": 64,
}


def parse_signal(text: str) -> int:
    """A number or a name with or without SIG. InvalidParameter `invalid signal: x`."""
    if _NUMBER.fullmatch(text):
        number = clamped(text)
        if number == 0:
            raise InvalidParameter(f"invalid signal: {text}")
        if 1 <= number <= 64:
            return number
        raise InvalidParameter(f"the linux daemon does not support signal {number}")
    found = _NAMES.get(text.upper().removeprefix("SIG"))
    if found is None:
        raise InvalidParameter(f"invalid signal: {text}")
    return found
