"""A hijacked connection: the bytes after the HTTP request, both ways, with half-close.

Docker's attach, exec and session requests take the connection over ("hijack"): after
the response head both sides send raw bytes. The client says "no more input" by shutting
down its writing side (CloseWrite), and goes on reading; so end of input and loss of the
connection are two different things here, unlike in plain HTTP.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
import time
from collections import deque
from typing import Final, Protocol

HIGH_WATER: Final = 256 * 1024
"""Input bytes held for a slow reader before the socket is left alone."""

LINGER: Final = 30.0
"""Seconds that a finished connection waits for the client to close it too."""


HEAD_TIME: Final = 0.05
"""Seconds at most that the first output waits for the client to have read the head."""
HEAD_APART: Final = 0.005
"""Seconds between head and first output where nobody can tell what the client has read."""


class Owner(Protocol):
    """What a raw stream needs of its connection."""

    async def drain(self) -> None: ...


class RawStream:
    """One hijacked connection.

    `read` gives input until b"" (the client's half-close or its end), `write` waits
    while the client does not read. ConnectionResetError from `write` when it is gone;
    the request's handler is cancelled then anyway.
    """

    def __init__(self, transport: asyncio.Transport, owner: Owner, early: bytes) -> None:
        self._transport = transport
        self._owner = owner
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._eof = False
        self._lost = False
        self._paused = False
        self._discard = False
        self._waiter: asyncio.Future[None] | None = None
        self._gone = asyncio.get_running_loop().create_future()
        self._begun: float | None = time.monotonic()
        if early:
            self.feed(early)

    async def read(self) -> bytes:
        """The next input; b"" when the client has closed its writing side."""
        while not self._chunks:
            if self._eof:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if len(self._chunks) == 1:
            data = self._chunks.popleft()
        else:
            data = b"".join(self._chunks)
            self._chunks.clear()
        self._size = 0
        self._resume()
        return data

    async def write(self, data: bytes) -> None:
        """Send; returns when the transport's buffer has room again."""
        if self._begun is not None:
            await self._head_first(self._begun)
        if self._lost:
            raise ConnectionResetError("the client has gone away")
        self._transport.write(data)
        await self._owner.drain()

    async def _head_first(self, begun: float) -> None:
        """Until the client has read the head, if that can be seen.

        docker-py reads the head through a buffer and the rest from the bare socket: output
        that came in one read with the head would be lost on it.
        """
        while not self._lost and time.monotonic() < begun + HEAD_TIME:
            await asyncio.sleep(0)  # uvloop sends at the end of its turn
            unread = _unread(self._transport)
            if unread == 0 or (unread is None and time.monotonic() >= begun + HEAD_APART):
                break
            await asyncio.sleep(0.001)
        self._begun = None

    async def finish(self) -> None:
        """All output was given: half-close, then wait (not for ever) for the client's end.

        Closing at once would make the kernel answer with a reset when input is still
        unread, and the client would lose output that it has not read yet.
        """
        if self._lost:
            return
        self._discard = True
        self._chunks.clear()
        self._resume()
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        if self._eof:
            return
        # Not `wait_for`: cancellation (shutdown) has to get through at once.
        await asyncio.wait([self._gone], timeout=LINGER)

    @property
    def lost_already(self) -> bool:
        """The connection is gone."""
        return self._lost

    # Called by the connection.

    def feed(self, data: bytes) -> None:
        """Input has arrived."""
        if self._discard:
            return
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        """The client has closed its writing side."""
        self._eof = True
        self._wake()
        if self._discard and not self._gone.done():
            self._gone.set_result(None)

    def lost(self) -> None:
        """The connection is gone."""
        self._lost = True
        self.feed_eof()
        if not self._gone.done():
            self._gone.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._lost:
                self._transport.resume_reading()


def _unread(transport: asyncio.Transport) -> int | None:
    """Bytes that the peer of a unix socket has not read yet (SIOCOUTQ); None for others."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX or transport.is_closing():
        return None
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return None
    return int(struct.unpack("i", answer)[0])
