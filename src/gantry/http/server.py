"""HTTP connections: aiohttp's parser and keep-alive, with hijack and half-close added.

What aiohttp does not have and the Engine API needs:

* A handler may take the connection over (`hijack`). Bytes that came behind the request
  in the same read must reach it, and must never be parsed as HTTP. So for requests that
  may be hijacked the bytes behind them are held back until the handler has decided.
* A client may shut down its writing side and go on reading. aiohttp closes then; here a
  request in progress is finished first, and a hijacked connection sees end of input.
* A client that is wholly gone is told from a half-closed one by POLLHUP, and its handler
  is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from gantry.http.raw import RawStream
from gantry.http.reply import TAKEN, Refused, Sendable

_log = logging.getLogger(__name__)


Handler = Callable[[web.BaseRequest], Awaitable[Sendable]]
"""The application: one coroutine for every request."""

MAX_LINE: Final = 512 * 1024
"""Longest request line and header (names of many images, long filters, identity tokens)."""

MAX_HELD: Final = 256 * 1024
"""Bytes behind a hijackable request after which the socket is left alone."""

MAX_LENGTH_DIGITS: Final = 18
"""A longer Content-Length is for the parser to refuse."""

HIJACKABLE: Final = (b"/attach", b"/start", b"/session", b"/grpc")


class Connection(RequestHandler):
    """One client. aiohttp's underscore attributes used here are its protocol's state machine:
    `_waiter` (a future exactly while it is idle), `_request_in_progress`, `_messages`."""

    __slots__ = ("_body_left", "_ended", "_held", "_holding", "_hup", "_raw", "endless")

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp turns it off
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            auto_decompress=False,
            read_bufsize=256 * 1024,
        )
        self._raw: RawStream | None = None
        self._held: bytearray | None = None
        self._holding = False
        self._body_left = 0
        self._ended = False
        self._hup: select.epoll | None = None
        self.endless = False

    # Input

    def data_received(self, data: bytes) -> None:
        if self._raw is not None:
            self._raw.feed(data)
        elif self._held is not None:
            if self._body_left:
                part, data = data[: self._body_left], data[self._body_left :]
                self._body_left -= len(part)
                super().data_received(part)
            self._hold(data)
        elif data.startswith(b"POST ") and (self._waiter is not None or not self._request_count):
            # Idle, or so new that aiohttp's task has not run yet: this is a request's beginning.
            end = self._end_of_hijackable(data)
            if end == 0:
                super().data_received(data)
                return
            self._held = bytearray()
            self._body_left = max(0, end - len(data))
            super().data_received(data[:end])
            self._hold(data[end:])
        else:
            super().data_received(data)

    @staticmethod
    def _end_of_hijackable(data: bytes) -> int:
        """Where the request that starts `data` ends, 0 when it can't be hijacked."""
        target = data[5 : data.find(b" ", 5)].partition(b"?")[0]
        if not target.endswith(HIJACKABLE):
            return 0
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            return 0
        length = 0
        for line in data[:head_end].split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            match name.lower():
                case b"content-length":
                    value = value.strip()
                    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
                        return 0
                    length = int(value)
                case b"transfer-encoding":
                    return 0
        return head_end + 4 + length

    def _hold(self, data: bytes) -> None:
        if not data or self._held is None:
            return
        self._held += data
        if len(self._held) > MAX_HELD and not self._holding and self.transport is not None:
            self._holding = True
            self.transport.pause_reading()

    def _let_go(self) -> bytes:
        """What was held back; reading goes on."""
        held, self._held = bytes(self._held or b""), None
        if self._holding and self.transport is not None:
            self._holding = False
            self.transport.resume_reading()
        return held

    def release(self) -> None:
        """The handler has answered without hijacking: what was held is the next request."""
        if self._held is None or self._raw is not None:
            return
        held = self._let_go()
        self._body_left = 0
        if held:
            self.data_received(held)

    def hijack(self) -> RawStream:
        """Take the connection over; the handler answers with `reply.TAKEN` in the end."""
        if self.transport is None:
            raise ConnectionResetError("the client has gone away")
        early = self._let_go()
        self.keep_alive(False)
        self._raw = RawStream(self.transport, self, early)
        if self._ended:
            self._raw.feed_eof()
        # From the start: input may be paused, and then its end is not seen.
        self._watch(self.transport.get_extra_info("socket"))
        return self._raw

    # End

    def eof_received(self) -> bool | None:  # type: ignore[override]  # aiohttp annotates None
        """True keeps the writing side open (asyncio's contract)."""
        transport = self.transport
        if transport is None or not transport.can_write_eof():
            return None
        sock: socket.socket = transport.get_extra_info("socket")
        if self._hung_up(sock):
            return None
        if self._raw is not None:
            self._raw.feed_eof()
            return True
        if sock.family != socket.AF_UNIX:
            return None  # TCP can't tell a half-close from an end
        idle = self._waiter is not None and not self._waiter.done()
        if idle or self._body_left or self._parser is None:
            return None
        try:
            self._parser.feed_eof()
        except Exception:  # the end came in the middle of a body
            return None
        self._watch(sock)
        self._ended = True
        if not self._messages:
            self.close()  # after the answer to the request in progress
        return True

    @staticmethod
    def _hung_up(sock: socket.socket) -> bool:
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        return bool(poll.poll(0))

    def _watch(self, sock: socket.socket) -> None:
        """Be told when the other direction ends too. An epoll of its own: the loop watches
        for input only, and after end of input that would be always ready."""
        if self._hup is not None:
            return
        self._hup = select.epoll()
        self._hup.register(sock.fileno(), 0)
        self._loop.add_reader(self._hup.fileno(), self._end)

    def _end(self) -> None:
        self._unwatch()
        if self.transport is not None:
            self.transport.abort()

    def _unwatch(self) -> None:
        if self._hup is not None:
            self._loop.remove_reader(self._hup.fileno())
            self._hup.close()
            self._hup = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP is answered as Go's server does, and is no line in the log: anybody
        could fill the disk with those."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        _log.debug("not HTTP: %s", message)
        status = 431 if isinstance(exc, LineTooLong) else status
        # aiohttp asks no more of an answer than `Sendable` has.
        return cast(web.StreamResponse, Refused(f"{status} {HTTPStatus(status).phrase}"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._unwatch()
        if self._raw is not None:
            self._raw.lost()
        super().connection_lost(exc)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109  # aiohttp's
        """Finish a short request; end a stream at once."""
        if self._raw is not None or self.endless:
            if self._task_handler is not None:
                self._task_handler.cancel()
            timeout = 0.1
        await super().shutdown(timeout)


class Server(web.Server):
    """A factory of connections that all talk to one handler."""

    def __init__(self, handler: Handler) -> None:
        async def entry(request: web.BaseRequest) -> Sendable:
            connection = cast(Connection, request.protocol)
            if connection._ended and not connection._messages:
                connection.close()  # this is the last of those that came before the end
            try:
                return await handler(request)
            except ConnectionError:
                # The client is gone, or the answer broke off: it sees an end without an end mark.
                connection.force_close()
                return TAKEN
            finally:
                if connection._held is not None:
                    connection.release()

        # aiohttp asks no more of an answer than `Sendable` does.
        super().__init__(entry, handler_cancellation=True)  # type: ignore[arg-type]

    def __call__(self) -> Connection:
        return Connection(self, self._loop)


def connection_of(request: web.BaseRequest) -> Connection:
    """The connection a request came by."""
    return cast(Connection, request.protocol)
