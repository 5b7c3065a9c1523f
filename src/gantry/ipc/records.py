"""The `local` log format: what the shim writes and the daemon's log reader reads.

A file is a row of records (big endian)::

    u32 size | u64 time | u8 stream | u8 flags | text | u32 size

size: bytes of what is between the two sizes; the second one lets a reader go backwards.
time: nanoseconds since the epoch. stream: 1 stdout, 2 stderr. text: whole lines, as many
as one read of the container's output gave, all with this time; with flag PARTIAL a piece
of a line whose rest follows (no newline). Docker's own `local` files hold one record a
line in protobuf; no client ever sees either.
"""

from __future__ import annotations

import struct

HEAD = struct.Struct("!IQBB")
TAIL = struct.Struct("!I")
FIXED = 10
"""Bytes that `size` counts beside the text: time, stream, flags."""

PARTIAL = 1


def encode(stream: int, time_ns: int, text: bytes, *, partial: bool) -> bytes:
    """One record."""
    size = FIXED + len(text)
    return HEAD.pack(size, time_ns, stream, PARTIAL if partial else 0) + text + TAIL.pack(size)
