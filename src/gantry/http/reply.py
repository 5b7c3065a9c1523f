"""Answers that cost one write: the head is bytes before the request comes.

aiohttp's own Response builds and serialises a header dictionary for each answer, which
is a third of the time of a small request. Streams use `ChunkedReply`, whose chunks
are framed here for the same reason.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from aiohttp import web

LARGE: Final = 64 * 1024


class Sendable(Protocol):
    """What the connection needs of an answer (aiohttp's StreamResponse has it too)."""

    @property
    def keep_alive(self) -> bool | None: ...

    async def prepare(self, request: web.BaseRequest) -> object: ...

    async def write_eof(self) -> None: ...


class Head:
    """The status line and the headers that are the same in every answer of one kind.

    `date` is refreshed once a second; all else is encoded once.
    """

    __slots__ = ("_after", "_before", "_bytes", "_second")

    def __init__(self, status: int, reason: str, headers: tuple[tuple[str, str], ...]) -> None:
        self._before = f"HTTP/1.1 {status} {reason}\r\n".encode() + b"".join(
            f"{name}: {value}\r\n".encode("latin-1") for name, value in headers
        )
        self._after = b"\r\n"
        self._second = 0
        self._bytes = b""

    def encoded(self) -> bytes:
        """Everything up to (without) the framing headers and the empty line."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._bytes = self._before + http_date(now)
        return self._bytes


def http_date(now: int) -> bytes:
    """A Date header line for `now` (seconds since the epoch), RFC 9110 form."""
    parts = time.gmtime(now)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[parts.tm_wday]
    month = "JanFebMarAprMayJunJulAugSepOctNovDec"[parts.tm_mon * 3 - 3 : parts.tm_mon * 3]
    return (
        f"Date: {day}, {parts.tm_mday:02} {month} {parts.tm_year} "
        f"{parts.tm_hour:02}:{parts.tm_min:02}:{parts.tm_sec:02} GMT\r\n"
    ).encode()


class Reply:
    """A whole answer, sent by one write.

    body None: a status without body (204, 304). For HEAD the length is told, the body is not
    sent. `extra` is header lines, each ended by CRLF.
    """

    __slots__ = ("_body", "_extra", "_head", "_request", "keep_alive")

    def __init__(self, head: Head, body: bytes | None, extra: bytes = b"") -> None:
        self._head = head
        self._body = body
        self._extra = extra
        self._request: web.BaseRequest | None = None
        self.keep_alive: bool | None = True

    def add_lines(self, lines: bytes) -> None:
        """Add header lines, each ended by CRLF."""
        self._extra += lines

    async def prepare(self, request: web.BaseRequest) -> None:
        self._request = request
        self.keep_alive = request.keep_alive

    async def write_eof(self) -> None:
        request = self._request
        if request is None or request.transport is None:
            raise ConnectionResetError("the client has gone away")
        extra = self._extra if self.keep_alive else self._extra + b"Connection: close\r\n"
        body = self._body
        if body is None:
            request.transport.write(b"%b%b\r\n" % (self._head.encoded(), extra))
            return
        head = b"%b%bContent-Length: %d\r\n\r\n" % (self._head.encoded(), extra, len(body))
        if request.method == "HEAD":
            request.transport.write(head)
        elif len(body) < LARGE:
            request.transport.write(head + body)
        else:
            request.transport.write(head)
            request.transport.write(body)
            # The next request of this connection waits until the client has taken this one.
            await request.writer.drain()


class ChunkedReply:
    """An answer whose length is not known: chunked, or up to the end for HTTP/1.0.

    Life cycle: `await start(request)` sends the head at once, `await write(data)` any number
    of times (waits while the client does not read), and the connection calls `write_eof`.
    """

    __slots__ = ("_chunked", "_extra", "_head", "_request", "keep_alive", "started")

    def __init__(self, head: Head, extra: bytes = b"") -> None:
        self._head = head
        self._extra = extra
        self._request: web.BaseRequest | None = None
        self._chunked = True
        self.keep_alive: bool | None = True
        self.started = False

    async def start(self, request: web.BaseRequest) -> None:
        """Send the head."""
        self._request = request
        self._chunked = request.version >= (1, 1)
        self.keep_alive = request.keep_alive and self._chunked
        self.started = True
        extra = self._extra
        if self._chunked:
            extra += b"Transfer-Encoding: chunked\r\n"
        if not self.keep_alive:
            extra += b"Connection: close\r\n"
        self._send(b"%b%b\r\n" % (self._head.encoded(), extra))

    async def write(self, data: bytes) -> None:
        """Send one chunk. Empty data is nothing (an empty chunk would end the answer)."""
        if not data or self._request is None or self._request.method == "HEAD":
            return
        if self._chunked:
            size = b"%x\r\n" % len(data)
            if len(data) < LARGE:
                self._send(b"%b%b\r\n" % (size, data))
            else:
                self._send(size)
                self._send(data)
                self._send(b"\r\n")
        else:
            self._send(data)
        await self._request.writer.drain()

    async def prepare(self, request: web.BaseRequest) -> None:
        if not self.started:
            await self.start(request)

    async def write_eof(self) -> None:
        if self._chunked and self._request is not None and self._request.method != "HEAD":
            self._send(b"0\r\n\r\n")

    def _send(self, data: bytes) -> None:
        transport = self._request.transport if self._request is not None else None
        if transport is None:
            raise ConnectionResetError("the client has gone away")
        transport.write(data)


class Taken:
    """The answer of a handler that hijacked the connection: nothing more is sent."""

    __slots__ = ()
    keep_alive: bool | None = False

    async def prepare(self, request: web.BaseRequest) -> None:
        return

    async def write_eof(self) -> None:
        return


class Refused:
    """The answer to what is no HTTP, as Go's server gives it: no engine and no aiohttp is named.
    The connection ends with it. status: "400 Bad Request"."""

    __slots__ = ("_request", "_status")
    keep_alive: bool | None = False

    def __init__(self, status: str) -> None:
        self._status = status.encode()
        self._request: web.BaseRequest | None = None

    async def prepare(self, request: web.BaseRequest) -> None:
        self._request = request

    async def write_eof(self) -> None:
        if self._request is not None and self._request.transport is not None:
            self._request.transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%b"
                % (self._status, len(self._status), self._status)
            )


TAKEN: Final = Taken()
