"""New endpoints tell their neighbours which MAC address an address has."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from tests.integration.network.netlab import open_namespaces, request, with_networks
from tests.support.machine import Machine
from tests.support.wait import eventually

from gantry.model.errors import InvalidParameter
from gantry.model.network import EndpointConfig
from gantry.network import announce
from gantry.network.service import Networks

pytestmark = pytest.mark.integration

BRIDGE = "com.docker.network.bridge.name"
SUBNETS = {"Config": [{"Subnet": "10.9.0.0/24"}, {"Subnet": "fd09::/64"}]}


class Heard:
    """Frames that reach a bridge."""

    def __init__(self, machine: Machine, bridge: str) -> None:
        def listen() -> socket.socket:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            sock.bind((bridge, 3))
            sock.setblocking(False)
            return sock

        self.sock = machine.host.call(listen)
        self.frames: list[bytes] = []

    def count(self, frame: bytes) -> int:
        """How many have come that are exactly this one."""
        try:
            while True:
                self.frames.append(self.sock.recv(2048))
        except BlockingIOError:
            return self.frames.count(frame)


@contextmanager
def listening(machine: Machine, bridge: str) -> Iterator[Heard]:
    heard = Heard(machine, bridge)
    try:
        yield heard
    finally:
        heard.sock.close()


def frames(mac: str) -> tuple[bytes, bytes]:
    """What is to be heard of 10.9.0.9 and fd09::9."""
    address = bytes.fromhex(mac.replace(":", ""))
    return (
        announce.arp(address, ip_address("10.9.0.9").packed),
        announce.advertisement(address, ip_address("fd09::9").packed),
    )


async def heard_of(heard: Heard, frame: bytes, times: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(
        None, lambda: eventually(lambda: heard.count(frame) >= times, f"{times} announcements")
    )


def test_an_endpoint_is_announced_as_often_as_asked(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create(
            {
                "Name": "told",
                "EnableIPv6": True,
                "IPAM": SUBNETS,
                "Options": {
                    BRIDGE: "br-told",
                    announce.MESSAGES_OPTION: "2",
                    announce.INTERVAL_OPTION: "100",
                },
            }
        )
        ends = {"told": EndpointConfig(ipv4="10.9.0.9", ipv6="fd09::9")}
        with listening(machine, "br-told") as heard:
            box = await networks.allocate(request("one", mode="told", endpoints=ends))
            arp, advertisement = frames(box.endpoints["told"].mac)
            await heard_of(heard, arp, 2)
            await heard_of(heard, advertisement, 2)
            # Another one's announcements come later than a third would have.
            await networks.release("one" * 8)
            box = await networks.allocate(request("two", mode="told", endpoints=ends))
            await heard_of(heard, arp, 4)
            assert (heard.count(arp), heard.count(advertisement)) == (4, 4)

    with_networks(machine, body)


def test_neighbours_learn_a_new_mac_address(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "n", "IPAM": SUBNETS, "Options": {BRIDGE: "br-n"}})
        host = machine.host
        stale = ("10.9.0.9", "dev", "br-n", "lladdr", "02:00:00:00:00:01", "nud", "reachable")
        host.run("ip", "neigh", "replace", *stale)
        config = EndpointConfig(ipv4="10.9.0.9", mac="02:00:00:00:00:02")
        await networks.allocate(request("one", mode="n", endpoints={"n": config}))

        def known() -> bool:
            return "02:00:00:00:00:02" in host.run("ip", "neigh", "show", "10.9.0.9")

        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: eventually(known, "the neighbour's entry"))

    with_networks(machine, body)


def test_what_everybody_knows_is_not_announced(machine: Machine) -> None:
    """An IPv4 address in a bridge always has the same MAC address."""

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "n", "IPAM": SUBNETS, "Options": {BRIDGE: "br-n"}})
        own = "02:00:00:00:00:02"
        with listening(machine, "br-n") as heard:
            ends = {"n": EndpointConfig(ipv4="10.9.0.9")}
            box = await networks.allocate(request("one", mode="n", endpoints=ends))
            await networks.release("one" * 8)
            ends = {"n": EndpointConfig(ipv4="10.9.0.9", mac=own)}
            await networks.allocate(request("two", mode="n", endpoints=ends))
            await heard_of(heard, frames(own)[0], 1)
            assert heard.count(frames(box.endpoints["n"].mac)[0]) == 0

    with_networks(machine, body)


def test_a_container_that_ends_is_announced_no_more(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        options = {BRIDGE: "br-n", announce.INTERVAL_OPTION: "2000"}
        await networks.create({"Name": "n", "IPAM": SUBNETS, "Options": options})
        await networks.ready()
        before = open_namespaces()
        ends = {"n": EndpointConfig(ipv4="10.9.0.9")}
        with listening(machine, "br-n") as heard:
            box = await networks.allocate(request("one", mode="n", endpoints=ends))
            await heard_of(heard, frames(box.endpoints["n"].mac)[0], 1)
            await networks.release("one" * 8)
            await asyncio.sleep(0)  # its task has heard of it
            assert open_namespaces() == before

    with_networks(machine, body)


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        (announce.MESSAGES_OPTION, "4", "must be in the range 0 to 3"),
        (announce.MESSAGES_OPTION, "x", 'nmsgs "x" must be an integer'),
        (announce.INTERVAL_OPTION, "99", "must be in the range 100 to 2000"),
        (announce.INTERVAL_OPTION, "x", 'addr_ms "x" must be integer milliseconds'),
    ],
)
@pytest.mark.parametrize("driver", ["bridge", "macvlan"])
def test_options_that_make_no_sense(
    machine: Machine, driver: str, option: str, value: str, text: str
) -> None:
    async def body(networks: Networks) -> None:
        with pytest.raises(InvalidParameter, match=text):
            await networks.create({"Name": "n", "Driver": driver, "Options": {option: value}})

    with_networks(machine, body)
