"""Forgetting UDP flows when a port is published or withdrawn.

UDP has no end that connection tracking sees: a client that goes on sending keeps the
entry from before alive, and with it the old translation (or none). So, as dockerd does,
entries to a UDP port of the host are deleted whenever what it leads to changes.
Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import socket
import struct

from gantry.network import netlink

_NETFILTER, _SUBSYS = 12, 1 << 8
_GET, _DELETE = 1, 2
_TUPLE_ORIG, _ID, _FILTER = 1, 12, 25
_PROTO, _PROTO_NUM, _DST_PORT = 2, 1, 3
_F_PROTO_NUM, _F_DST_PORT = 1 << 3, 1 << 5


def forget_udp(ports: frozenset[int]) -> int:
    """Delete the flows of both families to these ports of the host: how many there were.
    A host without connection tracking has none. Blocks for some milliseconds."""
    count = 0
    try:
        with netlink.Socket(_NETFILTER) as sock:
            for family in (socket.AF_INET, socket.AF_INET6):
                for port in ports:
                    count += _forget(sock, family, port)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL):
            raise
    return count


def _forget(sock: netlink.Socket, family: int, port: int) -> int:
    head = struct.pack("=BBH", family, 0, 0)
    proto = netlink.nested(
        _PROTO,
        netlink.u8(_PROTO_NUM, socket.IPPROTO_UDP),
        netlink.attr(_DST_PORT, struct.pack(">H", port)),
    )
    flags = netlink.u32(1, _F_PROTO_NUM | _F_DST_PORT)
    question = head + netlink.nested(_TUPLE_ORIG, proto) + netlink.nested(_FILTER, flags)
    gone: list[netlink.Message] = []
    for data in sock.dump(_SUBSYS | _GET, question):
        parts = dict(netlink.attributes(data[4:]))
        tuple_ = parts.get(_TUPLE_ORIG, b"")
        if _udp_port(tuple_) != port:
            continue  # a kernel before 5.8 does not filter
        payload = head + netlink.attr(_TUPLE_ORIG | 0x8000, tuple_)
        if _ID in parts:
            payload += netlink.attr(_ID, parts[_ID])
        gone.append(
            netlink.Message(_SUBSYS | _DELETE, 0, payload, "forget a flow", (errno.ENOENT,))
        )
    sock.batch(gone)
    return len(gone)


def _udp_port(tuple_: bytes) -> int:
    """The destination port of a UDP flow, 0 of others."""
    for kind, value in netlink.attributes(tuple_):
        if kind == _PROTO:
            proto = dict(netlink.attributes(value))
            if proto.get(_PROTO_NUM, b"")[:1] == bytes((socket.IPPROTO_UDP,)):
                return int.from_bytes(proto.get(_DST_PORT, b"\0\0")[:2], "big")
    return 0
