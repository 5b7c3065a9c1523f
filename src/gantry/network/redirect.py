"""Port 53 of 127.0.0.11 in a sandbox leads to the embedded server's own port there.

The server cannot take port 53 itself: a container may want to run a DNS server on
0.0.0.0:53. Docker translates with iptables and so switches connection tracking on for
all of the container's packets; here two stateless nftables rules rewrite the ports of
just these packets, before tracking on the way out and after it on the way in.

Messages are packed by hand (linux/netfilter/nf_tables.h): libnftables would take longer
than the container's whole start.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from gantry.network.netlink import Counter, attr, nested, text

TABLE = "gantry-dns"

_HDR = struct.Struct("=IHHII")
_NETFILTER = 12
_SUBSYS = 10 << 8
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0, 2, 3, 6
_BEGIN, _END = 16, 17
_REQUEST, _ACK, _CREATE, _EXCLUSIVE = 0x1, 0x4, 0x400, 0x200
_NETWORK, _TRANSPORT = 1, 2
_L4PROTO = 16
_INPUT, _OUTPUT = 1, 3
_BEFORE_TRACKING, _LAST = -300, 100


def install(address: str, port: int, *, known: bool = False) -> None:
    """Redirect in the calling thread's namespace, instead of any earlier redirect.
    known: an earlier one, if there is one, leads to this port. OSError when the kernel
    refuses."""
    packed = IPv4Address(address).packed
    messages = [
        (_NEWTABLE, _CREATE | _EXCLUSIVE, text(1, TABLE)),
        (_NEWCHAIN, _CREATE, _chain("out", _OUTPUT, _BEFORE_TRACKING)),
        (_NEWCHAIN, _CREATE, _chain("in", _INPUT, _LAST)),
    ]
    append = _CREATE | 0x800
    for proto, checksum in ((socket.IPPROTO_UDP, 6), (socket.IPPROTO_TCP, 16)):
        # To 127.0.0.11:53 → to our port; from our port → from 53. Offsets of an IPv4
        # header: source 12, destination 16; of UDP and TCP: source port 0, destination 2.
        out = _Rewrite("out", proto, 16, packed, 2, 53, port, checksum)
        back = _Rewrite("in", proto, 12, packed, 0, port, 53, checksum)
        messages += [(_NEWRULE, append, out.rule()), (_NEWRULE, append, back.rule())]
    try:
        _transact(messages)
    except FileExistsError:
        if known:
            return
        # Removing a table makes the kernel wait some 10 ms, so it is not done beforehand.
        remove()
        _transact(messages)


def remove() -> None:
    """Idempotent."""
    _transact([(_NEWTABLE, _CREATE, text(1, TABLE)), (_DELTABLE, 0, text(1, TABLE))])


def _chain(name: str, hook: int, priority: int) -> bytes:
    where = attr(1, struct.pack(">I", hook)) + attr(2, struct.pack(">i", priority))
    return text(1, TABLE) + text(3, name) + nested(4, where) + text(7, "filter")


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """Packets of `proto` with this address and port: another port."""

    chain: str
    proto: int
    address_at: int
    address: bytes
    port_at: int
    port: int
    new_port: int
    checksum_at: int

    def rule(self) -> bytes:
        value = struct.pack(">H", self.new_port)
        write = (
            _number(5, 1)
            + _number(2, _TRANSPORT)
            + _number(3, self.port_at)
            + _number(4, 2)
            + _number(6, 1)
            + _number(7, self.checksum_at)
        )
        return (
            text(1, TABLE)
            + text(2, self.chain)
            + nested(
                4,
                _expression("meta", _number(1, 1) + _number(2, _L4PROTO)),
                _equals(bytes((self.proto,))),
                _load(_NETWORK, self.address_at, 4),
                _equals(self.address),
                _load(_TRANSPORT, self.port_at, 2),
                _equals(struct.pack(">H", self.port)),
                _expression("immediate", _number(1, 1) + nested(2, attr(1, value))),
                _expression("payload", write),
            )
        )


def _load(base: int, offset: int, length: int) -> bytes:
    data = _number(1, 1) + _number(2, base) + _number(3, offset) + _number(4, length)
    return _expression("payload", data)


def _equals(value: bytes) -> bytes:
    return _expression("cmp", _number(1, 1) + _number(2, 0) + nested(3, attr(1, value)))


def _expression(name: str, data: bytes) -> bytes:
    return nested(1, text(1, name) + nested(2, data))


def _number(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack(">I", value))


def _transact(messages: Iterable[tuple[int, int, bytes]]) -> None:
    batch = struct.pack("=BBH", 0, 0, socket.htons(10))
    own = struct.pack("=BBH", socket.AF_INET, 0, 0)
    out = bytearray(_message(_BEGIN, 0, 0, batch))
    waiting = set()
    for number, (kind, flags, payload) in enumerate(messages, 1):
        out += _message(_SUBSYS | kind, flags | _ACK, number, own + payload)
        waiting.add(number)
    out += _message(_END, 0, 0, batch)
    failure = 0
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER
    ) as sock:
        sock.bind((0, 0))
        Counter.round_trips += 1
        sock.send(out)
        while waiting:
            data = sock.recv(1 << 16)
            at = 0
            while at + 20 <= len(data):
                size, _kind, _flags, seq, _pid = _HDR.unpack_from(data, at)
                code = -struct.unpack_from("=i", data, at + 16)[0]
                waiting.discard(seq)
                failure = failure or code
                at += (size + 3) & ~3
            if failure:
                raise OSError(failure, f"redirect port 53: {os.strerror(failure)}")


def _message(kind: int, flags: int, seq: int, payload: bytes) -> bytes:
    return _HDR.pack(16 + len(payload), kind, flags | _REQUEST, seq, 0) + payload
