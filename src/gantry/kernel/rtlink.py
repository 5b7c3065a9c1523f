"""Network devices and their addresses by rtnetlink(7): what moving one takes."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

_NETLINK_ROUTE: Final = 0
_ERROR, _DONE = 2, 3
_SETLINK, _GETLINK, _NEWADDR, _GETADDR = 19, 18, 20, 22
_REQUEST, _ACK, _DUMP, _CREATE_NEW = 0x1, 0x4, 0x300, 0x600
_HEADER: Final = struct.Struct("IHHII")
_LINK: Final = struct.Struct("BxHiII")
_ADDRESS: Final = struct.Struct("BBBBI")
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_UP: Final = 0x1
_IFA_F_PERMANENT: Final = 0x80
_SCOPE_UNIVERSE: Final = 0


class Address(NamedTuple):
    """One address of a device. family: AF_INET or AF_INET6."""

    family: int
    prefix: int
    value: bytes


class Links:
    """The devices of this process's network namespace. A context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def index(self, name: str) -> int:
        """A device's number. OSError ENODEV: there is none of that name."""
        body = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        for payload in list(self._ask(_GETLINK, _ACK, body)):
            return int(_LINK.unpack_from(payload)[2])
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV).lower(), name)

    def addresses(self, index: int) -> list[Address]:
        """The lasting addresses of global scope that a device has."""
        found = []
        for payload in self._ask(_GETADDR, _DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, prefix, flags, scope, device = _ADDRESS.unpack_from(payload)
            if device != index or scope != _SCOPE_UNIVERSE or not flags & _IFA_F_PERMANENT:
                continue
            values = dict(_attributes(payload[_ADDRESS.size :]))
            value = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
            if value:
                found.append(Address(family, prefix, value))
        return found

    def set_up(self, index: int, *, up: bool) -> None:
        """Bring a device up or down."""
        self._do(_SETLINK, 0, _LINK.pack(0, 0, index, _IFF_UP if up else 0, _IFF_UP))

    def move(self, index: int, name: str, namespace: int) -> None:
        """Move a device that is down to another namespace (an fd), by a name free there."""
        body = _LINK.pack(0, 0, index, 0, 0)
        body += _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        body += _attribute(_IFLA_NET_NS_FD, struct.pack("I", namespace))
        self._do(_SETLINK, 0, body)

    def add_address(self, index: int, address: Address) -> None:
        """Give a device an address."""
        body = _ADDRESS.pack(address.family, address.prefix, 0, _SCOPE_UNIVERSE, index)
        body += _attribute(_IFA_LOCAL, address.value) + _attribute(_IFA_ADDRESS, address.value)
        self._do(_NEWADDR, _CREATE_NEW, body)

    def _do(self, kind: int, flags: int, body: bytes) -> None:
        for _ in self._ask(kind, flags | _ACK, body):
            continue

    def _ask(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        """The answers' bodies, to the end of the dump or the acknowledgement."""
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, kind, flags | _REQUEST, 1, 0) + body)
        while True:
            data = self._socket.recv(1 << 16)
            while data:
                length, kind, _, _, _ = _HEADER.unpack_from(data)
                payload, data = data[_HEADER.size : length], data[_aligned(length) :]
                if kind == _DONE:
                    return
                if kind != _ERROR:
                    yield payload
                    continue
                number = -struct.unpack_from("i", payload)[0]
                if number:
                    raise OSError(number, os.strerror(number).lower())
                return


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("HH", 4 + len(value), kind) + value.ljust(_aligned(len(value)), b"\0")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        if length < 4:
            return
        yield kind, data[4:length]
        data = data[_aligned(length) :]
