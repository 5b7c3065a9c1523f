"""One layer blob, perhaps still growing, becomes a folder: inflate, hash, apply.

The inflating and hashing happen in a thread of their own, a few pieces ahead of the
applying: both let go of the interpreter for most of their time, so two processors are used.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gantry.archive.apply import Limits, apply_layer
from gantry.archive.compression import Compression, decompress
from gantry.archive.reader import Source, TarReader
from gantry.model.snapshot import Flavour

_READ: Final = 1 << 18
_AHEAD: Final = 4


@dataclass(frozen=True, slots=True)
class Unpacked:
    """diff_id: digest of the uncompressed tar; "" when that is the blob's, which somebody else
    finds out (`hashed`). size: bytes of file data."""

    diff_id: str
    size: int
    entries: int
    implicit: tuple[bytes, ...]
    compression: Compression


class FileSource:
    """The bytes of a file that another one still writes.

    available: asked with an offset, blocks until the file has bytes beyond it or is
    complete, and returns how many bytes of it are there.
    """

    def __init__(self, fd: int, available: Callable[[int], int]) -> None:
        self._fd = fd
        self._available = available
        self._there = 0
        self.offset = 0

    def __call__(self) -> bytes:
        if self.offset >= self._there:
            self._there = self._available(self.offset)
            if self.offset >= self._there:
                return b""
        piece = os.pread(self._fd, min(_READ, self._there - self.offset), self.offset)
        self.offset += len(piece)
        return piece


class Ahead:
    """A source that a thread reads ahead of its consumer; `close` ends the thread."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._stop = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def __call__(self) -> bytes:
        if self._ended:
            return b""
        piece = self._queue.get()
        if isinstance(piece, BaseException):
            self._ended = True
            raise piece
        self._ended = not piece
        return piece

    def close(self) -> None:
        """Blocks until the thread has ended: its source must end or fail by itself."""
        self._stop = True
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _run(self) -> None:
        try:
            while not self._stop:
                piece = self._source()
                self._queue.put(piece)
                if not piece:
                    return
        except BaseException as error:  # it belongs to the consumer
            self._queue.put(error)


def unpack(
    source: Source,
    root: int,
    flavour: Flavour,
    *,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    umask: int = 0o777,
    fresh: bool = False,
    hashed: bool = False,
) -> Unpacked:
    """hashed: somebody hashes the blob's bytes anyway, here only inflated ones are.

    Errors as `apply_layer` raises them, and those of `source`."""
    digest = hashlib.sha256()
    kind = Compression.NONE
    inner: Source | None = None

    def wanted(kind: Compression) -> bool:
        return not hashed or kind is not Compression.NONE

    def plain() -> bytes:
        nonlocal inner, kind
        if inner is None:
            kind, inner = decompress(source)
        piece = inner()
        if wanted(kind):
            digest.update(piece)
        return piece

    ahead = Ahead(plain)
    try:
        reader = TarReader(ahead)
        applied = apply_layer(root, reader, flavour, limits=limits, fresh=fresh, umask=umask)
        reader.drain()
    finally:
        ahead.close()
    diff_id = "sha256:" + digest.hexdigest() if wanted(kind) else ""
    return Unpacked(diff_id, applied.size, applied.entries, applied.implicit, kind)
