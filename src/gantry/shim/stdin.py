"""The writing end of a process's standard input."""

from __future__ import annotations

import os
from collections.abc import Callable

from gantry.shim.loop import WRITE, Loop, would_block

LIMIT = 1 << 16


class Stdin:
    """Input on its way to a pipe or a terminal; what it does not take waits here.

    Input for a process that has closed its stdin is swallowed, as dockerd does. on_room: the
    process has taken what waited; on_end: it gets no more.
    """

    def __init__(
        self, loop: Loop, on_room: Callable[[], None], on_end: Callable[[], None] | None = None
    ) -> None:
        self._loop = loop
        self._on_room = on_room
        self._on_end = on_end
        self._fd = -1
        self._data = b""
        self._watched = False
        self._ending = False
        self._closed = False

    def open(self, fd: int) -> None:
        """Take over `fd` (non-blocking) and write what came before."""
        self._fd = fd
        self._flush()

    def write(self, data: bytes) -> bool:
        """Take `data` over; false when the sender shall wait for on_room."""
        if self._closed or self._ending:
            return True
        self._data += data
        self._flush()
        return len(self._data) < LIMIT

    def end(self) -> None:
        """Close after what waits has been written."""
        self._ending = True
        if not self._data:
            self.close()

    def close(self) -> None:
        """Close now. Idempotent."""
        self._closed = True
        self._data = b""
        if self._fd >= 0:
            if self._watched:
                self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1
            if self._on_end is not None:
                self._on_end()

    def _flush(self) -> None:
        while self._data and self._fd >= 0:
            try:
                written = os.write(self._fd, self._data)
            except OSError as error:
                if would_block(error):
                    break
                self.close()  # EPIPE: nobody reads any more; EIO: a terminal without a process
                self._on_room()
                return
            self._data = self._data[written:]
        if self._data or self._fd < 0:
            if self._fd >= 0 and not self._watched:
                self._watched = True
                self._loop.watch(self._fd, WRITE, self._writable)
            return
        if self._watched:
            self._watched = False
            self._loop.unwatch(self._fd)
        if self._ending:
            self.close()

    def _writable(self, _events: int) -> None:
        self._flush()
        if len(self._data) < LIMIT:
            self._on_room()
