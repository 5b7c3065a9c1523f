"""Messages of CRIU and containerd as bytes (protocol buffers), and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.ipc.protobuf import Fields, encode, pair


@given(st.dictionaries(st.integers(1, 200), st.integers(0, 2**64 - 1) | st.binary(max_size=300)))
def test_what_is_written_can_be_read(fields: dict[int, int | bytes]) -> None:
    read = Fields(encode(list(fields.items())))
    for number, value in fields.items():
        assert value == (read.number(number) if isinstance(value, int) else read.data(number))


def test_the_bytes_of_the_format() -> None:
    """protobuf.dev/programming-guides/encoding: 150 in field 1, "testing" in field 2."""
    assert encode([(1, 150), (2, "testing")]) == bytes.fromhex("08960112") + b"\x07testing"
    assert encode([(1, -1)]) == b"\x08" + b"\xff" * 9 + b"\x01"
    assert encode([(3, ["a", b"b"]), (4, True)]) == b"\x1a\x01a\x1a\x01b\x20\x01"


def test_what_is_not_there_is_nothing() -> None:
    empty = Fields(b"")
    assert (empty.number(1), empty.text(1), empty.messages(1), empty.numbers(1)) == (0, "", [], [])
    assert empty.message(1).message(2).number(3) == 0


def test_repeated_fields() -> None:
    read = Fields(encode([(1, [encode([(2, 3)]), b""]), (5, [pair("a", "1"), pair("b", "2")])]))
    assert [one.number(2) for one in read.messages(1)] == [3, 0]
    assert read.mapping(5) == {"a": "1", "b": "2"}
    assert Fields(encode([(3, ["x", "y"])])).texts(3) == ["x", "y"]
    packed = Fields(encode([(4, b"\x03\x8e\x02")]) + encode([(4, 7)]))
    assert packed.numbers(4) == [3, 270, 7]


def test_other_kinds_of_fields_are_passed_over() -> None:
    read = Fields(b"\x0d1234\x11" + bytes(8) + b"\x18\x05")
    assert (read.number(1), read.number(2), read.number(3)) == (0, 0, 5)


def test_a_field_of_another_kind() -> None:
    with pytest.raises(ValueError, match="field 1 is no text"):
        Fields(b"\x08\x05").text(1)
    with pytest.raises(ValueError, match="field 1 is no number"):
        Fields(b"\x0a\x01x").number(1)


@pytest.mark.parametrize("data", [b"\x08", b"\x08\x80", b"\xff", b"\x0a\x05ab", b"\x0b"])
def test_no_message(data: bytes) -> None:
    with pytest.raises(ValueError):
        Fields(data)
