"""Read a container's log: the past, then, if wanted, what comes, through rotation.

    async for frames in LogReader(path, "json-file").read(LogQuery(tail=10, follow=True), ended):
        await response.write(frames)

Files are opened first and then read, so a rotation meanwhile takes nothing away. Large
blocks are decoded in a thread, small ones (most reads) at once.
"""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from gantry.ipc.owner import TaskOwner
from gantry.logs import jsonfile, local
from gantry.logs.query import LogQuery, Renderer
from gantry.logs.watch import FileWatch

BLOCK = 1 << 20
POLL = 0.2
INLINE = 1 << 16
"""Blocks up to this are decoded on the loop: a thread costs more than the work."""


class Decoder(Protocol):
    """A format: whole entries to frames."""

    def render(self, block: bytes, skip: int = 0) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Format:
    """How a driver's files are read."""

    whole: Callable[[bytes | bytearray], int]
    tail: Callable[[int, int, int], tuple[int, int, int]]
    decoder: Callable[[Renderer], Decoder]


JSON_FILE = Format(jsonfile.whole, jsonfile.tail, jsonfile.JsonFileDecoder)
LOCAL = Format(local.whole, local.tail, local.LocalDecoder)


class LogReader:
    """The log at `path`. driver: "json-file", "local", "none"; any other keeps json-file."""

    def __init__(self, path: str, driver: str = "json-file") -> None:
        self._path = path
        self._none = driver == "none"
        self._format = LOCAL if driver == "local" else JSON_FILE

    async def read(
        self, query: LogQuery, ended: asyncio.Event | None = None
    ) -> AsyncIterator[bytes]:
        """Frames (for a terminal: lines), many joined in each piece, oldest first.

        With `follow` it goes on until `ended` is set (the container has ended and its
        output is in the log) or the time `until` has come; without, it ends with the log.
        A log that does not exist is empty.
        """
        if self._none:
            return
        renderer = Renderer(query)
        decoder = self._format.decoder(renderer)
        with ExitStack() as scope:
            parts = await asyncio.to_thread(self._open, query, scope)
            for part in parts:
                async for frames in self._drain(part, decoder):
                    yield frames
                if renderer.done:
                    return
            if query.follow:
                current = parts[-1] if parts else None
                async for frames in self._follow(current, decoder, renderer, query, ended):
                    yield frames

    # -- the past -----------------------------------------------------------------------

    def _open(self, query: LogQuery, scope: ExitStack) -> list[Part]:
        """The files to be read, oldest first, each from where `tail` says."""
        parts: list[Part] = []
        seen: set[int] = set()
        wanted = query.tail
        for number in count():
            fd = _open_file(self._path, number, scope)
            if fd is None:
                if number:
                    break
                continue  # not there yet, or between two steps of a rotation
            status = os.fstat(fd)
            if status.st_ino in seen:
                continue  # it was rotated while we were opening
            seen.add(status.st_ino)
            offset = skip = 0
            if wanted is not None:
                size = self._size(fd, status.st_size)
                offset, found, skip = (
                    self._format.tail(fd, size, wanted) if wanted > 0 else (size, 0, 0)
                )
                wanted -= found
            parts.append(Part(fd, offset, skip))
            if wanted is not None and wanted <= 0:
                break
        parts.reverse()
        return parts

    def _size(self, fd: int, size: int) -> int:
        """The size without an entry that is being written."""
        if self._format is LOCAL:
            return size
        while size > 0:
            start = max(0, size - INLINE)
            found = os.pread(fd, size - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            size = start
        return 0

    async def _drain(self, part: Part, decoder: Decoder) -> AsyncIterator[bytes]:
        """All whole entries from the part's position on."""
        while True:
            remaining = os.fstat(part.fd).st_size - part.offset
            if remaining <= 0:
                return
            if remaining <= INLINE:
                frames = self._step(part, decoder)
            else:
                frames = await asyncio.to_thread(self._step, part, decoder)
            if frames is None:
                return
            if frames:
                yield frames

    def _step(self, part: Part, decoder: Decoder) -> bytes | None:
        """Read and decode one block; None when there is no whole entry."""
        size = BLOCK
        while True:
            block = os.pread(part.fd, size, part.offset)
            end = self._format.whole(block)
            if end:
                break
            if len(block) < size:
                return None
            size *= 4  # an entry that is longer than a block
        if end < len(block):
            block = block[:end]
        skip, part.skip = part.skip, 0
        part.offset += end
        return decoder.render(block, skip)

    # -- what comes ---------------------------------------------------------------------

    async def _follow(
        self,
        part: Part | None,
        decoder: Decoder,
        renderer: Renderer,
        query: LogQuery,
        ended: asyncio.Event | None,
    ) -> AsyncIterator[bytes]:
        changed = asyncio.Event()
        owner = TaskOwner("log follower")
        if ended is not None:
            owner.spawn(_relay(ended, changed), self._path)
        own = -1 if part is None else os.dup(part.fd)
        current = Part(own, part.offset if part else 0, 0)
        watch = FileWatch(changed)
        try:
            if own >= 0:
                watch.watch(own)
            while not renderer.done:
                # Looked at before the read: what was written before the end is then read.
                over = ended is not None and ended.is_set()
                changed.clear()
                if current.fd >= 0:
                    async for frames in self._drain(current, decoder):
                        yield frames
                if self._next(current):
                    watch.watch(current.fd)
                    continue
                if over or not await _wait(changed, query.until, poll=current.fd < 0):
                    return
        finally:
            await owner.aclose()
            watch.close()
            if current.fd >= 0:
                os.close(current.fd)

    def _next(self, current: Part) -> bool:
        """Go on to the file that followed the one just read to its end, if there is one."""
        number = 0
        if current.fd >= 0:
            inode = os.fstat(current.fd).st_ino
            for candidate in count():
                try:
                    if os.stat(_name(self._path, candidate)).st_ino == inode:
                        number = candidate - 1
                        break
                except FileNotFoundError:
                    if candidate:
                        break  # gone or compressed: on with the present one
            if number < 0:
                return False
        try:
            fd = os.open(_name(self._path, number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        if current.fd >= 0:
            if os.fstat(fd).st_ino == os.fstat(current.fd).st_ino:
                os.close(fd)
                return False
            os.close(current.fd)
        current.fd, current.offset, current.skip = fd, 0, 0
        return True


@dataclass(slots=True)
class Part:
    """An open file and how far it was read. skip: lines to leave out at the offset."""

    fd: int
    offset: int
    skip: int


async def _wait(changed: asyncio.Event, until: int | None, *, poll: bool) -> bool:
    """Wait for a change; false when the time `until` has come. poll: there is no file yet."""
    patience = None if until is None else until / 1e9 - time.time()
    if patience is not None and patience <= 0:
        return False
    if poll and (patience is None or patience > POLL):
        patience = POLL
    try:
        async with asyncio.timeout(patience):
            await changed.wait()
    except TimeoutError:
        pass
    return True


async def _relay(ended: asyncio.Event, changed: asyncio.Event) -> None:
    await ended.wait()
    changed.set()


def _name(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path


def _open_file(path: str, number: int, scope: ExitStack) -> int | None:
    """The file of that number, decompressed if need be; None when there is none."""
    name = _name(path, number)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return _decompressed(name + ".gz", scope) if number else None
    scope.callback(os.close, fd)
    return fd


def _decompressed(name: str, scope: ExitStack) -> int | None:
    """A file without a name that holds what `name` holds compressed."""
    try:
        source = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    folder = os.path.dirname(name) or "."
    target = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    scope.callback(os.close, target)
    unpacker = zlib.decompressobj(31)
    offset = 0
    try:
        while data := os.pread(source, BLOCK, offset):
            offset += len(data)
            _write(target, unpacker.decompress(data))
        _write(target, unpacker.flush())
    finally:
        os.close(source)
    return target


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
