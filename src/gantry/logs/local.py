"""`local` logs: records of many lines (`gantry.ipc.records`)."""

from __future__ import annotations

import os

from gantry.ipc.records import FIXED, HEAD, PARTIAL, TAIL
from gantry.logs.query import Renderer, stamp_of

_OVERHEAD = HEAD.size + TAIL.size - FIXED


def whole(data: bytes | bytearray) -> int:
    """How many bytes of `data` are whole records."""
    position, size = 0, len(data)
    while position + HEAD.size <= size:
        length = TAIL.unpack_from(data, position)[0] + _OVERHEAD
        if position + length > size:
            break
        position += length
    return position


def tail(fd: int, size: int, lines: int) -> tuple[int, int, int]:
    """Where the last `lines` lines begin: offset, lines found, lines to skip there."""
    position, found = size, 0
    while position > 0 and found < lines:
        length = TAIL.unpack(os.pread(fd, TAIL.size, position - TAIL.size))[0] + _OVERHEAD
        position -= length
        record = os.pread(fd, length, position)
        found += max(1, record.count(b"\n", HEAD.size, -TAIL.size))
    return position, min(found, lines), max(0, found - lines)


class LocalDecoder:
    """Blocks of whole records to frames."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def render(self, block: bytes, skip: int = 0) -> bytes:
        """The wanted frames of `block`, without its first `skip` lines."""
        out: list[bytes] = []
        position, size = 0, len(block)
        while position < size and not self._renderer.done:
            length, time_ns, stream, flags = HEAD.unpack_from(block, position)
            end = position + HEAD.size + length - FIXED
            text = block[position + HEAD.size : end]
            position = end + TAIL.size
            ending = b"" if flags & PARTIAL else b"\n"
            texts = text[:-1].split(b"\n") if ending else [text]
            if skip:
                skipped = min(skip, len(texts))
                skip -= skipped
                texts = texts[skipped:]
            out.append(self._renderer.lines(stream, stamp_of(time_ns), texts, ending))
        return b"".join(out)
