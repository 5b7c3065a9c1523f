"""WebSocket frames: any cut of the reads, broken peers; aiohttp's client as a real peer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, WSMsgType
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.http.test_http_head import pieces
from tests.unit.http.wire_client import run, serving

from gantry.http import websocket
from gantry.http.reply import TAKEN, Sendable
from gantry.http.request import Headers, Request
from gantry.http.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Event, Frames
from gantry.model.errors import InvalidParameter

HANDSHAKE = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "WebSocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
MASK = b"\x37\xfa\x21\x3d"


def masked(opcode: int, payload: bytes, *, final: bool = True, mask: bytes = MASK) -> bytes:
    """A client's frame."""
    plain = websocket.frame(opcode, payload)
    head = plain[: len(plain) - len(payload)]
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((head[0] & (0xFF if final else 0x7F), head[1] | 0x80)) + head[2:] + mask + body


def events(parts: list[bytes]) -> list[Event]:
    """What comes of reads; data of one message put together."""
    frames = Frames()
    found: list[Event] = []
    for part in parts:
        for event in frames.feed(part):
            if found and event.opcode <= BINARY and found[-1].opcode == event.opcode:
                event = Event(event.opcode, found.pop().data + event.data)
            found.append(event)
    return found


def test_the_handshake_of_the_rfc() -> None:
    head = websocket.accept(Headers(HANDSHAKE.items()))
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Connection", "close"),
        ("Upgrade", "h2c"),
        ("Sec-WebSocket-Version", "8"),
        ("Sec-WebSocket-Key", "dGhl"),
        ("Sec-WebSocket-Key", "no base64"),
        ("Sec-WebSocket-Key", "\udcff"),
    ],
)
def test_what_is_no_handshake(name: str, value: str) -> None:
    with pytest.raises(InvalidParameter):
        websocket.accept(Headers({**HANDSHAKE, name: value}.items()))


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    st.binary(max_size=125),
    st.binary(min_size=4, max_size=4),
    st.lists(st.integers(0, 3000), max_size=12),
)
def test_fragments_and_a_ping_between_them(
    parts: list[bytes], ping: bytes, mask: bytes, cuts: list[int]
) -> None:
    data = b"".join(
        masked(CONTINUATION if at else BINARY, part, final=False, mask=mask)
        for at, part in enumerate(parts)
    )
    data += masked(PING, ping, mask=mask) + masked(CONTINUATION, b"", mask=mask)
    data += masked(CLOSE, b"\x03\xe8")
    content = b"".join(parts)
    wanted = [Event(BINARY, content)] if content else []
    assert events(pieces(data, cuts)) == [*wanted, Event(PING, ping), Event(CLOSE, b"\x03\xe8")]


def test_long_frames() -> None:
    for size in (125, 126, 65535, 65536, 200_000):
        payload = bytes(range(256)) * (size // 256 + 1)
        assert events([masked(BINARY, payload[:size])]) == [Event(BINARY, payload[:size])]


def test_text_cut_inside_a_character() -> None:
    word = "grüße".encode()
    data = masked(TEXT, word[:3], final=False) + masked(CONTINUATION, word[3:])
    assert events([data]) == [Event(TEXT, word)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (websocket.frame(BINARY, b"not masked"), 1002),
        (b"\xc2\x80" + MASK, 1002),
        (masked(3, b"x"), 1002),
        (masked(11, b"x"), 1002),
        (masked(CONTINUATION, b"x"), 1002),
        (masked(BINARY, b"x", final=False) + masked(BINARY, b"y"), 1002),
        (masked(PING, b"x", final=False), 1002),
        (masked(PING, b"x" * 126), 1002),
        (b"\x82\xfe\x00\x05" + MASK, 1002),
        (b"\x82\xff" + (5).to_bytes(8, "big") + MASK, 1002),
        (b"\x82\xff" + b"\xff" * 8 + MASK, 1002),
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, "ü".encode()[:1]), 1007),
    ],
)
def test_broken_peers(data: bytes, code: int) -> None:
    for parts in ([data], [data[at : at + 1] for at in range(len(data))]):
        with pytest.raises(websocket.ProtocolError) as found:
            events(parts)
        assert found.value.code == code


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_events_or_a_protocol_error(parts: list[bytes]) -> None:
    try:
        events(parts)
    except websocket.ProtocolError:
        pass


async def echo(request: Request) -> Sendable:
    head = websocket.accept(request.headers)
    raw = request.connection.hijack()
    request.connection.write(head)
    socket = websocket.Socket(raw, text=request.raw_path == "/text")
    while data := await socket.read():
        await socket.write(data)
    await socket.close()
    await raw.finish()
    return TAKEN


def test_a_real_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            serving(echo, tmp_path) as (path, _),
            ClientSession(connector=UnixConnector(str(path))) as session,
        ):
            async with session.ws_connect("http://d/", compress=15, autoping=False) as socket:
                for size in (1, 200, 70_000, 1_000_000):
                    await socket.send_bytes(b"x" * size)
                    got = 0
                    while got < size:
                        got += len(await socket.receive_bytes())
                    assert got == size
                await socket.ping(b"there?")
                answer = await socket.receive()
                assert (answer.type, answer.data) == (WSMsgType.PONG, b"there?")
                await socket.close(code=3000)
                assert socket.close_code == 3000
            async with session.ws_connect("http://d/text") as socket:
                await socket.send_str("grüße")
                assert await socket.receive_str() == "grüße"

    run(main)


def test_a_broken_client_is_told_why(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _):
            reader, writer = await asyncio.open_unix_connection(str(path))
            lines = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
            writer.write(f"GET / HTTP/1.1\r\n{lines}\r\n".encode() + b"\x82\x01x")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(4) == b"\x88\x02\x03\xea"
            assert await reader.read() == b""
            writer.close()

    run(main)


def test_pong_is_no_input() -> None:
    assert events([masked(PONG, b"")]) == [Event(PONG, b"")]
