"""Which ports of the host are bound, asked of the kernel in one dump (sock_diag(7)).

A thousand ports are judged by four questions, where trying to bind each would take as
long as the whole start of a container. Sources: linux/inet_diag.h, linux/sock_diag.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from gantry.network import netlink

_SOCK_DIAG_BY_FAMILY = 20
_FAMILY = 4  # NETLINK_SOCK_DIAG
_LISTEN, _CLOSE = 10, 7
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


def bound(protocols: frozenset[str]) -> dict[tuple[str, int], list[str]]:
    """(protocol, port) → addresses that sockets are bound to. TCP: only those that listen.

    An IPv6 socket that takes IPv4 too counts for both ("::" and "0.0.0.0").
    """
    found: dict[tuple[str, int], list[str]] = {}
    with netlink.Socket(_FAMILY) as sock:
        for proto in protocols:
            number = socket.IPPROTO_TCP if proto == "tcp" else socket.IPPROTO_UDP
            states = 1 << (_LISTEN if proto == "tcp" else _CLOSE)
            for family in (socket.AF_INET, socket.AF_INET6):
                # inet_diag_req_v2: family, protocol, extensions (SKV6ONLY), states, sockid
                payload = struct.pack("=BBBxI", family, number, 1 << 4, states) + bytes(48)
                for data in sock.dump(_SOCK_DIAG_BY_FAMILY, payload):
                    port = int.from_bytes(data[4:6], "big")
                    size = 4 if family == socket.AF_INET else 16
                    address = str(ip_address(data[8 : 8 + size]))
                    places = found.setdefault((proto, port), [])
                    places.append(address)
                    if address == "::" and not _v6only(data):
                        places.append("0.0.0.0")
    return found


def _v6only(data: bytes) -> bool:
    for kind, value in netlink.attributes(data[72:]):
        if kind == 11:  # INET_DIAG_SKV6ONLY
            return value[:1] == b"\1"
    return False
