"""Answers that cost one write: the head is bytes before the request comes.

To build and serialise a header dictionary for each answer would be a good part of the time of
a small request. Streams use `ChunkedReply`, whose chunks are framed here.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from gantry.http.request import Request

LARGE: Final = 64 * 1024


class Sendable(Protocol):
    """What the connection needs of an answer."""

    @property
    def keep_alive(self) -> bool:
        """Known after `finish`: the connection can go on."""

    async def finish(self, request: Request) -> None:
        """Send what is not sent yet. ConnectionResetError when the client has gone away."""


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

    __slots__ = ("_body", "_extra", "_head", "keep_alive")

    def __init__(self, head: Head, body: bytes | None, extra: bytes = b"") -> None:
        self._head = head
        self._body = body
        self._extra = extra
        self.keep_alive = True

    def add_lines(self, lines: bytes) -> None:
        """Add header lines, each ended by CRLF."""
        self._extra += lines

    async def finish(self, request: Request) -> None:
        connection = request.connection
        self.keep_alive = request.keep_alive
        extra = self._extra
        if not self.keep_alive:
            extra += b"Connection: close\r\n"
        elif request.version < (1, 1):
            extra += b"Connection: keep-alive\r\n"  # it takes silence for a close
        body = self._body
        if body is None:
            connection.write(b"%b%b\r\n" % (self._head.encoded(), extra))
            return
        head = b"%b%bContent-Length: %d\r\n\r\n" % (self._head.encoded(), extra, len(body))
        if request.method == "HEAD":
            connection.write(head)
        elif len(body) < LARGE:
            connection.write(head + body)
        else:
            connection.write(head)
            connection.write(body)
            # The next request of this connection waits until the client has taken this one.
            await connection.drain()


class ChunkedReply:
    """An answer whose length is not known: chunked, or up to the end for HTTP/1.0.

    Life cycle: `start(request)` sends the head at once, `await write(data)` any number
    of times (waits while the client does not read), and the connection calls `finish`.
    """

    __slots__ = ("_chunked", "_extra", "_head", "_request", "keep_alive")

    def __init__(self, head: Head, extra: bytes = b"") -> None:
        self._head = head
        self._extra = extra
        self._request: Request | None = None
        self._chunked = True
        self.keep_alive = True

    def start(self, request: Request) -> None:
        """Send the head."""
        self._request = request
        self._chunked = request.version >= (1, 1)
        self.keep_alive = request.keep_alive and self._chunked
        extra = self._extra
        if self._chunked:
            extra += b"Transfer-Encoding: chunked\r\n"
        if not self.keep_alive:
            extra += b"Connection: close\r\n"
        request.connection.write(b"%b%b\r\n" % (self._head.encoded(), extra))

    async def write(self, data: bytes) -> None:
        """Send one chunk. Empty data is nothing (an empty chunk would end the answer)."""
        if not data or self._request is None or self._request.method == "HEAD":
            return
        connection = self._request.connection
        if not self._chunked:
            connection.write(data)
        elif len(data) < LARGE:
            connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            connection.write(b"%x\r\n" % len(data))
            connection.write(data)
            connection.write(b"\r\n")
        await connection.drain()

    async def finish(self, request: Request) -> None:
        if self._request is None:
            self.start(request)
        if self._chunked and request.method != "HEAD":
            request.connection.write(b"0\r\n\r\n")


class Taken:
    """The answer of a handler that hijacked the connection: nothing more is sent."""

    __slots__ = ()
    keep_alive = False

    async def finish(self, request: Request) -> None:
        return


TAKEN: Final = Taken()
