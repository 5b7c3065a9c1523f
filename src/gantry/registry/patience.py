"""Coming again as often and as late as a registry's Retry-After (RFC 9110 §10.2.3) says."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

_log = logging.getLogger(__name__)

WAIT: Final = 60.0
"""Seconds that one request waits at most, in all its tries."""
_TRIES: Final = 5
_LATER: Final = frozenset({429, 503})


class Patience:
    """For the tries of one request."""

    def __init__(self, limit: float) -> None:
        """limit: seconds of waiting in all."""
        self._left = limit
        self._tries = _TRIES

    def before_another(self, status: int, headers: Mapping[str, str]) -> float | None:
        """Seconds to wait before the next try; None when this answer is the last word."""
        wait = _retry_after(headers.get("Retry-After", ""))
        if status not in _LATER or wait is None or wait > self._left or not self._tries:
            return None
        self._tries -= 1
        self._left -= wait
        _log.info("the registry answered %d: asking again in %.0f seconds", status, wait)
        return wait


def _retry_after(text: str) -> float | None:
    """Seconds, from a number of them or a date."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    if not text:
        return None
    from email.utils import parsedate_to_datetime  # much to load, for once in a long while

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
