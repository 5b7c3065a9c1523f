"""Wait for a condition of the world outside, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    probe: Callable[[], T], what: str = "", timeout: float = 20.0, interval: float = 0.02
) -> T:
    """Call `probe` until its value is true and return that; AssertionError after `timeout`.

    A probe may raise AssertionError or OSError for "not yet".
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            value = probe()
            if value:
                return value
            last = value
        except (AssertionError, OSError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or probe}; last: {last!r}")
        time.sleep(interval)
