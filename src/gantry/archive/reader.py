"""Read a tar stream, chunk by chunk, without ever holding more than a chunk of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gantry.archive import header
from gantry.archive.errors import ArchiveError
from gantry.archive.header import BLOCK, Entry

Source = Callable[[], bytes]
"""Gives the next piece of the archive, b"" at its end."""

_EXTENSION_MAX: Final = 1 << 20
"""Bytes: a pax or long-name header above this is an attack."""

_WITHOUT_DATA: Final = frozenset(
    {
        header.HARDLINK,
        header.SYMLINK,
        header.CHARACTER,
        header.BLOCK_DEVICE,
        header.DIRECTORY,
        header.FIFO,
    }
)


class TarReader:
    """Iterate over the entries of an archive; between two, read the data of the first.

    ::

        reader = TarReader(source)
        for entry in reader:
            for piece in reader.data():     # or leave it: it is skipped
                ...

    A cut-off or malformed archive raises ArchiveError. The end is two zero blocks, or the end
    of the stream at an entry's border; what follows the zero blocks is read and dropped, so
    that a digest over the stream covers it.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = b""
        self._position = 0
        self._left = 0
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    def data(self) -> Iterator[memoryview]:
        """The pieces of the present entry's data, in order."""
        while self._left:
            available = len(self._buffer) - self._position
            if not available:
                self._fill()
                continue
            size = min(available, self._left)
            start = self._position
            self._position += size
            self._left -= size
            yield memoryview(self._buffer)[start : start + size]

    def read(self, limit: int) -> bytes:
        """All of the present entry's data; ArchiveError above `limit` bytes."""
        if self._left > limit:
            raise ArchiveError("archive member too large")
        return b"".join(self.data())

    def drain(self) -> None:
        """Read the stream to its end."""
        self._buffer = b""
        self._position = 0
        while self._source():
            pass

    # ---- inside

    def _fill(self) -> None:
        piece = self._source()
        if not piece:
            raise ArchiveError("unexpected EOF")
        rest = self._buffer[self._position :]
        self._buffer = rest + piece if rest else piece
        self._position = 0

    def _take(self, size: int) -> bytes:
        while len(self._buffer) - self._position < size:
            self._fill()
        start = self._position
        self._position = start + size
        return self._buffer[start : start + size]

    def _block(self) -> bytes | None:
        """The next block; None at a clean end of the stream."""
        if self._position + BLOCK > len(self._buffer):
            try:
                return self._take(BLOCK)
            except ArchiveError:
                if self._position == len(self._buffer):
                    return None
                raise
        start = self._position
        self._position = start + BLOCK
        return self._buffer[start : start + BLOCK]

    def _skip(self) -> None:
        for _ in self.data():
            pass
        if self._padding:
            self._take(self._padding)
            self._padding = 0

    def _next(self) -> Entry | None:
        if self._left or self._padding:
            self._skip()
        records: dict[bytes, bytes] = {}
        long_name = long_link = b""
        while True:
            block = self._block()
            if block is None:
                if records or long_name or long_link:
                    raise ArchiveError("unexpected EOF")
                return None
            if not block.strip(b"\0"):
                self.drain()
                return None
            entry = header.parse(block)
            kind = entry.type
            if kind in (header.PAX, header.SOLARIS_PAX):
                records = header.parse_pax(self._extension(entry))
            elif kind == header.PAX_GLOBAL:
                self._global.update(header.parse_pax(self._extension(entry)))
                if sum(map(len, self._global.values())) + 64 * len(self._global) > _EXTENSION_MAX:
                    raise ArchiveError("invalid tar header: extended header too large")
            elif kind == header.GNU_LONG_NAME:
                long_name = self._extension(entry).split(b"\0", 1)[0]
            elif kind == header.GNU_LONG_LINK:
                long_link = self._extension(entry).split(b"\0", 1)[0]
            else:
                break
        if kind == header.GNU_SPARSE:
            self._gnu_sparse(entry, block)
        if long_name:
            entry.name = long_name
        if long_link:
            entry.link = long_link
        if records or self._global:
            header.apply_pax(entry, {**self._global, **records})
        header.check_values(entry)
        if kind in _WITHOUT_DATA:
            entry.size = 0
        elif kind in (header.CONTIGUOUS, header.GNU_SPARSE, 0):
            entry.type = header.REGULAR
        if entry.type == header.REGULAR and entry.name.endswith(b"/"):
            entry.type = header.DIRECTORY  # old V7 archives
        self._left = entry.size
        self._padding = -entry.size % BLOCK
        if entry.sparse == [] and kind != header.GNU_SPARSE:
            self._sparse_map(entry)
        if entry.sparse is not None:
            _check_sparse(entry)
        return entry

    def _extension(self, entry: Entry) -> bytes:
        if entry.size > _EXTENSION_MAX:
            raise ArchiveError("invalid tar header: extended header too large")
        data = self._take(entry.size)
        self._take(-entry.size % BLOCK)
        return data

    def _gnu_sparse(self, entry: Entry, block: bytes) -> None:
        """GNU's old format: four chunks in the header, more in blocks that follow."""
        entry.real_size = header.number(block[483:495])
        entry.sparse = []
        self._sparse_chunks(entry.sparse, block, 386, 4)
        more = block[482]
        while more:
            block = self._take(BLOCK)
            self._sparse_chunks(entry.sparse, block, 0, 21)
            more = block[504]
            if len(entry.sparse) > _EXTENSION_MAX // 24:
                raise ArchiveError("invalid tar header: sparse map too large")

    @staticmethod
    def _sparse_chunks(chunks: list[tuple[int, int]], block: bytes, start: int, count: int) -> None:
        for offset in range(start, start + count * 24, 24):
            if not block[offset]:
                return
            chunks.append(
                (
                    header.number(block[offset : offset + 12]),
                    header.number(block[offset + 12 : offset + 24]),
                )
            )

    def _sparse_map(self, entry: Entry) -> None:
        """GNU's format 1.0: decimal lines in front of the data, padded to a block."""
        lines: list[int] = []
        text = b""
        wanted = 1
        while len(lines) < wanted:
            if self._left < BLOCK or wanted > _EXTENSION_MAX // 8:
                raise ArchiveError("invalid tar header: malformed sparse map")
            text += self._take(BLOCK)
            self._left -= BLOCK
            *whole, text = text.split(b"\n")
            for line in whole:
                if len(lines) < wanted:
                    lines.append(_decimal(line))
                    wanted = 1 + 2 * lines[0]
        entry.size = self._left
        entry.sparse = list(zip(lines[1:wanted:2], lines[2:wanted:2], strict=True))


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise ArchiveError("invalid tar header: malformed sparse map")
    return int(text)


def _check_sparse(entry: Entry) -> None:
    position = total = 0
    for offset, length in entry.sparse or ():
        if offset < position or length < 0:
            raise ArchiveError("invalid tar header: malformed sparse map")
        position = offset + length
        total += length
    if position > entry.real_size or total != entry.size or entry.real_size >= header.SIZE_MAX:
        raise ArchiveError("invalid tar header: malformed sparse map")
