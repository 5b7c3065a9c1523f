"""Streams of JSON objects, however they are cut and separated."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.client.errors import ProtocolError
from gantry.client.messages import messages

OBJECTS = st.lists(
    st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=3), max_size=6
)


@pytest.mark.parametrize(
    "data",
    [
        [b'{"a":1}\n{"b":2}\n'],
        [b'{"a":1}{"b":2}'],
        [b'\x1e{"a":1}\n\x1e{"b":2}\n'],
        [b'{"a"', b":1}\r\n", b'{"b":2}'],
    ],
)
def test_separators(data: list[bytes]) -> None:
    assert list(messages(data)) == [{"a": 1}, {"b": 2}]


def test_an_object_without_newline_is_not_held_back() -> None:
    pieces = iter([b'{"a":1}', b'{"b":2}'])
    stream = messages(pieces)
    assert next(stream) == {"a": 1}
    assert next(pieces) == b'{"b":2}'  # not read yet


def test_nonsense_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        list(messages([b"<html>\n"]))


@given(OBJECTS, st.integers(1, 7))
def test_cutting_does_not_matter(objects: list[dict[str, str]], size: int) -> None:
    data = b"".join(json.dumps(item).encode() + b"\r\n" for item in objects)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert list(messages(pieces)) == objects
