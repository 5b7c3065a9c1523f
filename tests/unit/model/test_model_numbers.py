"""Numbers of any length."""

from __future__ import annotations

import math

import pytest

from gantry.model.numbers import BEYOND, LAST, clamped, nanoseconds, whole


@pytest.mark.parametrize("text", ["0", "-7", "+7", "00042", "9223372036854775807"])
def test_usual_ones_are_themselves(text: str) -> None:
    assert clamped(text) == int(text)


def test_long_ones_are_beyond() -> None:
    assert clamped("9" * 5000) == BEYOND
    assert clamped("-" + "9" * 5000) == -BEYOND
    assert clamped("0" * 5000 + "5") == 5
    assert clamped("9" * 20) == int("9" * 20)


def test_whole() -> None:
    assert (whole(2.9), whole(-2.9)) == (2, -2)
    assert (whole(math.inf), whole(-math.inf)) == (BEYOND, -BEYOND)


def test_nanoseconds() -> None:
    assert nanoseconds("1700000000", "5") == 1_700_000_000_500_000_000
    assert nanoseconds("1", "0000000019999") == 1_000_000_001
    assert nanoseconds("9" * 5000) == LAST
    assert nanoseconds("-" + "9" * 5000) == -LAST
