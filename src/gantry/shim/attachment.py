"""One client that sees (and feeds) a process's standard streams.

The shim's end of a socket pair, whose other end the daemon pumps to the client. What
goes out has Docker's shape already: raw for a terminal, else frames with the 8-byte
header (`stream 0 0 0 length`, big endian).

A client that reads slowly never stops the container at once: up to BUFFER bytes wait in
memory, then up to SPILL bytes in a file without a name. Only then the container's output
waits for the client, as with dockerd (which has no such room and does so at once): a
pipeline such as `docker run … | xz` must never lose bytes. A client that took nothing at
all for STALLED seconds while the container waits for it is cut off, and the container
goes on.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import Callable
from socket import socket

from gantry.shim.loop import GONE, READ, WRITE, Loop

BUFFER = 1 << 20
SPILL = 1 << 30
STALLED = 60.0
_CHUNK = 1 << 16
_HEADER = struct.Struct("!BxxxI")


class Attachment:
    """on_input(data): stdin bytes, b"" at their end; returns False to be asked to wait
    (call `resume_input`). on_room: the backlog got small again. on_gone: detached."""

    def __init__(
        self,
        loop: Loop,
        sock: socket,
        wants: tuple[bool, bool, bool],
        *,
        raw: bool,
        on_input: Callable[[Attachment, bytes], bool],
        on_room: Callable[[], None],
        on_gone: Callable[[Attachment], None],
        spill_folder: str,
    ) -> None:
        self.stdin, self.stdout, self.stderr = wants
        self._raw = raw
        self._loop = loop
        self._on_input, self._on_room, self._on_gone = on_input, on_room, on_gone
        self._spill_folder = spill_folder
        self._waiting: deque[bytes | memoryview] = deque()
        self._size = 0
        self._spill: int = -1
        self._spilled = self._unspilled = 0
        self._ended = False  # no more output comes
        self._input_open = True
        self._input_paused = False
        self._closed = False
        self.progress = time.monotonic()
        self._sock = sock
        sock.setblocking(False)
        loop.watch(self._sock.fileno(), READ, self._ready)

    @property
    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._size + self._spilled - self._unspilled

    @property
    def full(self) -> bool:
        """Whether the container has to wait for this client."""
        return self.backlog >= BUFFER + SPILL and not self._closed

    @property
    def stalled(self) -> bool:
        """Whether the container has waited long enough for this client."""
        return self.full and time.monotonic() - self.progress > STALLED

    def send(self, stream: int, data: bytes) -> None:
        """Output of the process; streams 1 and 2."""
        if self._closed or not (self.stdout if stream == 1 else self.stderr):
            return
        header = b"" if self._raw else _HEADER.pack(stream, len(data))
        if not self.backlog:
            self.progress = time.monotonic()
            try:
                sent = self._sock.sendmsg([header, data] if header else [data])
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            if sent == len(header) + len(data):
                return
            self._keep(memoryview(header + data)[sent:])
            self._watch()
            return
        self._keep(header + data)

    def end(self) -> None:
        """No more output; the client gets end of file after what is waiting."""
        self._ended = True
        if not self.backlog:
            self.close()

    def resume_input(self) -> None:
        """stdin has room again."""
        if self._input_paused:
            self._input_paused = False
            self._watch()

    def close(self) -> None:
        """Detach. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()
        self._waiting.clear()
        self._size = self._spilled = self._unspilled = 0
        if self._spill >= 0:
            os.close(self._spill)
        self._on_gone(self)

    def _keep(self, data: bytes | memoryview) -> None:
        if self._spilled > self._unspilled or self._size >= BUFFER:
            try:
                self._to_file(data)
                return
            except OSError:
                pass  # no room for the file: memory it is, and `full` comes later
        self._waiting.append(data)
        self._size += len(data)

    def _to_file(self, data: bytes | memoryview) -> None:
        if self._spill < 0:
            flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
            self._spill = os.open(self._spill_folder, flags, 0o600)
        view = memoryview(data)
        position = self._spilled
        while view:
            written = os.pwrite(self._spill, view, position)
            position += written
            view = view[written:]
        self._spilled = position

    def _refill(self) -> None:
        data = os.pread(self._spill, _CHUNK, self._unspilled)
        self._unspilled += len(data)
        self._waiting.append(data)
        self._size += len(data)
        if self._unspilled == self._spilled:
            os.ftruncate(self._spill, 0)
            self._spilled = self._unspilled = 0

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        if self._closed:
            return
        if events & READ and self._input_open and not self._input_paused:
            self._read()
        elif events & GONE:
            self.close()

    def _write(self) -> None:
        while self.backlog:
            if not self._waiting:
                self._refill()
            data = self._waiting[0]
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self.progress = time.monotonic()
            self._size -= sent
            if sent == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = memoryview(data)[sent:]
        if not self.backlog:
            if self._ended:
                self.close()
                return
            self._watch()
        if self.backlog < BUFFER:
            self._on_room()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._input_open = False
        if self.stdin and not self._on_input(self, data):
            self._input_paused = True
        if not self._closed and (not self._input_open or self._input_paused):
            self._watch()

    def _watch(self) -> None:
        mask = READ if self._input_open and not self._input_paused else 0
        if self.backlog:
            mask |= WRITE
        self._loop.change(self._sock.fileno(), mask)
