"""The body of a request: where it ends, and its way from the connection to the handler."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Final, Protocol

from gantry.model.errors import InvalidParameter

HIGH_WATER: Final = 256 * 1024
"""Bytes held for a slow reader before the socket is left alone."""

MAX_CHUNK_LINE: Final = 4096
"""Longest line between chunks: a size with extensions, a trailer."""

MAX_TRAILERS: Final = 64 * 1024

_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")


class Framing(Protocol):
    """Finds the end of a body."""

    done: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What of `data` is the body's content, and what comes behind the body.

        InvalidParameter when it is malformed."""


class Sized:
    """A body of a length told before; 0 for none."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = not length

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        content, rest = data[: self.left], data[self.left :]
        self.left -= len(content)
        self.done = not self.left
        return content, rest


class Chunked:
    """The chunked coding (RFC 9112, 7.1), taken strictly: lines end by CRLF, sizes are hex
    digits only. Extensions and trailers are read over."""

    __slots__ = ("_left", "_line", "_trailers", "_wanted", "done")

    def __init__(self) -> None:
        self.done = False
        self._left = 0
        self._line = bytearray()
        self._wanted = "size"
        self._trailers = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        found: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                found.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            stop = data.find(b"\n", at) + 1
            self._line += data[at : stop or len(data)]
            at = stop or len(data)
            if len(self._line) > MAX_CHUNK_LINE:
                raise InvalidParameter("invalid request body: header line too long")
            if stop:
                line = bytes(self._line)
                self._line.clear()
                self._take(line)
        return b"".join(found), data[at:]

    def _take(self, line: bytes) -> None:
        text = line[:-2]
        if not line.endswith(b"\r\n") or b"\r" in text:
            raise InvalidParameter("invalid request body: malformed chunked encoding")
        match self._wanted:
            case "size":
                size = _SIZE.fullmatch(text)
                if size is None:
                    raise InvalidParameter("invalid request body: invalid byte in chunk length")
                self._left = int(size[1], 16)
                self._wanted = "end of chunk" if self._left else "trailer"
            case "end of chunk":
                if text:
                    raise InvalidParameter("invalid request body: malformed chunked encoding")
                self._wanted = "size"
            case "trailer":
                self._trailers += len(line)
                if self._trailers > MAX_TRAILERS:
                    raise InvalidParameter("invalid request body: trailers too large")
                self.done = not text


class Flow(Protocol):
    """What a body needs of its connection."""

    def body_wanted(self) -> None:
        """Send `100 Continue`."""

    def body_taken(self) -> None:
        """There is room again."""


class Body:
    """Filled by the connection, emptied by the handler.

    expected: the client waits for `100 Continue` before it sends (RFC 9110, 10.1.1). Like Go's
    server, we say so when the body is read, and only then.
    """

    __slots__ = (
        "_chunks",
        "_discard",
        "_error",
        "_expected",
        "_flow",
        "_framing",
        "_waiter",
        "held",
    )

    def __init__(self, framing: Framing, flow: Flow, *, expected: bool = False) -> None:
        self._framing = framing
        self._flow = flow
        self._expected = expected
        self._chunks: deque[bytes] = deque()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._discard = False
        self.held = 0

    # Handler

    async def readany(self) -> bytes:
        """What has come, at least one byte; b"" at the end.

        InvalidParameter when it is malformed, ConnectionResetError when the client left.
        """
        if self.withheld:
            self._expected = False
            self._flow.body_wanted()
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._framing.done:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.held = 0
        self._flow.body_taken()
        return data

    # Connection

    @property
    def withheld(self) -> bool:
        """The client waits for `100 Continue`, and nobody has asked for the body yet."""
        return self._expected and not self.complete and not self._chunks

    @property
    def complete(self) -> bool:
        """All of it has come."""
        return self._framing.done

    @property
    def ends(self) -> bool:
        """Where it ends is known, or will be: so the connection can go on behind it."""
        return self._error is None and not self.withheld

    @property
    def framing(self) -> Framing:
        return self._framing

    def feed(self, data: bytes) -> bytes:
        """Take what is the body's, give back what follows it. InvalidParameter."""
        content, rest = self._framing.feed(data)
        if content and not self._discard:
            self._chunks.append(content)
            self.held += len(content)
        self._wake()
        return rest

    def fail(self, error: Exception) -> None:
        """No more will come."""
        if not self.complete and self._error is None:
            self._error = error
            self._wake()

    def discard(self) -> None:
        """Nobody will read it: what comes is thrown away."""
        self._discard = True
        self._chunks.clear()
        self.held = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
