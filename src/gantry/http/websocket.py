"""WebSocket (RFC 6455), the server's side, as a stream of bytes over a hijacked connection.

Attach has no messages, it has bytes: so fragments are passed on as they come, nothing is put
together, and nothing but control frames (125 bytes at most) needs a limit. Extensions are
never agreed to.

    Frames    bytes in, events out; no I/O
    Socket    read and write, with pings answered and the closing handshake
"""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gantry.http.raw import RawStream
from gantry.model.errors import InvalidParameter

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
NOT_UTF8: Final = 1007

_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTROL_MAX: Final = 125


def accept(headers: Mapping[str, str]) -> bytes:
    """The head that answers a client's handshake. InvalidParameter when it is none."""
    wants = [one.strip().lower() for one in headers.get("Connection", "").split(",")]
    if headers.get("Upgrade", "").lower() != "websocket" or "upgrade" not in wants:
        raise InvalidParameter("not a websocket handshake")
    if headers.get("Sec-WebSocket-Version", "") != "13":
        raise InvalidParameter("unsupported websocket version: must be 13")
    key = headers.get("Sec-WebSocket-Key", "")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        valid = False
    if not valid:
        raise InvalidParameter("malformed Sec-WebSocket-Key")
    proof = base64.b64encode(hashlib.sha1(key.encode() + _MAGIC, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % proof
    )


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame, as a server sends it: not masked."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
    return head + payload


class ProtocolError(Exception):
    """The peer breaks the protocol; `code` is what to close with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Event:
    """opcode: TEXT or BINARY with a piece of data, PING, PONG or CLOSE with a whole payload."""

    opcode: int
    data: bytes


class Frames:
    """Takes a client's frames apart, wherever the reads cut them."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._payload = bytearray()
        """Of a control frame."""
        self._in_frame = False
        self._opcode = 0
        self._left = 0
        self._final = True
        self._mask = b""
        self._message = 0
        """The opcode of the message that is not finished."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events in `data`, in order. ProtocolError."""
        at = 0
        while at < len(data) or (self._in_frame and not self._left):
            if not self._in_frame:
                wanted = self._head_size() - len(self._head)
                self._head += data[at : at + wanted]
                at += wanted
                if len(self._head) == self._head_size():
                    self._begin()
                continue
            piece = self._unmask(data[at : at + self._left])
            at += len(piece)
            self._left -= len(piece)
            yield from self._piece(piece)

    def _head_size(self) -> int:
        """How long this frame's head is, as far as is known by now."""
        if len(self._head) < 2:
            return 2
        if not self._head[1] & 0x80:
            raise ProtocolError(PROTOCOL_ERROR, "a client's frame is not masked")
        return 6 + {126: 2, 127: 8}.get(self._head[1] & 0x7F, 0)

    def _begin(self) -> None:
        head = bytes(self._head)
        self._head.clear()
        opcode, size = head[0] & 0x0F, head[1] & 0x7F
        if head[0] & 0x70:
            raise ProtocolError(PROTOCOL_ERROR, "reserved bits are set")
        final = bool(head[0] & 0x80)
        if size > _CONTROL_MAX:
            long = int.from_bytes(head[2:-4], "big")
            if long < (126 if size == 126 else 65536) or long >> 63:
                raise ProtocolError(PROTOCOL_ERROR, "malformed length")
        if opcode >= CLOSE:
            if opcode > PONG or not final or size > _CONTROL_MAX:
                raise ProtocolError(PROTOCOL_ERROR, "malformed control frame")
        elif opcode == CONTINUATION:
            if not self._message:
                raise ProtocolError(PROTOCOL_ERROR, "nothing to continue")
        elif opcode > BINARY or self._message:
            raise ProtocolError(PROTOCOL_ERROR, "unexpected opcode")
        else:
            self._message = opcode
        self._left = long if size > _CONTROL_MAX else size
        self._opcode, self._final, self._mask = opcode, final, head[-4:]
        self._in_frame = True

    def _unmask(self, data: bytes) -> bytes:
        if not data:
            return data
        mask = self._mask * (len(data) // 4 + 1)
        turn = len(data) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        plain = int.from_bytes(data, "big") ^ int.from_bytes(mask[: len(data)], "big")
        return plain.to_bytes(len(data), "big")

    def _piece(self, piece: bytes) -> Iterator[Event]:
        """Some or all of what is left of a frame's payload."""
        ended = not self._left
        self._in_frame = not ended
        if self._opcode >= CLOSE:
            self._payload += piece
            if ended:
                event = Event(self._opcode, bytes(self._payload))
                self._payload.clear()
                yield event
            return
        message = self._message
        over = ended and self._final
        if message == TEXT:
            try:
                self._utf8.decode(piece, over)
            except UnicodeDecodeError:
                raise ProtocolError(NOT_UTF8, "text is not UTF-8") from None
        if over:
            self._message = 0
        if piece:
            yield Event(message, piece)


class Socket:
    """A client's websocket: `read` gives b"" when it is closed.

    text: what is written goes out as text. Frame borders mean nothing.
    """

    def __init__(self, raw: RawStream, *, text: bool) -> None:
        self._raw = raw
        self._text = codecs.getincrementaldecoder("utf-8")("replace") if text else None
        self._frames = Frames()
        self._closed = False

    async def read(self) -> bytes:
        while not self._closed:
            data = await self._raw.read()
            if not data:
                break
            found: list[bytes] = []
            try:
                for event in self._frames.feed(data):
                    match event.opcode:
                        case 0x8:  # CLOSE
                            await self.close(_close_code(event.data))
                            break
                        case 0x9:  # PING
                            await self._raw.write(frame(PONG, event.data))
                        case 0x1 | 0x2:
                            found.append(event.data)
            except ProtocolError as error:
                await self.close(error.code)
            if found:
                return b"".join(found)
        return b""

    async def write(self, data: bytes) -> None:
        """Nothing is sent after the close."""
        if self._text is not None:
            data = self._text.decode(data).encode()
        if data and not self._closed:
            await self._raw.write(frame(BINARY if self._text is None else TEXT, data))

    async def close(self, code: int = NORMAL) -> None:
        """Our half of the closing handshake, once."""
        if not self._closed:
            self._closed = True
            await self._raw.write(frame(CLOSE, code.to_bytes(2, "big")))


def _close_code(payload: bytes) -> int:
    """What to answer to a close: its own code, if it is one that may be sent."""
    if not payload:
        return NORMAL
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not (1000 <= code <= 1014 or 3000 <= code <= 4999):
        return PROTOCOL_ERROR
    return PROTOCOL_ERROR if code in (1004, 1005, 1006) else code
