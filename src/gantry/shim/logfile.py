"""A container's log on disk: split into lines, written in large pieces, rotated.

Splits as moby's `daemon/logger/copier.go` does: a line is written when it is complete or
16 KiB long; what is unfinished at the end of the output is written without a newline.
Rotates as `loggerutils/logfile.go`: path.1 is the latest, files are rotated before the
first entry after they reached max_size. Never raises for a full disk: output that can't
be written is dropped and counted, the container goes on.
"""

from __future__ import annotations

import os
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from gantry.ipc import records
from gantry.model.task import LogSpec
from gantry.shim.jsonlog import Clock, Encoder

LINE_LIMIT = 16384
_MODE = 0o640

Fork = Callable[[Callable[[], None], Callable[[], None]], None]
"""Run the first function in a child of its own, the second here when that has ended."""


class Log(ABC):
    """Where output goes; streams are 1 (stdout) and 2 (stderr)."""

    @abstractmethod
    def write(self, stream: int, data: bytes) -> None:
        """The next bytes that the container wrote."""

    @abstractmethod
    def finish(self) -> None:
        """No more output: write what is unfinished, close."""


class NoLog(Log):
    """Driver `none`."""

    def write(self, stream: int, data: bytes) -> None:
        pass

    def finish(self) -> None:
        pass


class RotatedFile:
    """The current file and its predecessors. dropped: bytes that could not be written."""

    def __init__(self, spec: LogSpec, fork: Fork | None = None) -> None:
        self._path = spec.path
        self._limit = spec.max_size
        self._keep = max(1, spec.max_file)
        self._fork = fork if spec.compress and self._keep > 1 else None
        self._compressing = 0  # its present number, 0 when no file is being compressed
        self.dropped = 0
        self._fd = self._open(os.O_APPEND)
        self._size = os.fstat(self._fd).st_size if self._fd >= 0 else 0

    @property
    def room(self) -> int:
        """Bytes after which the file is full; large when it never is."""
        return self._limit - self._size if self._limit > 0 else 1 << 62

    def write(self, data: bytes) -> None:
        """Append whole entries; the file may get longer than its limit by one of them."""
        if self._fd < 0:
            self._fd = self._open(os.O_APPEND)
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            self.dropped += len(view)

    def rotate(self) -> None:
        """path → path.1 → path.2 …, the last one goes; a reader keeps what it has open."""
        self.close()
        try:
            if self._keep == 1:
                os.unlink(self._path)
            else:
                self._shift()
        except OSError:
            pass
        self._fd = self._open(os.O_TRUNC)
        self._size = 0
        if self._fork is not None and not self._compressing:
            self._compress()

    def close(self) -> None:
        """Close the current file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, flags: int) -> int:
        try:
            flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            return os.open(self._path, flags, _MODE)
        except OSError:
            return -1

    def _shift(self) -> None:
        last = 1
        while last < self._keep - 1 and self._there(f"{self._path}.{last}"):
            last += 1
        for number in range(min(last, self._keep - 1), 0, -1):
            old = self._path if number == 1 else f"{self._path}.{number - 1}"
            new = f"{self._path}.{number}"
            for end in ("", ".gz"):
                try:
                    os.unlink(new + end)
                except FileNotFoundError:
                    pass
                try:
                    os.rename(old + end, new + end)
                except FileNotFoundError:
                    pass
        if self._compressing:
            self._compressing += 1

    @staticmethod
    def _there(path: str) -> bool:
        return os.path.lexists(path) or os.path.lexists(path + ".gz")

    def _compress(self) -> None:
        """path.1 to path.1.gz in a child; it may have become path.2 when that is ready."""
        assert self._fork is not None
        source, draft = f"{self._path}.1", f"{self._path}.gz.tmp"
        self._compressing = 1

        def ready() -> None:
            number, self._compressing = self._compressing, 0
            name = f"{self._path}.{number}"
            try:
                if number < self._keep and os.path.exists(name):
                    os.rename(draft, name + ".gz")
                    os.unlink(name)
                else:
                    os.unlink(draft)
            except OSError:
                pass

        try:
            source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._compressing = 0
            return
        try:
            self._fork(lambda: compress(source_fd, draft), ready)
        finally:
            os.close(source_fd)


def compress(source_fd: int, target: str) -> None:
    """gzip(1) what `source_fd` holds into `target`; on an error `target` is removed."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    try:
        offset = 0
        while data := os.pread(source_fd, 1 << 18, offset):
            offset += len(data)
            write_all(fd, packer.compress(data))
        write_all(fd, packer.flush())
    except OSError:
        os.unlink(target)
        raise
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """write(2) until nothing is left."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def long_line(block: bytes) -> bool:
    """Whether a line of `block` (which ends with a newline) is LINE_LIMIT or longer."""
    position, end = 0, len(block)
    while end - position > LINE_LIMIT:
        newline = block.rfind(b"\n", position, position + LINE_LIMIT)
        if newline < 0:
            return True
        position = newline + 1
    return False


class LineLog(Log):
    """Splits output into lines and pieces, for a format that knows how to write both."""

    def __init__(self, file: RotatedFile, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.file = file
        self._now_ns = now_ns
        self._rest: dict[int, bytes] = {}
        self._since: dict[int, int] = {}  # a split line's pieces all have its first time

    @abstractmethod
    def _entries(self, stream: int, block: bytes, time_ns: int) -> bytes:
        """The entries for whole lines."""

    @abstractmethod
    def _piece(self, stream: int, text: bytes, time_ns: int) -> bytes:
        """The entry for a part of a line."""

    @abstractmethod
    def _fit(self, entries: bytes, room: int) -> int:
        """How many bytes of `entries` are the first ones that fill `room` bytes."""

    def write(self, stream: int, data: bytes) -> None:
        now = self._now_ns()
        rest = self._rest.pop(stream, b"")
        if rest:
            data = rest + data
        end = data.rfind(b"\n") + 1
        block = data
        if end < len(data):
            block, rest = data[:end], data[end:]
            if len(rest) >= LINE_LIMIT or not end:
                self._unfinished(stream, block, rest, now)
                return
            self._rest[stream] = rest
        if block:
            self._lines(stream, block, now)

    def finish(self) -> None:
        now = self._now_ns()
        for stream, rest in self._rest.items():
            self._put(self._piece(stream, rest, self._since.pop(stream, now)))
        self._rest.clear()
        self.file.close()

    def _unfinished(self, stream: int, block: bytes, rest: bytes, now: int) -> None:
        if block:
            self._lines(stream, block, now)
        while len(rest) >= LINE_LIMIT:
            since = self._since.setdefault(stream, now)
            self._put(self._piece(stream, rest[:LINE_LIMIT], since))
            rest = rest[LINE_LIMIT:]
        if rest:
            self._rest[stream] = rest

    def _lines(self, stream: int, block: bytes, now: int) -> None:
        if stream in self._since:  # the end of a line that was split
            first = block.index(b"\n") + 1
            if first <= LINE_LIMIT:
                self._put(self._entries(stream, block[:first], self._since.pop(stream)))
                block = block[first:]
        if long_line(block):
            for text, whole in split_long(block):
                since = self._since.setdefault(stream, now)
                if whole:
                    del self._since[stream]
                    self._put(self._entries(stream, text, since))
                else:
                    self._put(self._piece(stream, text, since))
        elif block:
            self._put(self._entries(stream, block, now))

    def _put(self, entries: bytes) -> None:
        """Write entries, rotating between those where moby would."""
        while entries:
            room = self.file.room
            if room <= 0:
                self.file.rotate()
                room = self.file.room
            if len(entries) <= room:
                self.file.write(entries)
                return
            fitting = self._fit(entries, room)
            self.file.write(entries[:fitting])
            entries = entries[fitting:]


def split_long(block: bytes) -> Iterator[tuple[bytes, bool]]:
    """Pieces of `block` in order: (text, whole); whole ones are ends of lines or lines."""
    for text in block[:-1].split(b"\n"):
        line = text + b"\n"
        start = 0
        while len(line) - 1 - start >= LINE_LIMIT:
            yield line[start : start + LINE_LIMIT], False
            start += LINE_LIMIT
        yield line[start:], True


class JsonFileLog(LineLog):
    """Driver `json-file`."""

    def __init__(
        self, spec: LogSpec, fork: Fork | None = None, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        super().__init__(RotatedFile(spec, fork), now_ns)
        self._encoder = Encoder(spec.attrs)
        self._clock = Clock()

    def _entries(self, stream: int, block: bytes, time_ns: int) -> bytes:
        return self._encoder.lines(stream, block, self._clock.stamp(time_ns))

    def _piece(self, stream: int, text: bytes, time_ns: int) -> bytes:
        return self._encoder.piece(stream, text, self._clock.stamp(time_ns))

    def _fit(self, entries: bytes, room: int) -> int:
        return entries.index(b"\n", max(0, room - 1)) + 1


class LocalLog(LineLog):
    """Driver `local`: `gantry.ipc.records`."""

    def __init__(
        self, spec: LogSpec, fork: Fork | None = None, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        super().__init__(RotatedFile(spec, fork), now_ns)

    def _entries(self, stream: int, block: bytes, time_ns: int) -> bytes:
        return records.encode(stream, time_ns, block, partial=False)

    def _piece(self, stream: int, text: bytes, time_ns: int) -> bytes:
        return records.encode(stream, time_ns, text, partial=True)

    def _fit(self, entries: bytes, room: int) -> int:
        return len(entries)  # one record at a time


def open_log(spec: LogSpec, fork: Fork | None = None) -> Log:
    """The writer for a container's log driver; any but `none` and `local` is json-file."""
    if spec.driver == "none" or not spec.path:
        return NoLog()
    if spec.driver == "local":
        return LocalLog(spec, fork)
    return JsonFileLog(spec, fork)
