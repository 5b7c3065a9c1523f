"""Docker's multiplexed stream, taken apart: bytes in, (stream, payload) out.

A frame is `stream 0 0 0 length` (one byte, three zero bytes, a big-endian 32-bit
length) and the payload; streams: 0 stdin, 1 stdout, 2 stderr, 3 an error of the engine.
Source: the Engine API's description of `/containers/{id}/attach`.
"""

from __future__ import annotations

import struct

from gantry.client.errors import ProtocolError

STDOUT = 1
STDERR = 2
SYSTEM_ERROR = 3

_HEADER = struct.Struct(">BxxxL")
_LARGEST = 1 << 30


class Demultiplexer:
    """Cuts a byte stream into payloads; whatever is incomplete waits for more bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The payloads that `data` completes, neighbours of one stream joined.

        A payload that has only begun is given out as far as it came: nothing is held
        back longer than its header.
        """
        if self._rest:
            data = self._rest + data
        out: list[tuple[int, bytes]] = []
        pieces: list[bytes] = []
        current = -1
        position, end = 0, len(data)
        unpack = _HEADER.unpack_from
        while end - position >= 8:
            stream, length = unpack(data, position)
            if stream > SYSTEM_ERROR or length > _LARGEST:
                raise ProtocolError(f"Unrecognized input header: {stream}")
            if end - position < 8 + length:
                break
            if stream != current:
                if pieces:
                    out.append((current, b"".join(pieces)))
                    pieces = []
                current = stream
            pieces.append(data[position + 8 : position + 8 + length])
            position += 8 + length
        if pieces:
            out.append((current, b"".join(pieces)))
        rest = data[position:]
        if len(rest) > 8:
            stream, length = unpack(rest, 0)
            out.append((stream, rest[8:]))
            rest = _HEADER.pack(stream, length - (len(rest) - 8))
        self._rest = rest
        return out
