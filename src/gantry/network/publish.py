"""Which ports of the host are taken, and the sockets that hold them.

A published port is *held*: a socket is bound to it and listens, so that no other program
gets it meanwhile and one that has it already is noticed. Packets for the port are
translated before they reach the socket. What does reach it (connections to ::1, or from
IPv6 to a container without; connections made in the moment before the rule is there) is
for the userland proxy; without one a filter on the socket drops it.

Texts and rules are Docker's (moby daemon/libnetwork/portallocator).
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from gantry.model.errors import InvalidParameter, System
from gantry.model.network import HostPort, PublishedPort
from gantry.model.numbers import clamped
from gantry.network.sockdiag import bound

_log = logging.getLogger(__name__)

_SO_ATTACH_FILTER = 26
_IPPROTO_SCTP = 132
_ATTEMPTS = 10
_OTHER_FILES = 512  # that the daemon may open stay free when ports are held
_ANY4, _ANY6 = "0.0.0.0", "::"
# One instruction of classic BPF, "return 0": drop all.
_DROP_ALL = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0), 8)
_DROP_FILTER = struct.pack("@HP", 1, ctypes.addressof(_DROP_ALL))


class PortRequest(NamedTuple):
    """A container port to publish. ports: first and last host port, (0, 0) for any free
    one. hosts: addresses that all get the same port."""

    proto: str
    port: int
    hosts: tuple[str, ...]
    first: int = 0
    last: int = 0


class Held(NamedTuple):
    """A held port: `port` of the container by `host_port` of each address in `hosts`.
    sockets: that hold it; there may be none yet (see `HostPorts.hold`)."""

    proto: str
    port: int
    hosts: tuple[str, ...]
    host_port: int
    sockets: list[socket.socket]


def parse_container_port(text: str) -> tuple[int, str]:
    """("80/tcp" or "80") → (80, "tcp"). InvalidParameter with Docker's text."""
    number, _, proto = text.partition("/")
    proto = proto.lower() or "tcp"
    port = _port(number)
    if port < 0 or proto not in ("tcp", "udp", "sctp"):
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return port, proto


def parse_host_port(text: str) -> tuple[int, int]:
    """("", "8080" or "8000-8010") → (first, last); (0, 0): any free port."""
    if text in ("", "0"):
        return 0, 0
    begin, dash, end = text.partition("-")
    first = _port(begin)
    last = _port(end) if dash else first
    if not 0 <= first <= last:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return first, last


def _port(digits: str) -> int:
    """-1: no port's number."""
    if not digits.isdecimal():
        return -1
    port = clamped(digits)
    return port if port <= 65535 else -1


def port_requests(
    bindings: Mapping[str, Sequence[HostPort]],
    exposed: Iterable[str],
    *,
    publish_all: bool,
    default_ip: str,
    ipv6: bool,
) -> list[PortRequest]:
    """What HostConfig's PortBindings, ExposedPorts and PublishAllPorts ask for.

    default_ip: where a binding without address goes ("0.0.0.0": every address, of IPv6
    too if `ipv6`: the host can and something there would answer).
    """
    wanted = {text: list(pairs) for text, pairs in bindings.items()}
    if publish_all:
        for text in exposed:
            wanted.setdefault(text, [])
        for pairs in wanted.values():
            pairs[:] = pairs or [("", "")]
    requests: list[PortRequest] = []
    for text, pairs in wanted.items():
        port, proto = parse_container_port(text)
        for host_ip, host_port in pairs:
            first, last = parse_host_port(host_port)
            requests.append(
                PortRequest(proto, port, _hosts(host_ip, default_ip, ipv6), first, last)
            )
    return sorted(_merged(requests), key=lambda r: (r.first == 0, r.first, r.proto, r.port))


def _merged(requests: Iterable[PortRequest]) -> list[PortRequest]:
    """The same port on several addresses is one choice of a host port, unless one address
    includes the other: both cannot have the same."""
    found: dict[tuple[str, int, int, int], list[PortRequest]] = {}
    for request in requests:
        key = (request.proto, request.port, request.first, request.last)
        alike = found.get(key)
        if alike is None:  # nearly always: a range is a thousand of these
            found[key] = [request]
            continue
        if any(set(request.hosts) <= set(known.hosts) for known in alike):
            continue
        for n, known in enumerate(alike):
            if not any(_overlap(host, known.hosts) for host in request.hosts):
                alike[n] = known._replace(hosts=known.hosts + request.hosts)
                break
        else:
            alike.append(request)
    return [request for alike in found.values() for request in alike]


def _hosts(host_ip: str, default_ip: str, ipv6: bool) -> tuple[str, ...]:
    if not host_ip:
        return (_ANY4, _ANY6) if default_ip == _ANY4 and ipv6 else (default_ip,)
    try:
        address = ip_address(host_ip)
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {host_ip}") from None
    mapped = getattr(address, "ipv4_mapped", None)
    return (str(mapped or address),)


def merge_ranges(held: Iterable[Held]) -> tuple[PublishedPort, ...]:
    """The held ports as ranges: neighbours on both sides become one value."""
    flat = sorted(
        (one.proto, host, one.host_port - one.port, one.host_port)
        for one in held
        for host in one.hosts
    )
    merged: list[PublishedPort] = []
    at = 0
    while at < len(flat):
        proto, host, shift, first = flat[at]
        count = 1
        while at + count < len(flat) and flat[at + count] == (proto, host, shift, first + count):
            count += 1
        merged.append(PublishedPort(proto, host, first, first - shift, count))
        at += count
    return tuple(merged)


class HostPorts:
    """The register of the host's ports that this engine has published.

    hold: bind sockets too (False: only the register, where something else guards them).
    drop: attach the filter to the sockets (there is no userland proxy).
    """

    def __init__(self, *, hold: bool = True, drop: bool = False) -> None:
        self._hold = hold
        self._drop = drop
        self._taken: dict[tuple[str, int], list[str]] = {}
        self._next: dict[str, int] = {}
        self._ephemeral = _ephemeral_range()
        self._reserved = _reserved_ports()
        self._v6only = _v6only()

    def reserve(self, requests: Sequence[PortRequest]) -> list[Held]:
        """Like `acquire`, for many at once: whether they are free is asked of the kernel, and
        no sockets are bound; `hold` is to be called soon. Ports must be given."""
        others = bound(frozenset(r.proto for r in requests) & {"tcp", "udp"})
        for request in requests:
            there = others.get((request.proto, request.first))
            for host in request.hosts if there else ():
                clash = _overlap(host, there or ())
                if clash and not self._clash(request.proto, request.first, request.hosts):
                    raise _in_use(host, request.first, request.proto, errno.EADDRINUSE)
        held: list[Held] = []
        try:
            for request in requests:
                self._check(request)
                key = (request.proto, request.first)
                self._taken.setdefault(key, []).extend(request.hosts)
                held.append(Held(request.proto, request.port, request.hosts, request.first, []))
        except BaseException:
            self.release(held)
            raise
        return held

    def hold(self, held: Sequence[Held]) -> None:
        """Bind the sockets of reserved ports. A port that somebody was quicker to take stays
        translated; it is logged. So do all that are left when few files may still be opened:
        the daemon needs some for other things."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES
        for n, one in enumerate(held if self._hold else ()):
            try:
                sockets = self._bind(one.proto, one.host_port, one.hosts)
            except System as error:
                _log.error("%s", error)
                continue
            if any(sock.fileno() >= most for sock in sockets):
                for sock in sockets:
                    sock.close()
                _log.warning("too many open files: only %d of %d ports are held", n, len(held))
                return
            one.sockets.extend(sockets)

    def acquire(self, requests: Sequence[PortRequest]) -> list[Held]:
        """All of `requests`, or none: System with Docker's text when one is not to be had."""
        held: list[Held] = []
        try:
            for request in requests:
                held.append(self._acquire(request))
        except BaseException:
            self.release(held)
            raise
        return held

    def release(self, held: Iterable[Held]) -> None:
        for one in held:
            for sock in one.sockets:
                sock.close()
            key = (one.proto, one.host_port)
            hosts = self._taken.get(key, [])
            for host in one.hosts:
                if host in hosts:
                    hosts.remove(host)
            if not hosts:
                self._taken.pop(key, None)

    def _acquire(self, request: PortRequest) -> Held:
        if request.first and request.first == request.last:
            self._check(request)
            return self._take(request, request.first)
        failure: System | None = None
        for _attempt in range(_ATTEMPTS):
            port = self._free(request)
            try:
                return self._take(request, port)
            except System as error:
                failure = error
        assert failure is not None
        raise failure

    def _check(self, request: PortRequest) -> None:
        clash = self._clash(request.proto, request.first, request.hosts)
        if clash:
            shown = f"[{clash}]" if ":" in clash else clash
            raise System(f"Bind for {shown}:{request.first} failed: port is already allocated")

    def _take(self, request: PortRequest, port: int) -> Held:
        sockets = self._bind(request.proto, port, request.hosts) if self._hold else []
        self._taken.setdefault((request.proto, port), []).extend(request.hosts)
        return Held(request.proto, request.port, request.hosts, port, sockets)

    def _clash(self, proto: str, port: int, hosts: Sequence[str]) -> str:
        """The address by which somebody has the port already, "" when nobody has."""
        taken = self._taken.get((proto, port))
        if not taken:
            return ""
        return next(filter(None, (_overlap(host, taken) for host in hosts)), "")

    def _free(self, request: PortRequest) -> int:
        first, last = (request.first, request.last) if request.first else self._ephemeral
        skip = frozenset() if request.first else self._reserved
        key = f"{request.proto} {first}"
        start = self._next.get(key, first)
        for step in range(last - first + 1):
            port = first + (start - first + step) % (last - first + 1)
            if port not in skip and not self._clash(request.proto, port, request.hosts):
                self._next[key] = port + 1 if port < last else first
                return port
        raise System("all ports are allocated")

    def _bind(self, proto: str, port: int, hosts: Sequence[str]) -> list[socket.socket]:
        sockets: list[socket.socket] = []
        try:
            rest = list(hosts)
            if _ANY4 in rest and _ANY6 in rest:
                # One socket for both families: half the sockets of a range.
                rest = [host for host in rest if host not in (_ANY4, _ANY6)]
                try:
                    self._listen(sockets, proto, _ANY6, port, both=True)
                except OSError:
                    rest = [_ANY4, _ANY6, *rest]
            for host in rest:
                self._listen(sockets, proto, host, port)
        except OSError as error:
            for sock in sockets:
                sock.close()
            raise _in_use(host, port, proto, error.errno or 0) from None
        return sockets

    def _listen(
        self, sockets: list[socket.socket], proto: str, host: str, port: int, both: bool = False
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            if proto == "udp":
                sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            else:
                number = _IPPROTO_SCTP if proto == "sctp" else 0
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, number)
        except OSError as error:
            if proto == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                return  # no sockets of this protocol on this host: nobody to collide with
            raise
        try:
            if proto == "tcp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and both is self._v6only:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
            if self._drop or proto == "sctp":
                sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _DROP_FILTER)
            sock.bind((host, port))
            if proto != "udp":
                sock.listen(128)
        except BaseException:
            sock.close()
            raise
        sockets.append(sock)


def _overlap(host: str, taken: Iterable[str]) -> str:
    """The address in `taken` that keeps a socket from being bound to `host`, "" if none."""
    anywhere = _ANY6 if ":" in host else _ANY4
    for other in taken:
        if (":" in other) == (":" in host) and (other == host or anywhere in (other, host)):
            return other
    return ""


def _in_use(host: str, port: int, proto: str, code: int) -> System:
    shown = f"[{host}]" if ":" in host else host
    reason = os.strerror(code).lower()
    return System(f"failed to bind host port {shown}:{port}/{proto}: {reason}")


def _ephemeral_range() -> tuple[int, int]:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            first, last = file.read().split()
            return int(first), int(last)
    except (OSError, ValueError):
        return 49153, 65535


def _v6only() -> bool:
    """Whether IPv6 sockets are for IPv6 only unless told otherwise."""
    try:
        with open("/proc/sys/net/ipv6/bindv6only") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def _reserved_ports() -> frozenset[int]:
    """Ports that the kernel excludes from automatic choice ("8080,30000-32767")."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_reserved_ports") as file:
            text = file.read().strip()
    except OSError:
        return frozenset()
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
