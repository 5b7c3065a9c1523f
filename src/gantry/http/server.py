"""HTTP/1 connections: one request at a time, keep-alive, hijack, half-close.

What the Engine API needs, and servers made for the web do not have:

* A handler may take the connection over (`hijack`). Bytes behind the request are input then,
  and must never have been parsed as HTTP. So a head is parsed (`head`), its body is cut off
  (`body`), and the rest waits until the handler has decided.
* A client may shut down its writing side and go on reading: a request in progress is
  finished first, and a hijacked connection sees end of input.
* A client that is wholly gone is told from a half-closed one by POLLHUP, and its handler
  is cancelled.

    idle ──head──▶ in progress ──answered──▶ (rest of an unread body thrown away) ──▶ idle
                       └──hijack──▶ raw, until the handler ends      a refusal ──▶ ending
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Final, cast

from gantry.http.body import HIGH_WATER, Body, Sized
from gantry.http.head import HeadReader, Refused
from gantry.http.raw import RawStream
from gantry.http.reply import Sendable
from gantry.http.request import Request
from gantry.model.errors import InvalidParameter

_log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Sendable]]
"""The application: one coroutine for every request."""

IDLE_TIME: Final = 3630.0
"""Seconds that a connection may be idle between requests."""

HEAD_TIME: Final = 300.0
"""Seconds that a client may take to send a head."""

SWEEP: Final = 60.0
"""Seconds between looks at who is over time."""

LINGER: Final = 10.0
"""Seconds that a client may go on sending a body which nobody reads."""

PARTING: Final = 0.5
"""Seconds between an answer and the close where more may be coming, as Go's server has it."""


class Connection(asyncio.Protocol):
    """One client.

    endless: the answer in progress ends with its client or the engine. writing_paused: the
    client does not read what was written.
    """

    __slots__ = (
        "_body",
        "_drained",
        "_ended",
        "_ending",
        "_head",
        "_hup",
        "_keep",
        "_loop",
        "_paused",
        "_raw",
        "_rest",
        "_server",
        "_since",
        "_timer",
        "_transport",
        "endless",
        "task",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._head = HeadReader()
        self._body: Body | None = None
        self._rest = bytearray()
        """Came behind the request in progress."""
        self._raw: RawStream | None = None
        self._paused = False
        self._ended = False
        self._ending = False
        self._keep = False
        self._since = self._loop.time()
        self._hup: select.epoll | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.endless = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not derive from it
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._server.add(self)

    # Input

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        if self._raw is not None:
            self._input(self._raw, data)
            return
        if self._body is None:
            self._parse(data)
            return
        self._rest += self._fill(self._body, data)
        if self.task is None and self._body.complete:
            self._next()
        self._throttle()

    def _parse(self, data: bytes) -> None:
        """Bytes of a head, where no request is in progress."""
        begun = self._head.begun
        try:
            found = self._head.feed(data)
            if found is None:
                if self._head.begun and not begun:
                    self._since = self._loop.time()
                return
            head, rest = found
            body = Body(head.framing(), self, expected=head.expects())
        except Refused as refused:
            self._refuse(refused)
            return
        request = Request(
            self,
            head.method,
            head.target,
            head.version,
            head.headers,
            body,
            keep_alive=head.keep_alive,
        )
        self._body = body
        self._keep = True
        if rest:
            self._rest += self._fill(body, rest)
            self._throttle()
        # Owned by this connection: cancelled with it, waited for by `Server.shutdown`.
        self.task = self._loop.create_task(self._serve(request))

    def _fill(self, body: Body, data: bytes) -> bytes:
        """Give the body what is its own; what is behind it."""
        if body.complete:
            return data
        try:
            return body.feed(data)
        except InvalidParameter as error:
            # Nobody knows where the next request would begin.
            self._ending = True
            self._keep = False
            body.fail(error)
            return b""

    def _throttle(self) -> None:
        """Leave the socket alone while more is held than is good."""
        held = len(self._rest) + (self._body.held if self._body is not None else 0)
        if self._transport is None or self._paused == (held > HIGH_WATER):
            return
        self._paused = not self._paused
        if self._paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def body_wanted(self) -> None:
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def body_taken(self) -> None:
        if self._paused:
            self._throttle()

    def _refuse(self, refused: Refused) -> None:
        """The answer to what is no request; nothing after it is looked at."""
        _log.debug("refused: %s", refused)
        text = f"{refused.status} {refused.status.phrase}".encode()  # Go's server says no more
        self.write(
            b"HTTP/1.1 %b\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (text, len(text), text)
        )
        self._part()

    def _part(self) -> None:
        """Close, but not at once: while the client still sends, that would be a reset, and the
        answer would be lost with it."""
        self._ending = True
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
        self._timer = self._loop.call_later(PARTING, self.close)

    # Requests

    async def _serve(self, request: Request) -> None:
        """One request, up to the end of its answer."""
        try:
            reply = await self._server.handler(request)
            await reply.finish(request)
            self._keep = self._keep and reply.keep_alive
        except ConnectionError:
            # The client is gone, or the answer broke off: it sees an end without an end mark.
            self._body = None
            self.close()
        except Exception:
            _log.exception("%s %s: the handler failed", request.method, request.raw_path)
            self._body = None
            self.close()
        except asyncio.CancelledError:
            self._body = None
            self.close()
            raise
        finally:
            self.task = None
            self.endless = False
        if self._transport is None or self._body is None:
            return
        if self._raw is not None:
            self.close()
        elif not self._body.ends:
            self._part()
        elif self._body.complete:
            self._next()
        else:
            self._body.discard()
            self._throttle()
            self._timer = self._loop.call_later(LINGER, self.close)

    def _next(self) -> None:
        """The request is answered and its body has come: on to the next, if there is to be one."""
        self._body = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._keep or self._server.closing:
            self.close()
            return
        self._since = self._loop.time()
        if self._rest:
            data = bytes(self._rest)
            self._rest.clear()
            self._throttle()
            self._parse(data)
        if self._ended and (self._body is None or not self._body.complete):
            self.close()  # the rest of it will never come

    # Hijack

    def hijack(self) -> RawStream:
        """Take the connection over; the handler answers with `reply.TAKEN` in the end."""
        if self._transport is None:
            raise ConnectionResetError("the client has gone away")
        early = bytes(self._rest)
        self._rest.clear()
        if self._body is not None:
            self._body.discard()
        self._throttle()
        self._raw = RawStream(self._transport, self, early)
        if self._ended:
            self._raw.feed_eof()
        # From the start: input may be paused, and then its end is not seen.
        self._watch(self._transport.get_extra_info("socket"))
        return self._raw

    def _input(self, raw: RawStream, data: bytes) -> None:
        """What is still missing of a body of known length is no input. The end of chunks is
        not waited for: clients that send their input so mean it raw when they upgrade."""
        body = self._body
        if body is not None and isinstance(body.framing, Sized):
            data = body.feed(data)
        if data:
            raw.feed(data)

    # Output

    def write(self, data: bytes) -> None:
        """ConnectionResetError when the client is gone."""
        if self._transport is None:
            raise ConnectionResetError("the client has gone away")
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait while the client does not read. ConnectionResetError when it is gone."""
        if self._drained is not None:
            await asyncio.shield(self._drained)  # there may be others who wait
        if self._transport is None:
            raise ConnectionResetError("the client has gone away")

    @property
    def writing_paused(self) -> bool:
        return self._drained is not None

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # End

    def eof_received(self) -> bool:
        """True keeps the writing side open (asyncio's contract)."""
        transport = self._transport
        if transport is None or not transport.can_write_eof():
            return False
        sock: socket.socket = transport.get_extra_info("socket")
        if _hung_up(sock):
            return False
        if self._raw is not None:
            self._raw.feed_eof()
            return True
        if sock.family != socket.AF_UNIX:
            return False  # TCP can't tell a half-close from an end
        if self.task is None or self._body is None or not self._body.complete:
            return False
        self._watch(sock)
        self._ended = True  # closed after the answers to what has come
        return True

    def _watch(self, sock: socket.socket) -> None:
        """Be told when the other direction ends too. An epoll of its own: the loop watches
        for input only, and after end of input that would be always ready."""
        if self._hup is not None:
            return
        self._hup = select.epoll()
        self._hup.register(sock.fileno(), 0)
        self._loop.add_reader(self._hup.fileno(), self._hung)

    def _hung(self) -> None:
        self._unwatch()
        if self._transport is not None:
            self._transport.abort()

    def _unwatch(self) -> None:
        if self._hup is not None:
            self._loop.remove_reader(self._hup.fileno())
            self._hup.close()
            self._hup = None

    def close(self) -> None:
        """Send what was written, and close."""
        self._ending = True
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._transport = None
        self._server.remove(self)
        self.resume_writing()
        if self._timer is not None:
            self._timer.cancel()
        if self._raw is not None:
            self._raw.lost()
        if self._body is not None:
            self._body.fail(ConnectionResetError("the client has gone away"))
        if self.task is not None:
            self.task.cancel()

    # The server's

    def shut(self) -> None:
        """The engine ends: so does this, unless a short request is in progress."""
        if self.task is None:
            self.close()
        elif self._raw is not None or self.endless:
            self.task.cancel()

    def sweep(self, now: float) -> None:
        """Close it if its client is over time."""
        limit = HEAD_TIME if self._head.begun else IDLE_TIME
        if self._body is None and not self._ending and now - self._since > limit:
            self.close()


def _hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return bool(poll.poll(0))


class Server:
    """A factory of connections that all talk to one handler."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.closing = False
        self._connections: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:
        return Connection(self)

    def add(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def remove(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = None
        for connection in list(self._connections):
            connection.sweep(loop.time())
        if self._connections:
            self._sweeper = loop.call_later(SWEEP, self._sweep)

    async def shutdown(self, grace: float) -> None:
        """End streams at once, let short requests end within `grace` seconds, end the rest."""
        self.closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._connections):
            connection.shut()
        left = {one.task for one in self._connections if one.task is not None}
        if left:
            _, left = await asyncio.wait(left, timeout=grace)
            for task in left:
                task.cancel()
        if left:
            await asyncio.wait(left, timeout=0.1)
        for connection in list(self._connections):
            connection.close()
