"""rtnetlink, lean: messages packed by hand, batches of them in one system call.

pyroute2 would cost 24 MiB and 200 ms at start (measured), and some ms a link; a
container's interface is two `sendmsg`s with this module. Only what the drivers need is
here. Sources: rtnetlink(7), linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h.

A `Socket` belongs to the network namespace it was opened in and works on that one for
ever. It is used by one thread at a time. `round_trips` counts requests over all
sockets: tests hold the run path to its budget.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

_HDR = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDR = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_FD, IFLA_IFALIAS, IFLA_GROUP = 10, 18, 28, 20, 27
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 1, 4, 33
FORWARDING = 3  # BR_STATE_FORWARDING
IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES = 36, 37
VETH_INFO_PEER = 1
IFF_UP = 0x1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 254, 3, 1, 0, 253


class Counter:
    """Requests sent to the kernel since the process began."""

    round_trips = 0


def attr(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = len(value) + 4
    return _ATTR.pack(size, kind) + value + b"\0" * (-size % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attr(kind | 0x8000, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    return attr(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=B", value))


def u16(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=I", value))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data`, with the flags taken off their kinds."""
    at = 0
    while at + 4 <= len(data):
        size, kind = _ATTR.unpack_from(data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


@dataclass(frozen=True, slots=True)
class Message:
    """A request: type, flags (REQUEST and ACK are added), payload; `what` for error texts."""

    type: int
    flags: int
    payload: bytes
    what: str
    ignore: tuple[int, ...] = ()  # errnos that count as success


class Socket:
    """One rtnetlink socket (or, by `family`, another protocol's)."""

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._sock.bind((0, 0))
        self._seq = 1

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def batch(self, messages: Iterable[Message]) -> None:
        """All of `messages` in one send, in order. The kernel goes on after one that fails:
        the first failure is raised as OSError when all have been answered."""
        wanted: dict[int, Message] = {}
        out = bytearray()
        for message in messages:
            self._seq = (self._seq + 1) & 0xFFFFFFFF
            wanted[self._seq] = message
            flags = message.flags | NLM_F_REQUEST | NLM_F_ACK
            size = 16 + len(message.payload)
            out += _HDR.pack(size, message.type, flags, self._seq, 0)
            out += message.payload + b"\0" * (-size % 4)
        if not wanted:
            return
        Counter.round_trips += 1
        self._sock.send(out)
        failure: OSError | None = None
        while wanted:
            for kind, seq, payload in self._receive():
                if kind != NLMSG_ERROR or seq not in wanted:
                    continue
                message = wanted.pop(seq)
                code = -struct.unpack_from("=i", payload)[0]
                if code and code not in message.ignore and failure is None:
                    failure = OSError(code, f"{message.what}: {os.strerror(code)}")
        if failure is not None:
            raise failure

    def do(self, message: Message) -> None:
        self.batch((message,))

    def dump(self, kind: int, payload: bytes, *, strict: bool = False) -> list[bytes]:
        """Payloads of all answers to a dump request. strict: the kernel looks at all of the
        request's head, and leaves out what is not asked for (Linux 4.20, else it does not)."""
        if strict:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            try:
                return self.dump(kind, payload)
            finally:
                with contextlib.suppress(OSError):
                    self._sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 0)
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        head = _HDR.pack(16 + len(payload), kind, NLM_F_REQUEST | NLM_F_DUMP, self._seq, 0)
        Counter.round_trips += 1
        self._sock.send(head + payload)
        answers: list[bytes] = []
        while True:
            for number, seq, data in self._receive():
                if seq != self._seq:
                    continue
                if number == NLMSG_DONE:
                    return answers
                if number == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data)[0]
                    raise OSError(code, f"netlink dump: {os.strerror(code)}")
                answers.append(data)

    def get(self, message: Message) -> bytes:
        """The one answer to a request."""
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        size = 16 + len(message.payload)
        Counter.round_trips += 1
        self._sock.send(
            _HDR.pack(size, message.type, message.flags | NLM_F_REQUEST, self._seq, 0)
            + message.payload
        )
        while True:
            for kind, seq, data in self._receive():
                if seq != self._seq:
                    continue
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data)[0]
                    raise OSError(code, f"{message.what}: {os.strerror(code)}")
                return data

    def _receive(self) -> list[tuple[int, int, bytes]]:
        data = self._sock.recv(1 << 18)
        found: list[tuple[int, int, bytes]] = []
        at = 0
        while at + 16 <= len(data):
            size, kind, _flags, seq, _pid = _HDR.unpack_from(data, at)
            found.append((kind, seq, data[at + 16 : at + size]))
            at += (size + 3) & ~3
        return found


# --- links -----------------------------------------------------------------------------


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", "").replace("-", ""))


def mac_text(mac: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in mac)


def _link_head(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(0, 0, index, flags, change)


def _link_attributes(name: str, mac: str, mtu: int, netns_fd: int | None) -> bytes:
    out = text(IFLA_IFNAME, name) if name else b""
    if mac:
        out += attr(IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        out += u32(IFLA_MTU, mtu)
    if netns_fd is not None:
        out += u32(IFLA_NET_NS_FD, netns_fd)
    return out


def add_link(
    name: str,
    kind: str,
    *,
    data: bytes = b"",
    parent: int = 0,
    master: int = 0,
    mac: str = "",
    mtu: int = 0,
    group: int = 0,
    up: bool = False,
    netns_fd: int | None = None,
) -> Message:
    """A new link of `kind` ("bridge", "macvlan", ...); `data` is its IFLA_INFO_DATA's inside."""
    info = text(IFLA_INFO_KIND, kind)
    if data:
        info += nested(IFLA_INFO_DATA, data)
    payload = _link_head(0, IFF_UP if up else 0, IFF_UP if up else 0)
    payload += _link_attributes(name, mac, mtu, netns_fd)
    if parent:
        payload += u32(IFLA_LINK, parent)
    if master:
        payload += u32(IFLA_MASTER, master)
    if group:
        payload += u32(IFLA_GROUP, group)
    payload += nested(IFLA_LINKINFO, info)
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload, f"add {kind} {name}")


def add_veth(
    name: str,
    peer: str,
    peer_netns: int,
    *,
    master: int,
    mac: str = "",
    peer_mac: str = "",
    peer_index: int = 0,
    mtu: int = 0,
) -> Message:
    """A veth pair: `name` here, in bridge `master` and up; `peer` in `peer_netns`, down.

    peer_index: the peer's interface index in its namespace, 0: the kernel chooses.
    """
    inside = _link_head(peer_index) + _link_attributes(peer, peer_mac, mtu, peer_netns)
    data = nested(VETH_INFO_PEER, inside)
    return add_link(name, "veth", data=data, master=master, mac=mac, mtu=mtu, up=True)


def set_link(
    index: int,
    *,
    name: str = "",
    mac: str = "",
    mtu: int = 0,
    master: int | None = None,
    up: bool | None = None,
    by_name: str = "",
    ignore: tuple[int, ...] = (),
) -> Message:
    """Change a link, by its index or (index 0) by its name."""
    flags = IFF_UP if up else 0
    change = IFF_UP if up is not None else 0
    payload = _link_head(index, flags, change)
    payload += _link_attributes(name or by_name, mac, mtu, None)
    if master is not None:
        payload += u32(IFLA_MASTER, master)
    return Message(RTM_NEWLINK, 0, payload, f"set link {by_name or name or index}", ignore)


def filter_bridge(index: int) -> Message:
    """Show the bridge's own traffic to ip(6)tables and nftables' inet hooks."""
    data = u8(IFLA_BR_NF_CALL_IPTABLES, 1) + u8(IFLA_BR_NF_CALL_IP6TABLES, 1)
    info = text(IFLA_INFO_KIND, "bridge") + nested(IFLA_INFO_DATA, data)
    payload = _link_head(index) + nested(IFLA_LINKINFO, info)
    return Message(RTM_NEWLINK, 0, payload, f"filter bridge {index}")


def set_alias(name: str, alias: str) -> Message:
    payload = _link_head() + text(IFLA_IFNAME, name) + attr(IFLA_IFALIAS, alias.encode())
    return Message(RTM_NEWLINK, 0, payload, f"set alias of {name}")


def set_bridge_port(name: str, *, hairpin: bool = False, isolated: bool = False) -> Message:
    """Options of a bridge's port. hairpin: frames may leave by the port they came by;
    isolated: no frames to other isolated ports."""
    data = u8(IFLA_BRPORT_MODE, hairpin) + u8(IFLA_BRPORT_ISOLATED, isolated)
    info = text(IFLA_INFO_SLAVE_KIND, "bridge") + nested(IFLA_INFO_SLAVE_DATA, data)
    payload = _link_head() + text(IFLA_IFNAME, name) + nested(IFLA_LINKINFO, info)
    return Message(RTM_NEWLINK, 0, payload, f"set bridge port {name}")


def move_link(index: int, netns_fd: int, name: str) -> Message:
    payload = _link_head(index) + _link_attributes(name, "", 0, netns_fd)
    return Message(RTM_NEWLINK, 0, payload, f"move link {index}")


def delete_link(index: int = 0, name: str = "") -> Message:
    """Idempotent."""
    payload = _link_head(index) + (text(IFLA_IFNAME, name) if not index else b"")
    return Message(RTM_DELLINK, 0, payload, f"delete link {name or index}", (errno.ENODEV,))


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    kind: str
    up: bool
    master: int
    parent: int
    mac: str
    mtu: int
    alias: str


def _parse_link(data: bytes) -> Link:
    _family, _type, index, flags, _change = _LINK.unpack_from(data)
    found = dict(attributes(data[16:]))
    info = dict(attributes(found.get(IFLA_LINKINFO, b"")))
    return Link(
        index,
        found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"),
        bool(flags & IFF_UP),
        int.from_bytes(found.get(IFLA_MASTER, b""), "little"),
        int.from_bytes(found.get(IFLA_LINK, b""), "little"),
        mac_text(found.get(IFLA_ADDRESS, b"")),
        int.from_bytes(found.get(IFLA_MTU, b""), "little"),
        found.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
    )


def links(sock: Socket, *, master: int = 0) -> list[Link]:
    """All links, or a bridge's ports: the kernel finds these, which is much quicker where there
    are hundreds of others."""
    asked = _link_head() + (u32(IFLA_MASTER, master) if master else b"")
    found = [_parse_link(data) for data in sock.dump(RTM_GETLINK, asked)]
    return [link for link in found if link.master == master] if master else found


def link(sock: Socket, name: str) -> Link | None:
    """The link of that name, None when there is none."""
    payload = _link_head() + text(IFLA_IFNAME, name)
    try:
        return _parse_link(sock.get(Message(RTM_GETLINK, 0, payload, f"link {name}")))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def port_state(sock: Socket, name: str) -> int | None:
    """The state of a bridge's port, None for what is none."""
    payload = _link_head() + text(IFLA_IFNAME, name)
    found = dict(attributes(sock.get(Message(RTM_GETLINK, 0, payload, f"link {name}"))[16:]))
    info = dict(attributes(found.get(IFLA_LINKINFO, b"")))
    data = dict(attributes(info.get(IFLA_INFO_SLAVE_DATA, b"")))
    return data[IFLA_BRPORT_STATE][0] if IFLA_BRPORT_STATE in data else None


# --- addresses and routes ----------------------------------------------------------------


def _family(address: IPAddress) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def add_address(index: int, address: str, prefix: int, *, broadcast: bool = False) -> Message:
    """Give a link an address; IPv6 without duplicate detection, so that it works at once."""
    value = ip_address(address)
    payload = _ADDR.pack(_family(value), prefix, 0, 0, index)
    payload += attr(IFA_LOCAL, value.packed) + attr(IFA_ADDRESS, value.packed)
    if value.version == 6:
        payload += u32(IFA_FLAGS, IFA_F_NODAD)
    elif broadcast:
        last = int(value) | ((1 << (32 - prefix)) - 1)
        payload += attr(IFA_BROADCAST, last.to_bytes(4, "big"))
    what = f"add address {address}/{prefix}"
    return Message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, payload, what)


def delete_address(index: int, address: str, prefix: int) -> Message:
    value = ip_address(address)
    payload = _ADDR.pack(_family(value), prefix, 0, 0, index) + attr(IFA_LOCAL, value.packed)
    return Message(
        RTM_DELADDR, 0, payload, f"delete address {address}", (errno.EADDRNOTAVAIL, errno.ENODEV)
    )


def add_route(
    index: int,
    *,
    gateway: str = "",
    target: str = "",
    version: int = 4,
    metric: int = 0,
    replace: bool = True,
) -> Message:
    """A route to `target` ("address/prefix", "" for the default) by `gateway` or on-link."""
    payload, what = _route(index, gateway, target, version, metric)
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Message(RTM_NEWROUTE, flags, payload, f"add {what}")


def delete_route(
    index: int, *, gateway: str = "", target: str = "", version: int = 4, metric: int = 0
) -> Message:
    payload, what = _route(index, gateway, target, version, metric)
    return Message(RTM_DELROUTE, 0, payload, f"delete {what}", (errno.ESRCH,))


def _route(index: int, gateway: str, target: str, version: int, metric: int) -> tuple[bytes, str]:
    out = u32(RTA_OIF, index)
    length = 0
    if target:
        address, _, prefix = target.partition("/")
        value = ip_address(address)
        version = value.version
        length = int(prefix or value.max_prefixlen)
        out += attr(RTA_DST, value.packed)
    if gateway:
        via = ip_address(gateway)
        version = via.version
        out += attr(RTA_GATEWAY, via.packed)
    if metric:
        out += u32(RTA_PRIORITY, metric)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    scope = _RT_SCOPE_UNIVERSE if gateway or version == 6 else _RT_SCOPE_LINK
    head = _ROUTE.pack(family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST, 0)
    return head + out, f"route {target or 'default'} via {gateway or index}"


@dataclass(frozen=True, slots=True)
class Address:
    index: int
    address: str
    prefix: int


def addresses(sock: Socket, version: int = 0, *, index: int = 0) -> list[Address]:
    """All addresses (of IP `version`, 0 for both), or those of one link."""
    family = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}[version]
    found: list[Address] = []
    for data in sock.dump(RTM_GETADDR, _ADDR.pack(family, 0, 0, 0, index), strict=index > 0):
        of, prefix, _flags, _scope, where = _ADDR.unpack_from(data)
        if of not in (socket.AF_INET, socket.AF_INET6) or index not in (0, where):
            continue
        values = dict(attributes(data[8:]))
        packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS, b"")
        if packed:
            found.append(Address(where, str(ip_address(packed)), prefix))
    return found


@dataclass(frozen=True, slots=True)
class Route:
    """target: "address/prefix", "" for a default route; index: outgoing link, 0 if several."""

    target: str
    gateway: str
    index: int
    table: int


def routes(sock: Socket, version: int = 4) -> list[Route]:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    found: list[Route] = []
    for data in sock.dump(RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        of, length, _src, _tos, table, _proto, _scope, _type, _flags = _ROUTE.unpack_from(data)
        if of != family:
            continue
        values = dict(attributes(data[12:]))
        target = f"{ip_address(values[RTA_DST])}/{length}" if RTA_DST in values else ""
        gateway = str(ip_address(values[RTA_GATEWAY])) if RTA_GATEWAY in values else ""
        index = int.from_bytes(values.get(RTA_OIF, b""), "little")
        table = int.from_bytes(values.get(RTA_TABLE, b""), "little") or table
        found.append(Route(target, gateway, index, table))
    return found
