"""As much D-Bus as talking to systemd takes: calls, their replies, signals.

(D-Bus Specification, "Type System", "Message Protocol", "Authentication Protocol".)
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, Self, TypeAlias

Value: TypeAlias = "int | float | str | Variant | Sequence[Value]"

_BUS: Final = "org.freedesktop.DBus"
_CALL: Final = 1
_RETURN: Final = 2
_ERROR: Final = 3
_SIGNAL: Final = 4
_FIXED: Final = {"y": ("B", 1), "b": ("I", 4), "i": ("i", 4), "u": ("I", 4), "x": ("q", 8),
                 "t": ("Q", 8), "n": ("h", 2), "q": ("H", 2), "d": ("d", 8)}  # fmt: skip
_MAX: Final = 1 << 24


class Variant(NamedTuple):
    """A value with its type written beside it."""

    signature: str
    value: Value


class Message(NamedTuple):
    """One message: kind 1 call, 2 return, 3 error, 4 signal; the fields that count, the body."""

    kind: int
    reply_to: int
    member: str
    error: str
    body: list[Value]


class DBusError(OSError):
    """The other side said no; `name` is the error's ("org.freedesktop.systemd1.UnitExists")."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(errno.EIO, text)
        self.name = name


def split(signature: str) -> list[str]:
    """The complete types in a signature: "sa(sv)u" → ["s", "a(sv)", "u"]."""
    found = []
    at = 0
    while at < len(signature):
        end = _end(signature, at)
        found.append(signature[at:end])
        at = end
    return found


def _end(signature: str, at: int) -> int:
    if signature[at] == "a":
        return _end(signature, at + 1)
    if signature[at] not in "({":
        return at + 1
    depth = 0
    for index in range(at, len(signature)):
        depth += (signature[index] in "({") - (signature[index] in ")}")
        if depth == 0:
            return index + 1
    raise ValueError(f"unbalanced signature {signature!r}")


def _alignment(kind: str) -> int:
    if kind[0] in _FIXED:
        return _FIXED[kind[0]][1]
    return {"s": 4, "o": 4, "g": 1, "v": 1, "a": 4, "(": 8, "{": 8}[kind[0]]


class Writer:
    """Little-endian marshalling."""

    def __init__(self) -> None:
        self.data = bytearray()

    def pad(self, alignment: int) -> None:
        self.data.extend(bytes(-len(self.data) % alignment))

    def write(self, kind: str, value: Value) -> None:
        """Append one complete type."""
        self.pad(_alignment(kind))
        first = kind[0]
        if first in _FIXED:
            assert isinstance(value, int | float)
            self.data.extend(struct.pack("<" + _FIXED[first][0], value))
        elif first in "so":
            assert isinstance(value, str)
            text = value.encode()
            self.data.extend(struct.pack("<I", len(text)) + text + b"\0")
        elif first == "g":
            assert isinstance(value, str)
            self.data.extend(bytes((len(value),)) + value.encode() + b"\0")
        elif first == "v":
            assert isinstance(value, Variant)
            self.write("g", value.signature)
            self.write(value.signature, value.value)
        elif first == "a":
            self._array(kind[1:], value)
        else:
            assert isinstance(value, Sequence) and not isinstance(value, str)
            for part, item in zip(split(kind[1:-1]), value, strict=True):
                self.write(part, item)

    def _array(self, kind: str, value: Value) -> None:
        assert isinstance(value, Sequence) and not isinstance(value, str)
        place = len(self.data)
        self.data.extend(bytes(4))
        self.pad(_alignment(kind))  # between the length and the first, and not counted
        start = len(self.data)
        for item in value:
            self.write(kind, item)
        struct.pack_into("<I", self.data, place, len(self.data) - start)


class Reader:
    """Little-endian unmarshalling. ValueError, IndexError or struct.error: it is no message."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self._at = at

    def read(self, kind: str) -> Value:
        """Take one complete type."""
        self._at += -self._at % _alignment(kind)
        first = kind[0]
        if first in _FIXED:
            code, size = _FIXED[first]
            found: int | float = struct.unpack_from("<" + code, self._data, self._at)[0]
            self._at += size
            return found
        if first in "sog":
            size = 4 if first != "g" else 1
            length = int.from_bytes(self._data[self._at : self._at + size], "little")
            self._at += size
            text = self._data[self._at : self._at + length]
            self._at += length + 1
            return text.decode("utf-8", "replace")
        if first == "v":
            signature = self.read("g")
            assert isinstance(signature, str)
            return Variant(signature, self.read(signature))
        if first == "a":
            length = int.from_bytes(self._data[self._at : self._at + 4], "little")
            self._at += 4
            self._at += -self._at % _alignment(kind[1:])
            end = self._at + length
            if end > len(self._data):
                raise ValueError("an array that is longer than its message")
            items: list[Value] = []
            while self._at < end:
                items.append(self.read(kind[1:]))
            return items
        return [self.read(part) for part in split(kind[1:-1])]


def encode_call(
    serial: int, destination: str, path: str, interface: str, member: str, signature: str,
    arguments: Sequence[Value],
) -> bytes:  # fmt: skip
    """A method call as bytes."""
    body = Writer()
    for kind, value in zip(split(signature), arguments, strict=True):
        body.write(kind, value)
    fields: list[Value] = [
        [1, Variant("o", path)],
        [2, Variant("s", interface)],
        [3, Variant("s", member)],
        [6, Variant("s", destination)],
    ]
    if signature:
        fields.append([8, Variant("g", signature)])
    head = Writer()
    head.data.extend(struct.pack("<cBBBII", b"l", _CALL, 0, 1, len(body.data), serial))
    head.write("a(yv)", fields)
    head.pad(8)
    return bytes(head.data + body.data)


def decode(head: bytes, fields: bytes, body: bytes) -> Message:
    """A message from its fixed head (16 bytes), its header fields and its body."""
    found: dict[int, Value] = {}
    listed = Reader(head + fields, 12).read("a(yv)")  # alignment counts from the message's start
    assert isinstance(listed, list)
    for entry in listed:
        assert isinstance(entry, list) and isinstance(entry[1], Variant)
        assert isinstance(entry[0], int)
        found[entry[0]] = entry[1].value
    signature = str(found.get(8, ""))
    values = Reader(body)
    reply_to = found.get(5, 0)
    assert isinstance(reply_to, int)
    return Message(
        kind=head[1],
        reply_to=reply_to,
        member=str(found.get(3, "")),
        error=str(found.get(4, "")),
        body=[values.read(kind) for kind in split(signature)],
    )


class Connection:
    """One connection to a bus, or to a service that has none; calls block.

    address: a socket's path, "@" before an abstract name. uid: who we are, as the other
    side's namespace counts. bus: say Hello first. OSError when there is nobody (ETIMEDOUT:
    nobody answers), DBusError for a refusal.
    """

    def __init__(self, address: str, *, uid: int, bus: bool, timeout: float = 30.0) -> None:
        self._serial = 0
        self._signals: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
            self._authenticate(uid)
            if bus:
                self.call(_BUS, "/org/freedesktop/DBus", _BUS, "Hello")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _authenticate(self, uid: int) -> None:
        # BEGIN goes out with the rest, and what follows only after the answer: systemd does not
        # look at a message that it has read together with BEGIN until another one comes.
        identity = str(uid).encode().hex()
        self._socket.sendall(f"\0AUTH EXTERNAL {identity}\r\nBEGIN\r\n".encode())
        line = b""
        while not line.endswith(b"\r\n"):
            byte = self._socket.recv(1)
            if not byte or len(line) > 4096:
                raise OSError(errno.EACCES, "D-Bus: the connection was refused")
            line += byte
        if not line.startswith(b"OK"):
            raise OSError(errno.EACCES, f"D-Bus: not authenticated: {line.decode().strip()}")

    def call(
        self, service: str, path: str, interface: str, member: str, signature: str = "",
        *arguments: Value,
    ) -> list[Value]:  # fmt: skip
        """Call a method; the reply's values."""
        self._serial += 1
        serial = self._serial
        self._socket.sendall(
            encode_call(serial, service, path, interface, member, signature, arguments)
        )
        while True:
            message = self._receive()
            if message.kind == _SIGNAL:
                self._signals.append(message)
            elif message.reply_to == serial:
                if message.kind == _ERROR:
                    text = str(message.body[0]) if message.body else message.error
                    raise DBusError(message.error, text)
                return message.body

    def wait_signal(self, member: str, index: int, value: Value) -> list[Value]:
        """The body of the signal `member` whose `index`-th value is `value`, waiting for it.

        Signals that came before it are forgotten.
        """
        while True:
            message = self._signals.pop(0) if self._signals else self._receive()
            if (
                message.kind == _SIGNAL
                and message.member == member
                and message.body[index : index + 1] == [value]
            ):
                return message.body

    def _receive(self) -> Message:
        head = self._exactly(16)
        if head[:1] != b"l":
            raise OSError(errno.EPROTO, "D-Bus: a message in an unknown byte order")
        body, _, fields = struct.unpack_from("<III", head, 4)
        if body > _MAX or fields > _MAX:
            raise OSError(errno.EMSGSIZE, "D-Bus: a message that is too long")
        try:
            return decode(head, self._exactly(fields + -fields % 8)[:fields], self._exactly(body))
        except (ValueError, IndexError, AssertionError, struct.error) as error:
            raise OSError(errno.EPROTO, f"D-Bus: a message that cannot be read: {error}")

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                chunk = self._socket.recv(count - len(data))
            except TimeoutError:
                raise TimeoutError(errno.ETIMEDOUT, "D-Bus: no answer")
            if not chunk:
                raise OSError(errno.ECONNRESET, "D-Bus: the connection was closed")
            data += chunk
        return data
