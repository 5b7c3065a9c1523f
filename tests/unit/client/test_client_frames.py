"""The multiplexed stream: any cutting of the bytes gives the same payloads."""

from __future__ import annotations

import itertools
import struct
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.client.errors import ProtocolError
from gantry.client.frames import STDERR, STDOUT, Demultiplexer


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def test_neighbours_of_one_stream_are_joined() -> None:
    data = frame(STDOUT, b"a\n") + frame(STDOUT, b"b\n") + frame(STDERR, b"c") + frame(STDOUT, b"d")
    assert Demultiplexer().feed(data) == [(STDOUT, b"a\nb\n"), (STDERR, b"c"), (STDOUT, b"d")]


def test_a_payload_is_given_out_as_it_comes() -> None:
    demultiplexer = Demultiplexer()
    whole = frame(STDOUT, b"x" * 100)
    assert demultiplexer.feed(whole[:50]) == [(STDOUT, b"x" * 42)]
    assert demultiplexer.feed(whole[50:]) == [(STDOUT, b"x" * 58)]


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Demultiplexer().feed(b"HTTP/1.1 200 OK\r\n")


@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)), max_size=12),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_cutting_does_not_matter(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in frames)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    expected: dict[int, bytes] = defaultdict(bytes)
    for stream, payload in frames:
        expected[stream] += payload
    found: dict[int, bytes] = defaultdict(bytes)
    demultiplexer = Demultiplexer()
    for start, end in itertools.pairwise(places):
        for stream, payload in demultiplexer.feed(data[start:end]):
            found[stream] += payload
    assert {k: v for k, v in found.items() if v} == {k: v for k, v in expected.items() if v}
