"""Heads and bodies: what is refused, and that reads may be cut anywhere."""

from __future__ import annotations

from http import HTTPStatus
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.http.body import Chunked, Framing, Sized
from gantry.http.head import MAX_HEAD, MAX_HEADERS, Head, HeadReader, Refused
from gantry.model.errors import InvalidParameter

POST = b"POST / HTTP/1.1\r\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data`, cut."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked", 400),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3", 400),
        (POST + b"Content-Length: 3\r\nContent-Length: 3", 400),
        (POST + b"Content-Length: 3, 3", 400),
        (POST + b"Content-Length: +3", 400),
        (POST + b"Content-Length: -3", 400),
        (POST + b"Content-Length: 0x3", 400),
        (POST + b"Content-Length:", 400),
        (POST + b"Content-Length: 99999999999999999999999", 400),
        (POST + b"Content-Length : 3", 400),
        (POST + b"Transfer-Encoding: gzip", 400),
        (POST + b"Transfer-Encoding: gzip, chunked", 501),
        (POST + b"Transfer-Encoding: chunked, chunked", 400),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
        (POST + b"Transfer-Encoding: xchunked", 400),
        (POST + b"Transfer-Encoding : chunked", 400),
        (POST + b"Transfer-Encoding:\x0bchunked", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked", 400),
        (POST + b"A: b\r\n folded", 400),
        (POST + b"A: b\rc", 400),
        (POST + b"A: b\nContent-Length: 3", 400),
        (POST + b"A: b\0c", 400),
        (POST + b"A b: c", 400),
        (POST + b": c", 400),
        (POST + b" A: c", 400),
        (b"POST / HTTP/1.1\nA: b", 400),
        (b"GET /\x01 HTTP/1.1", 400),
        (b"GET /\xff HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET / HTTP/3.0", 400),
        (b"GET /", 505),
        (b"GETS / HTTP/1.1", 400),
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505),
        (b"PRI * HTTP/2.0", 400),
        (POST + b"\r\n".join(b"h%d: x" % number for number in range(MAX_HEADERS + 1)), 431),
        (POST + b"A: " + b"x" * MAX_HEAD, 431),
    ],
)
def test_refused(head: bytes, status: int) -> None:
    with pytest.raises(Refused) as found:
        parsed, _ = HeadReader().feed(head + b"\r\n\r\n") or (None, b"")
        assert parsed is not None
        parsed.framing()
    assert found.value.status == status


@pytest.mark.parametrize("data", [b"nonsense", b"\x16\x03\x01\x02", b"\0", b"get / "])
def test_what_never_can_be_a_request_is_refused_without_its_end(data: bytes) -> None:
    with pytest.raises(Refused):
        HeadReader().feed(data)


def test_an_endless_head_is_refused() -> None:
    reader = HeadReader()
    assert reader.feed(b"GET /") is None
    with pytest.raises(Refused) as found:
        for _ in range(MAX_HEAD):
            assert reader.feed(b"x" * 1000) is None
    assert found.value.status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


REQUEST = (
    b"POST /containers/a%20b?x=%ff HTTP/1.1\r\nHost: \xff\r\nX-Twice: 1\r\nx-twice:  2 \r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n"
)


@given(st.lists(st.integers(0, 1000), max_size=8), st.binary(max_size=20), st.integers(0, 3))
def test_a_head_may_come_in_any_pieces(cuts: list[int], behind: bytes, empty: int) -> None:
    reader = HeadReader()
    found = None
    rest = b""
    for piece in pieces(b"\r\n" * empty + REQUEST + behind, cuts):
        if found is None:
            got = reader.feed(piece)
            if got is not None:
                found, rest = got
        else:
            rest += piece
    assert found is not None
    assert rest == behind
    assert (found.method, found.version, found.keep_alive) == ("POST", (1, 1), True)
    assert found.target == "/containers/a%20b?x=%ff"
    assert found.headers["X-TWICE"] == "1"
    assert found.headers["host"] == "\ufffd"
    assert found.expects()
    framing = found.framing()
    assert isinstance(framing, Sized)
    assert framing.left == 5


def test_keep_alive() -> None:
    for head, kept in (
        (b"GET / HTTP/1.1", True),
        (b"GET / HTTP/1.1\r\nConnection: close", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive", True),
    ):
        assert Head(head + b"\r\n\r\n").keep_alive is kept


def run_framing(framing: Framing, parts: list[bytes]) -> tuple[bytes, bytes]:
    content = rest = b""
    for part in parts:
        if framing.done:
            rest += part
        else:
            found, rest = framing.feed(part)
            content += found
    return content, rest


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    st.lists(st.integers(0, 1000), max_size=10),
    st.sampled_from([b"", b";ext=1", b' ; a="b c"']),
    st.sampled_from([b"", b"Trailer: x\r\n"]),
    st.binary(max_size=10),
)
def test_chunks_in_any_pieces(
    chunks: list[bytes], cuts: list[int], extension: bytes, trailer: bytes, behind: bytes
) -> None:
    data = b"".join(b"%x%b\r\n%b\r\n" % (len(one), extension, one) for one in chunks)
    data += b"000\r\n" + trailer + b"\r\n" + behind
    framing = Chunked()
    assert run_framing(framing, pieces(data, cuts)) == (b"".join(chunks), behind)
    assert framing.done


@given(st.binary(max_size=30), st.binary(max_size=10), st.lists(st.integers(0, 50), max_size=5))
def test_a_length_in_any_pieces(content: bytes, behind: bytes, cuts: list[int]) -> None:
    framing = Sized(len(content))
    assert run_framing(framing, pieces(content + behind, cuts)) == (content, behind)
    assert framing.done


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello!\r\n",
        b"5\r\nhello\n",
        b"5\r\r\nhello\r\n",
        b"fffffffffffffffff\r\n",
        b"5;a\x01\r\nhello\r\n",
        b"5;" + b"a" * 5000,
        b"0\r\n\n",
        b"0\r\n" + b"T: x\r\n" * 20000,
    ],
)
def test_malformed_chunks(data: bytes) -> None:
    with pytest.raises(InvalidParameter):
        Chunked().feed(data)


@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_as_chunks_end_or_are_refused(data: bytes, cuts: list[int]) -> None:
    framing = Chunked()
    try:
        run_framing(framing, pieces(data, cuts))
    except InvalidParameter:
        pass
