"""Decompress a stream in our own process, whatever it is compressed with, in bounded memory."""

from __future__ import annotations

import bz2
import enum
import lzma
from collections.abc import Callable
from typing import Final, Protocol

from gantry.archive.errors import ArchiveError
from gantry.archive.reader import Source

CHUNK: Final = 1 << 19
"""Bytes a decompressed piece has at most: what a bomb can take of memory at once."""
_XZ_MEMORY: Final = 256 << 20


class Compression(enum.Enum):
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


def detect(head: bytes) -> Compression:
    """By the magic number; `head` is the first 10 bytes or more of the stream."""
    if head[:3] == b"\x1f\x8b\x08":
        return Compression.GZIP
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return Compression.ZSTD
    if head[:6] == b"\xfd7zXZ\x00":
        return Compression.XZ
    if head[:3] == b"BZh":
        return Compression.BZIP2
    return Compression.NONE


class _Decoder(Protocol):
    """What zlib-like objects of the standard library and their likes share."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def feed(self, data: bytes) -> bytes:
        """At most CHUNK bytes of output; call with b"" for more of it."""

    @property
    def hungry(self) -> bool: ...


class _Gzip:
    def __init__(self) -> None:
        from isal import isal_zlib

        self._object = isal_zlib.decompressobj(wbits=31)
        self.hungry = True

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._object.unused_data)

    def feed(self, data: bytes) -> bytes:
        tail = self._object.unconsumed_tail
        output: bytes = self._object.decompress(tail + data if tail else data, CHUNK)
        self.hungry = not self._object.unconsumed_tail and len(output) < CHUNK
        return output


class _Lzma:
    def __init__(self) -> None:
        self._object = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    @property
    def hungry(self) -> bool:
        return self._object.needs_input

    def feed(self, data: bytes) -> bytes:
        return self._object.decompress(data, CHUNK)


class _Bzip2:
    def __init__(self) -> None:
        self._object = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    @property
    def hungry(self) -> bool:
        return self._object.needs_input

    def feed(self, data: bytes) -> bytes:
        return self._object.decompress(data, CHUNK)


_DECODERS: Final[dict[Compression, Callable[[], _Decoder]]] = {
    Compression.GZIP: _Gzip,
    Compression.XZ: _Lzma,
    Compression.BZIP2: _Bzip2,
}


def decompress(source: Source) -> tuple[Compression, Source]:
    """What `source` is compressed with, and a source of the plain bytes.

    Reading raises ArchiveError where the stream is damaged or cut off. Concatenated members
    are one stream, zero padding after the last is allowed.
    """
    head = b""
    while len(head) < 10:
        piece = source()
        if not piece:
            break
        head += piece
    kind = detect(head)
    again = Pushback(source, head)
    if kind is Compression.NONE:
        return kind, again
    if kind is Compression.ZSTD:
        return kind, _zstd(again)
    return kind, _Inflate(again, _DECODERS[kind], kind)


class Pushback:
    """A source with the bytes that were looked at put back in front."""

    def __init__(self, source: Source, head: bytes) -> None:
        self._source = source
        self._head = head

    def __call__(self) -> bytes:
        head, self._head = self._head, b""
        return head or self._source()


class _Inflate:
    """Members one after the other through a decoder each."""

    def __init__(self, source: Source, decoder: Callable[[], _Decoder], kind: Compression) -> None:
        self._source = source
        self._new = decoder
        self._kind = kind
        self._decoder: _Decoder | None = decoder()

    def __call__(self) -> bytes:
        try:
            while True:
                output = self._step()
                if output is None:
                    return b""
                if output:
                    return output
        except (OSError, lzma.LZMAError, EOFError, ValueError) as error:
            raise ArchiveError(f"{self._kind.value}: invalid data: {error}")
        except Exception as error:  # isal's own error class has no common base
            if type(error).__name__ in ("IsalError", "error"):
                raise ArchiveError(f"{self._kind.value}: invalid data: {error}")
            raise

    def _step(self) -> bytes | None:
        decoder = self._decoder
        if decoder is None:
            return None
        if decoder.eof:
            return self._next_member(decoder.unused_data)
        data = b""
        if decoder.hungry:
            data = self._source()
            if not data:
                raise ArchiveError("unexpected EOF")
        return decoder.feed(data)

    def _next_member(self, rest: bytes) -> bytes | None:
        while True:
            rest = rest.lstrip(b"\0")
            if rest:
                break
            rest = self._source()
            if not rest:
                self._decoder = None
                return None
        self._decoder = self._new()
        return self._decoder.feed(rest)


def _zstd(source: Source) -> Source:
    import zstandard

    class Reader:
        def __init__(self) -> None:
            self._rest = b""

        def read(self, size: int = -1) -> bytes:
            data = self._rest or source()
            self._rest = data[size:] if 0 < size < len(data) else b""
            return data[:size] if self._rest else data

    # A window above 128 MiB is refused, as by other engines.
    stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
        Reader(),  # type: ignore[arg-type]  # it only ever reads
        read_across_frames=True,
    )

    def read() -> bytes:
        try:
            return stream.read(CHUNK)
        except zstandard.ZstdError as error:
            raise ArchiveError(f"zstd: invalid data: {error}")

    return read
