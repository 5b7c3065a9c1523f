"""Messages on a stream socket, without I/O: bytes and fds in, messages out.

Layout of one frame (big endian)::

    u32 head length | u32 body length | u16 number of fds | head (JSON object) | body (bytes)

A frame's fds ride as SCM_RIGHTS on any of its bytes (the sender attaches them to the
first). Frames and fds keep their order, so the n-th frame that announces fds takes the
next ones from the queue. The body is for what is bytes already (a config.json): it is
not escaped into the head.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_PREFIX = struct.Struct("!IIH")
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

MAX_HEAD = 16 << 20
MAX_BODY = 64 << 20
MAX_FDS = 250
"""Linux takes at most SCM_MAX_FD (253) in one sendmsg."""


class ProtocolError(Exception):
    """The peer sent what is no frame; the connection is of no further use."""


class Message(NamedTuple):
    """One frame. Whoever gets it owns the fds."""

    head: Mapping[str, object]
    body: bytes = b""
    fds: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the fds of a message that nobody wants."""
        close_all(self.fds)

    def text(self, key: str, default: str | None = None) -> str:
        """A string of the head. ProtocolError when it is missing or something else."""
        value = self.head.get(key, default)
        if not isinstance(value, str):
            raise ProtocolError(f"message field {key!r} is not a string")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        """An integer of the head."""
        value = self.head.get(key, default)
        if not isinstance(value, int):
            raise ProtocolError(f"message field {key!r} is not an integer")
        return value

    def seconds(self, key: str) -> float:
        """A float of the head."""
        value = self.head.get(key)
        if not isinstance(value, (int, float)):
            raise ProtocolError(f"message field {key!r} is not a number")
        return float(value)

    def flag(self, key: str) -> bool:
        """A boolean of the head, false when it is missing."""
        return bool(self.head.get(key, False))


def close_all(fds: Iterable[int]) -> None:
    """Close every one of `fds`, whatever close(2) says."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


def encode(head: Mapping[str, object], body: bytes = b"", fds: int = 0) -> bytes:
    """The bytes of one frame. ValueError when it is larger than a peer would take."""
    text = _encode(head).encode("utf-8", "surrogateescape")
    if len(text) > MAX_HEAD or len(body) > MAX_BODY or fds > MAX_FDS:
        raise ValueError(f"message too large: {len(text)} + {len(body)} bytes, {fds} fds")
    return _PREFIX.pack(len(text), len(body), fds) + text + body


class Decoder:
    """Collects the bytes and fds of one connection into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: list[int] = []

    def feed(self, data: bytes, fds: Iterable[int] = ()) -> list[Message]:
        """Messages that are complete now, in order. ProtocolError; call `close` then."""
        self._buffer += data
        self._fds.extend(fds)
        messages: list[Message] = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def close(self) -> None:
        """Close fds that came without their message."""
        close_all(self._fds)
        self._fds.clear()

    def _next(self) -> Message | None:
        if len(self._buffer) < _PREFIX.size:
            return None
        head_size, body_size, count = _PREFIX.unpack_from(self._buffer)
        if head_size > MAX_HEAD or body_size > MAX_BODY or count > MAX_FDS:
            raise ProtocolError("message too large")
        start = _PREFIX.size
        end = start + head_size + body_size
        if len(self._buffer) < end:
            return None
        if len(self._fds) < count:
            raise ProtocolError(f"message announces {count} fds, {len(self._fds)} came")
        try:
            text = self._buffer[start : start + head_size].decode("utf-8", "surrogateescape")
            head = json.loads(text)
        except ValueError as error:
            raise ProtocolError(f"message head is not JSON: {error}") from None
        if not isinstance(head, dict):
            raise ProtocolError("message head is not an object")
        body = bytes(self._buffer[start + head_size : end])
        del self._buffer[:end]
        fds = tuple(self._fds[:count])
        del self._fds[:count]
        return Message(head, body, fds)
