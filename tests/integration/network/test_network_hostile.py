"""What a container with NET_RAW and NET_ADMIN tries in its own namespace, against the host and
its neighbours."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.integration.network.netlab import (
    SETTINGS,
    inside,
    publish,
    refused,
    request,
    tcp_server,
    with_networks,
)
from tests.integration.network.test_network_dns import LanServer, resolve
from tests.support.machine import HOST_ADDRESS, LAN_ADDRESS, Machine

from gantry.model.network import Sandbox
from gantry.network import dnswire
from gantry.network.service import Networks
from gantry.network.settings import NetworkSettings

pytestmark = pytest.mark.integration


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp4(source: str, target: str, port: int, data: bytes) -> bytes:
    """An IPv4 packet with whatever source address."""
    body = struct.pack(">HHHH", 5555, port, 8 + len(data), 0) + data
    ends = ip_address(source).packed + ip_address(target).packed
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0) + ends
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def send_frames(sandbox: Sandbox, device: str, gateway: str, packets: Sequence[bytes]) -> None:
    """Past the container's own routing and filters: as frames to the gateway's MAC address."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((device, 0))
            own = sock.getsockname()[4]
            for packet in packets:
                kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
                sock.send(bytes.fromhex(gateway.replace(":", "")) + own + kind.to_bytes(2) + packet)

    inside(sandbox.netns_fd, send)


def mac_of(machine: Machine, device: str) -> str:
    words = machine.host.run("ip", "-o", "link", "show", device).split()
    return words[words.index("link/ether") + 1]


def host_udp(machine: Machine, port: int, address: str = "0.0.0.0") -> socket.socket:
    """A socket of the host's, for what is sent to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def bind() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((address, port))
        sock.settimeout(2)
        return sock

    return machine.host.call(bind)


def test_nobody_passes_for_the_host_by_a_loopback_address(
    machine: Machine, settings: NetworkSettings
) -> None:
    """Bridges have route_localnet, with which the kernel takes packets from 127.0.0.0/8."""

    async def body(networks: Networks) -> None:
        one = await networks.allocate(request("one"))
        own = one.endpoints["bridge"].ip
        packets = [
            udp4(source, "172.17.0.1", 9999, source.encode())
            for source in ("127.0.0.1", "127.0.0.2", "127.255.255.254", own)
        ]
        with host_udp(machine, 9999) as sock:
            send_frames(one, "eth0", mac_of(machine, "docker0"), packets)
            assert sock.recv(100).decode() == own

    with_networks(machine, body, settings)


def test_a_few_cannot_keep_all_from_asking(machine: Machine, tmp_path: Path) -> None:
    """Each keeps as many questions waiting as it may, for names that nobody answers to."""
    (tmp_path / "resolv.conf").write_text(f"nameserver {LAN_ADDRESS}\n")

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for n in range(400):
                sock.sendto(dnswire.query("hole.org", dnswire.A, n), ("127.0.0.11", 53))

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "back"})
        good = await networks.allocate(request("good", mode="back"))
        bad = [await networks.allocate(request(f"bad{n}", mode="back")) for n in range(8)]
        loop = asyncio.get_running_loop()
        with LanServer(machine, {"hole.org.": ""}) as server:
            for one in bad:
                await loop.run_in_executor(None, inside, one.netns_fd, ask)
            async with asyncio.timeout(5):
                while len(server.asked) < 1500:
                    await asyncio.sleep(0.01)
            assert await resolve(good, "example.org") == ["203.0.113.5"]

    with_networks(machine, body, replace(SETTINGS, resolv_conf=str(tmp_path / "resolv.conf")))


def test_a_host_that_drops_does_not_open_networks(
    machine: Machine, settings: NetworkSettings
) -> None:
    """Where FORWARD's policy is DROP we accept our own packets, and no others' by that."""
    for command in ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"):
        machine.host.run(command, "-P", "FORWARD", "DROP")
        machine.host.run(command, "-N", "DOCKER-USER")
        machine.host.run(command, "-A", "FORWARD", "-j", "DOCKER-USER")
        for side in ("-i", "-o"):  # left from a time with nftables
            comment = ("-m", "comment", "--comment", "gantry")
            machine.host.run(
                command, "-A", "DOCKER-USER", side, "docker0", *comment, "-j", "ACCEPT"
            )
    machine.lan.run("ip", "route", "add", "172.16.0.0/12", "via", HOST_ADDRESS)

    async def body(networks: Networks) -> None:
        if settings.firewall_backend == "nftables":  # it accepts what others would drop
            for command in ("iptables-legacy", "ip6tables-legacy"):
                machine.host.run(command, "-P", "FORWARD", "ACCEPT")
        await networks.create({"Name": "back", "EnableIPv6": True})
        web = await networks.allocate(request("web"))
        db = await networks.allocate(request("db", mode="back"))
        with tcp_server(web, 80), tcp_server(db, 80):
            assert await refused(web.netns_fd, db.endpoints["back"].ip, 80)
            assert await refused(db.netns_fd, web.endpoints["bridge"].ip, 80)
            assert await refused(machine, web.endpoints["bridge"].ip, 80)
            assert await refused(machine, db.endpoints["back"].ip, 80)
        before = machine.host.run("iptables-nft", "-S", "DOCKER-USER")
        await networks.create({"Name": "more"})
        await networks.remove("more")
        assert machine.host.run("iptables-nft", "-S", "DOCKER-USER") == before

    with_networks(machine, body, settings)


def fragments(packet: bytes, size: int) -> list[bytes]:
    """An IPv4 packet in pieces of `size` (a multiple of eight) bytes."""
    head, body = packet[:20], packet[20:]
    found: list[bytes] = []
    for at in range(0, len(body), size):
        part = body[at : at + size]
        more = 0x2000 if at + size < len(body) else 0
        own = head[:2] + struct.pack(">HHH", 20 + len(part), 7, more | at >> 3) + head[8:10]
        own += b"\0\0" + head[12:]
        found.append(own[:10] + struct.pack(">H", checksum(own)) + own[12:] + part)
    return found


def icmp4(source: str, target: str, kind: int, data: bytes) -> bytes:
    body = struct.pack(">BBHI", kind, 0, 0, 1) + data
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    packet = udp4(source, target, 1, body[8:])
    head = packet[:9] + b"\x01\0\0" + packet[12:20]
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


@pytest.mark.usefixtures("needs_nftables")
def test_no_kind_of_packet_slips_past_an_egress_policy(machine: Machine) -> None:
    """Fragments whose ports are not in the first, ICMP of all kinds, errors that belong to no
    connection, packets from other addresses: none reaches the LAN."""

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        sock.bind(("lan0", 0x0003))
        sock.settimeout(0.5)
        return sock

    async def body(networks: Networks) -> None:
        shut = await networks.allocate(request("one", egress=("192.0.2.0/24",)))
        free = await networks.allocate(request("two"))
        own = shut.endpoints["bridge"].ip
        secret = b"secret" * 20
        neighbour = free.endpoints["bridge"].ip
        packets = [
            udp4(own, LAN_ADDRESS, 53, secret),
            *fragments(udp4(own, LAN_ADDRESS, 53, secret), 8),
            *fragments(udp4(own, LAN_ADDRESS, 53, secret), 64)[::-1],
            *(icmp4(own, LAN_ADDRESS, kind, secret) for kind in (0, 3, 5, 8, 11, 13)),
            udp4(neighbour, LAN_ADDRESS, 53, secret),
            udp4("198.51.100.77", LAN_ADDRESS, 53, secret),
            udp4("0.0.0.0", LAN_ADDRESS, 53, secret),
        ]
        with machine.lan.call(listen) as sniffer:
            mac = mac_of(machine, "docker0")
            send_frames(shut, "eth0", mac, packets)
            send_frames(free, "eth0", mac, [udp4(neighbour, LAN_ADDRESS, 53, b"the end")])
            seen = b""
            while b"the end" not in seen:
                seen = sniffer.recv(4096)
                assert b"secret" not in seen and b"ecrets" not in seen

    with_networks(machine, body)


def test_what_is_on_the_hosts_loopback_stays_there(
    machine: Machine, settings: NetworkSettings
) -> None:
    """A service of the host's, and a port published on 127.0.0.1: neither for containers nor
    for the LAN, whatever packets they make."""

    def from_lan(packets: Sequence[bytes]) -> None:
        mac = mac_of(machine, "lan0").replace(":", "")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("lan0", 0))
            own = sock.getsockname()[4]
            for packet in packets:
                sock.send(bytes.fromhex(mac) + own + b"\x08\0" + packet)

    async def body(networks: Networks) -> None:
        bindings = publish(("53/udp", ("127.0.0.1", "5353")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        bad = await networks.allocate(request("bad"))
        own, inside_port = bad.endpoints["bridge"].ip, inside(web.netns_fd, lambda: bound(53))
        loop = asyncio.get_running_loop()
        with host_udp(machine, 9998, "127.0.0.1") as service, inside_port as server:
            for target, port in (("127.0.0.1", 5353), ("127.0.0.1", 9998)):
                evil = [udp4(source, target, port, b"evil") for source in (own, LAN_ADDRESS)]
                send_frames(bad, "eth0", mac_of(machine, "docker0"), evil)
                await loop.run_in_executor(None, machine.lan.call, lambda e=evil: from_lan(e))
            with machine.host.call(lambda: socket.socket(type=socket.SOCK_DGRAM)) as good:
                good.sendto(b"good", ("127.0.0.1", 5353))
                good.sendto(b"good", ("127.0.0.1", 9998))
            assert service.recv(100) == b"good"
            assert server.recv(100) == b"good"

    with_networks(machine, body, settings)


def bound(port: int) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", port))
    sock.settimeout(2)
    return sock
