"""Frames over a unix stream socket in asyncio, with requests and replies: for the daemon."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from gantry.ipc.channel import receive_some, send_some
from gantry.ipc.frames import Decoder, Message, ProtocolError, close_all, encode


class Disconnected(ConnectionError):
    """The peer is gone; an unanswered request may or may not have been done."""


class Requester:
    """One connection to a peer that answers.

    A request's head gets an "id"; the reply has the same one. A message without "id" is
    an event and goes to `on_event`. `on_close` is called once, from the loop, after the
    peer went away or `close` was called. Uses loop.add_reader (asyncio's transports know
    no SCM_RIGHTS).
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_event: Callable[[Message], None],
        on_close: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()
        self._on_event = on_event
        self._on_close = on_close
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._out: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._last = 0
        self._closed = False
        self._loop.add_reader(sock, self._readable)

    @property
    def closed(self) -> bool:
        """Whether the peer is gone or `close` was called."""
        return self._closed

    def post(self, head: Mapping[str, object], body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send without expecting an answer; takes over `fds` (closed when sent). Disconnected."""
        if self._closed:
            close_all(fds)
            raise Disconnected("the connection is closed")
        idle = not self._out
        self._out.append((memoryview(encode(head, body, len(fds))), fds))
        if idle and not self._flush():
            self._loop.add_writer(self._sock, self._writable)
        if self._closed:
            raise Disconnected("the connection is closed")

    async def request(
        self, op: str, body: bytes = b"", fds: Sequence[int] = (), /, **fields: object
    ) -> Message:
        """Send and wait for the answer; takes over `fds`. Disconnected."""
        self._last += 1
        ident = self._last
        future: asyncio.Future[Message] = self._loop.create_future()
        self._waiting[ident] = future
        try:
            self.post({"id": ident, "op": op, **fields}, body, fds)
            return await future
        finally:
            self._waiting.pop(ident, None)
            if future.done() and not future.cancelled():
                future.exception()  # seen: `post` may have raised it already

    def close(self) -> None:
        """Close; requests under way fail with Disconnected. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        for _, fds in self._out:
            close_all(fds)
        self._out.clear()
        self._decoder.close()
        self._sock.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Disconnected("the peer went away"))
        self._on_close()

    def _readable(self) -> None:
        try:
            data, fds = receive_some(self._sock)
            messages = self._decoder.feed(data, fds) if data else []
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            self.close()
            return
        if not data:
            close_all(fds)
            self.close()
            return
        for message in messages:
            self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        ident = message.head.get("id")
        if not isinstance(ident, int):
            self._on_event(message)
            return
        future = self._waiting.get(ident)
        if future is None or future.done():
            message.close()  # its requester was cancelled
        else:
            future.set_result(message)

    def _writable(self) -> None:
        if self._flush() and not self._closed:
            self._loop.remove_writer(self._sock)

    def _flush(self) -> bool:
        """Send what the socket takes; true when nothing is left."""
        while self._out:
            data, fds = self._out[0]
            try:
                sent = send_some(self._sock, data, fds)
            except BlockingIOError:
                return False
            except OSError:
                self.close()
                return True
            close_all(fds)
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], ())
        return True
