"""What CRIU is told, as bytes (protocol buffers), and what it answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.runtime import criu


@given(st.dictionaries(st.integers(1, 200), st.integers(0, 2**64 - 1) | st.binary(max_size=300)))
def test_what_is_written_can_be_read(fields: dict[int, int | bytes]) -> None:
    assert criu.decode(criu.encode(list(fields.items()))) == fields


def test_the_bytes_of_the_format() -> None:
    """protobuf.dev/programming-guides/encoding: 150 in field 1, "testing" in field 2."""
    assert criu.encode([(1, 150), (2, "testing")]) == bytes.fromhex("08960112") + b"\x07testing"
    assert criu.encode([(1, -1)]) == b"\x08" + b"\xff" * 9 + b"\x01"
    assert criu.encode([(3, ["a", b"b"]), (4, True)]) == b"\x1a\x01a\x1a\x01b\x20\x01"


def test_other_kinds_of_fields_are_passed_over() -> None:
    assert criu.decode(b"\x0d1234\x11" + bytes(8) + b"\x18\x05") == {3: 5}


@pytest.mark.parametrize("data", [b"\x08", b"\x08\x80", b"\xff"])
def test_half_a_message(data: bytes) -> None:
    with pytest.raises(ValueError):
        criu.decode(data)
