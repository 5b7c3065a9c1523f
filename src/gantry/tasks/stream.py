"""An attachment's daemon end: bytes from and to a socket of the shim's."""

from __future__ import annotations

import asyncio
import socket

_CHUNK = 1 << 16


class SocketStream:
    """`gantry.containers.tasks.Stream` over a socket, which it owns."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._closed = False

    async def read(self) -> bytes:
        """The next bytes, b"" at the end and after `close`."""
        while not self._closed:
            try:
                return self._sock.recv(_CHUNK)
            except BlockingIOError:
                pass
            except OSError:
                return b""
            self._reading = self._loop.create_future()
            self._loop.add_reader(self._sock.fileno(), _wake, self._reading)
            try:
                await self._reading
            finally:
                if not self._closed:
                    self._loop.remove_reader(self._sock.fileno())
                self._reading = None
        return b""

    async def write(self, data: bytes) -> None:
        """To stdin. BrokenPipeError: the process's end is closed."""
        view = memoryview(data)
        while view:
            if self._closed:
                raise BrokenPipeError("the stream is closed")
            try:
                view = view[self._sock.send(view, socket.MSG_NOSIGNAL) :]
                continue
            except BlockingIOError:
                pass
            except ConnectionError as error:
                raise BrokenPipeError(str(error)) from None
            self._writing = self._loop.create_future()
            self._loop.add_writer(self._sock.fileno(), _wake, self._writing)
            try:
                await self._writing
            finally:
                if not self._closed:
                    self._loop.remove_writer(self._sock.fileno())
                self._writing = None

    async def close_stdin(self) -> None:
        """Half close; the output goes on."""
        if not self._closed:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the shim is gone

    async def close(self) -> None:
        """Detach. Idempotent; a `read` under way gets b""."""
        self.close_now()

    def close_now(self) -> None:
        """`close`, for who is not a coroutine."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for waiting in (self._reading, self._writing):
            if waiting is not None:
                _wake(waiting)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
