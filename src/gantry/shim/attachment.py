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

import struct
import time
from collections import deque
from collections.abc import Callable
from socket import socket

from gantry.shim.loop import GONE, READ, WRITE, Loop
from gantry.shim.spill import Spill

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
        self._spill: Spill | None = None
        self._overflow: deque[bytes | memoryview] = deque()
        self._overflow_size = 0
        self._waiting: deque[bytes | memoryview] = deque()
        self._size = 0
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
        spilled = 0 if self._spill is None else self._spill.size
        return self._size + spilled + self._overflow_size

    @property
    def full(self) -> bool:
        """Whether the container has to wait for this client."""
        return bool(self._overflow) or self.backlog >= BUFFER + SPILL

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
        self._overflow.clear()
        self._size = self._overflow_size = 0
        if self._spill is not None:
            self._spill.close()
        self._on_gone(self)

    def _keep(self, data: bytes | memoryview) -> None:
        """In order: memory, then the file, then (no room there) one piece in memory again."""
        if not self._overflow:
            if self._size < BUFFER and (self._spill is None or not self._spill.size):
                self._waiting.append(data)
                self._size += len(data)
                return
            if self._spill is None:
                self._spill = Spill(self._spill_folder)
            try:
                self._spill.write(data)
                return
            except OSError:
                pass  # the disk is full: the container waits
        self._overflow.append(data)
        self._overflow_size += len(data)

    def _refill(self) -> None:
        """What comes after what waited in memory: the file's, then what did not fit there."""
        data: bytes | memoryview = b"" if self._spill is None else self._spill.read(_CHUNK)
        if not data:
            data = self._overflow.popleft()
            self._overflow_size -= len(data)
        self._waiting.append(data)
        self._size = len(data)

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
