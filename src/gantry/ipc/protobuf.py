"""Protocol buffers as bytes (protobuf.dev/programming-guides/encoding), without schemas.

For the few messages of peers (CRIU, containerd) that we write and read: a field is a number,
its meaning stands with whoever uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

Value = int | bool | str | bytes | Sequence["str | bytes"]
"""An integer of any kind, a text, bytes (a message, too), or a repeated one of those two."""

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_SIZES = {_EIGHT: 8, _FOUR: 4}


def encode(fields: Sequence[tuple[int, Value]]) -> bytes:
    """A message of (number, value) pairs; a sequence is a repeated field."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(int(value))
            continue
        for one in [value] if isinstance(value, str | bytes) else value:
            data = one.encode() if isinstance(one, str) else one
            out += _varint(number << 3 | _BYTES) + _varint(len(data)) + data
    return bytes(out)


class Fields:
    """A message that was read; what is not there is 0, "" or empty, as proto3 has it.

    ValueError: the bytes are no message, or a field is of another kind than it is asked for.
    Fixed numbers (float, fixed64 …) are passed over: none of our peers' that count are those.
    """

    __slots__ = ("_found",)

    def __init__(self, data: bytes) -> None:
        self._found: dict[int, list[int | bytes]] = {}
        at = 0
        while at < len(data):
            key, at = _read_varint(data, at)
            kind = key & 7
            if kind == _VARINT:
                number, at = _read_varint(data, at)
                self._found.setdefault(key >> 3, []).append(number)
            elif kind == _BYTES:
                size, at = _read_varint(data, at)
                if at + size > len(data):
                    raise ValueError("a message that ends too soon")
                self._found.setdefault(key >> 3, []).append(data[at : at + size])
                at += size
            elif kind in _SIZES:
                at += _SIZES[kind]
            else:
                raise ValueError(f"a field of kind {kind}")

    def number(self, field: int) -> int:
        """An integer; the last one counts."""
        value = self._last(field, 0)
        if not isinstance(value, int):
            raise ValueError(f"field {field} is no number")
        return value

    def data(self, field: int) -> bytes:
        """Bytes; the last ones count."""
        value = self._last(field, b"")
        if not isinstance(value, bytes):
            raise ValueError(f"field {field} is no text")
        return value

    def text(self, field: int) -> str:
        """UTF-8 text."""
        return self.data(field).decode(errors="replace")

    def message(self, field: int) -> Fields:
        """A message in it, an empty one when there is none."""
        return Fields(self.data(field))

    def messages(self, field: int) -> list[Fields]:
        """A repeated message."""
        return [Fields(one) for one in self._found.get(field, ()) if isinstance(one, bytes)]

    def texts(self, field: int) -> list[str]:
        """A repeated text."""
        found = self._found.get(field, ())
        return [one.decode(errors="replace") for one in found if isinstance(one, bytes)]

    def numbers(self, field: int) -> list[int]:
        """A repeated integer, packed or not."""
        found: list[int] = []
        for one in self._found.get(field, ()):
            if isinstance(one, int):
                found.append(one)
                continue
            at = 0
            while at < len(one):
                number, at = _read_varint(one, at)
                found.append(number)
        return found

    def mapping(self, field: int) -> dict[str, str]:
        """A map<string, string>."""
        return {entry.text(1): entry.text(2) for entry in self.messages(field)}

    def _last(self, field: int, otherwise: int | bytes) -> int | bytes:
        return self._found.get(field, (otherwise,))[-1]


def pair(first: str, second: str | int) -> bytes:
    """A message of the fields 1 and 2, as an entry of a map is one."""
    return encode([(1, first), (2, second)])


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a message that ends too soon")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
