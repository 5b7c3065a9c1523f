"""Telling the neighbours which MAC address an address now has (unsolicited ARP and NA).

An address that a container gave back soon belongs to another one, and who talked to the
first still sends to its MAC address, for up to a minute. So a new endpoint says who it is:
by default three times, a second apart, as in moby (libnetwork/osl/interface_linux.go), with
the network options `com.docker.network.advertise_addr_nmsgs` and `advertise_addr_ms`.

An IPv4 address in a bridge brings its MAC address along (`interfaces.mac_for`): there is
nothing to say that neighbours do not know, and nothing is said unless an option asks for it.

Sources: RFC 5227 section 3 (ARP), RFC 4861 sections 4.4 and 7.2.6 (NA).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

from gantry.ipc.owner import TaskOwner
from gantry.model.errors import InvalidParameter
from gantry.model.network import EndpointState, NetworkRecord
from gantry.network import interfaces, netlink
from gantry.network.netns import Namespaces

_log = logging.getLogger(__name__)

MESSAGES_OPTION = "com.docker.network.advertise_addr_nmsgs"
INTERVAL_OPTION = "com.docker.network.advertise_addr_ms"

_FORWARDING_WAIT = 0.01  # seconds between looks at a bridge's port
_FORWARDING_LOOKS = 50
_EVERYBODY4 = b"\xff" * 6
_EVERYBODY6 = b"\x33\x33\x00\x00\x00\x01"
_ALL_NODES = ip_address("ff02::1").packed
_NA_OVERRIDE = 0x20000000


@dataclass(frozen=True, slots=True)
class Announcements:
    """How often, and seconds apart. asked: an option says so."""

    count: int = 3
    interval: float = 1.0
    asked: bool = False

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Announcements:
        """InvalidParameter with moby's texts."""
        count = _number(options, MESSAGES_OPTION, 0, 3, "an integer")
        interval = _number(options, INTERVAL_OPTION, 100, 2000, "integer milliseconds")
        return cls(
            3 if count is None else count,
            1.0 if interval is None else interval / 1000,
            count is not None or interval is not None,
        )


def _number(options: Mapping[str, str], key: str, low: int, high: int, what: str) -> int | None:
    text = options.get(key)
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        raise InvalidParameter(f'value for option {key} "{text}" must be {what}') from None
    if not low <= number <= high:
        raise InvalidParameter(f"{key} must be in the range {low} to {high}")
    return number


def arp(mac: bytes, ipv4: bytes) -> bytes:
    """An ARP announcement, with its Ethernet header."""
    head = _EVERYBODY4 + mac + struct.pack(">H", 0x0806)
    return head + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + mac + ipv4 + bytes(6) + ipv4


def advertisement(mac: bytes, ipv6: bytes) -> bytes:
    """An unsolicited neighbour advertisement, with its Ethernet header."""
    body = struct.pack(">BBHI", 136, 0, 0, _NA_OVERRIDE) + ipv6 + b"\x02\x01" + mac
    pseudo = ipv6 + _ALL_NODES + struct.pack(">II", len(body), socket.IPPROTO_ICMPV6)
    total = sum(struct.unpack(f">{(len(pseudo) + len(body)) // 2}H", pseudo + body))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:]
    head = _EVERYBODY6 + mac + struct.pack(">H", 0x86DD)
    packet = struct.pack(">IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255)
    return head + packet + ipv6 + _ALL_NODES + body


class Announcer:
    """Announces endpoints in the background, until they are told to be gone."""

    def __init__(self, namespaces: Namespaces, owner: TaskOwner) -> None:
        self._namespaces = namespaces
        self._owner = owner
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, record: NetworkRecord, state: EndpointState, netns_fd: int) -> None:
        """Announce the endpoint, which is in the namespace `netns_fd`, if that says anything."""
        how = Announcements.parse(record.options)
        if not how.count or not state.mac:
            return
        if not how.asked and _known(record, state):
            return
        mac = netlink.mac_bytes(state.mac)
        frames: list[bytes] = []
        if state.ip:
            frames.append(arp(mac, ip_address(state.ip).packed))
        if state.ipv6:
            frames.append(advertisement(mac, ip_address(state.ipv6).packed))
        if not frames:
            return
        # Of our own: the sandbox's may be closed before we have got to it.
        fd = os.dup(netns_fd)
        try:
            task = self._owner.spawn(self._announce(how, state, fd, frames), "announce")
        except RuntimeError:  # closing down
            os.close(fd)
            return
        self._tasks[state.endpoint_id] = task
        task.add_done_callback(lambda _: self._done(state.endpoint_id, task))

    def stop(self, state: EndpointState) -> None:
        """The endpoint goes. Idempotent."""
        task = self._tasks.pop(state.endpoint_id, None)
        if task is not None:
            task.cancel()

    def _done(self, endpoint_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(endpoint_id) is task:
            del self._tasks[endpoint_id]

    async def _announce(
        self, how: Announcements, state: EndpointState, netns_fd: int, frames: list[bytes]
    ) -> None:
        fd = -1
        try:
            await self._until_forwarding(state)
            fd = await self._open(state, netns_fd)
            for number in range(how.count):
                if number:
                    await asyncio.sleep(how.interval)
                for frame in frames:
                    os.write(fd, frame)
        except OSError as error:
            # The interface is down, or gone, by the container's own doing.
            _log.debug("endpoint %s is not announced: %s", state.endpoint_id[:12], error)
        finally:
            os.close(netns_fd)
            if fd >= 0:
                self._namespaces.close_later(fd)

    async def _until_forwarding(self, state: EndpointState) -> None:
        """A bridge passes nothing on until it has noticed that its new port is up."""
        if not state.host_interface:
            return
        look = partial(self._port_state, state.host_interface)
        for _ in range(_FORWARDING_LOOKS):
            if await self._namespaces.run(look) in (None, netlink.FORWARDING):
                return
            await asyncio.sleep(_FORWARDING_WAIT)

    def _port_state(self, name: str) -> int | None:
        return netlink.port_state(self._namespaces.host, name)

    async def _open(self, state: EndpointState, netns_fd: int) -> int:
        """A packet socket on the endpoint's interface that receives nothing: its fd."""

        def bind() -> int:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0) as sock:
                sock.bind((state.interface, 0))
                return sock.detach()

        return await self._namespaces.run_for_fd(partial(self._namespaces.inside, netns_fd, bind))


def _known(record: NetworkRecord, state: EndpointState) -> bool:
    """Whether everybody knows already: the address always had this MAC address."""
    return (
        record.driver == "bridge"
        and not state.ipv6
        and bool(state.ip)
        and state.mac == interfaces.mac_for(state.ip)
    )
