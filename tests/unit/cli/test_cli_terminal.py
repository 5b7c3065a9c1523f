"""Detach keys: what ends a session and what is just typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.cli.terminal import EscapeFilter, detach_keys
from gantry.model.errors import GantryError


def test_names_of_keys() -> None:
    assert detach_keys("") == b"\x10\x11"
    assert detach_keys("ctrl-a,x,ctrl-@,ctrl-[") == b"\x01x\x00\x1b"


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-ab", "xy", "ctrl-é", ","])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(GantryError, match=r"invalid detach keys"):
        detach_keys(text)


def test_the_sequence_ends_it() -> None:
    escape = EscapeFilter(b"\x10\x11")
    assert escape.feed(b"ls\n\x10\x11rest") == (b"ls\n", True)


def test_the_sequence_in_two_reads() -> None:
    escape = EscapeFilter(b"\x10\x11")
    assert escape.feed(b"a\x10") == (b"a", False)
    assert escape.feed(b"\x11") == (b"", True)


def test_half_a_sequence_is_input() -> None:
    escape = EscapeFilter(b"\x10\x11")
    assert escape.feed(b"\x10") == (b"", False)
    assert escape.feed(b"x") == (b"\x10x", False)
    assert escape.feed(b"\x10\x10\x11") == (b"\x10", True)


def test_one_key() -> None:
    assert EscapeFilter(b"q").feed(b"abqc") == (b"ab", True)


@given(st.lists(st.sampled_from([b"\x10", b"\x11", b"a"]), max_size=30))
def test_only_the_sequence_is_taken_away(keys: list[bytes]) -> None:
    typed = b"".join(keys)
    escape = EscapeFilter(b"\x10\x11")
    out, detached = bytearray(), False
    for key in keys:
        passed, detached = escape.feed(key)
        out += passed
        if detached:
            break
    before, found, _ = typed.partition(b"\x10\x11")
    assert detached == bool(found)
    held = b"\x10" if not found and typed.endswith(b"\x10") else b""
    assert bytes(out) + held == before
