"""Egress policies: what is named can be reached, all else is refused and written down."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.integration.network.netlab import (
    SETTINGS,
    ask,
    inside,
    on_host,
    process_in,
    refused,
    request,
    tcp_server,
    with_networks,
)
from tests.integration.network.test_network_dns import LanServer, resolve
from tests.support.machine import HOST_ADDRESS, LAN_ADDRESS, Machine

from gantry.model.errors import InvalidParameter
from gantry.model.network import EndpointConfig
from gantry.network.service import Networks
from gantry.testing.network import MemoryNetworkStore

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("needs_nftables")]

OPTION = "gantry.egress.allow"
OTHER = "203.0.113.5"  # what the LAN's DNS server says example.org is


@pytest.fixture
def lan(machine: Machine, tmp_path: Path) -> Machine:
    """The LAN host has a second address, and the host asks it for names."""
    machine.lan.run("ip", "addr", "add", f"{OTHER}/32", "dev", "lo")
    (tmp_path / "resolv.conf").write_text(f"nameserver {LAN_ADDRESS}\n")
    return machine


async def try_tcp(fd: int | None, address: str) -> str:
    """ "" when connected, else the errno's name."""

    def connect() -> str:
        try:
            # A SYN that is lost (links come up in the background) is sent again after 1 s.
            socket.create_connection((address, 80), 4).close()
        except OSError as error:
            return os.strerror(error.errno) if error.errno else "timed out"
        return ""

    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: inside(fd, connect))


@pytest.mark.parametrize("kind", ["network", "container", "container on the default bridge"])
def test_only_what_is_allowed(lan: Machine, tmp_path: Path, kind: str) -> None:
    async def body(networks: Networks) -> None:
        allow = "example.org, 192.0.2.0/24"
        await networks.create(
            {"Name": "shut", "Options": {OPTION: allow} if kind == "network" else {}}
        )
        name = "bridge" if kind.endswith("bridge") else "shut"
        egress = None if kind == "network" else tuple(allow.split(","))
        one = await networks.allocate(request("one", mode=name, egress=egress))
        neighbour = await networks.allocate(request("two", mode=name))
        fd = one.netns_fd
        with (
            LanServer(lan),
            open(lan.lan.path) as namespace,
            tcp_server(namespace.fileno(), 80),
            tcp_server(neighbour, 80),
            tcp_server(one, 80),
        ):
            assert await try_tcp(fd, OTHER) in ("No route to host", "Permission denied")
            assert await try_tcp(fd, LAN_ADDRESS) in ("No route to host", "Permission denied")
            assert await try_tcp(fd, HOST_ADDRESS) in ("No route to host", "Permission denied")
            assert await resolve(one, "example.org") == [OTHER]
            assert await try_tcp(fd, OTHER) == ""
            assert await resolve(one, "example.com") in (["REFUSED"], ["NXDOMAIN"])
            assert await ask(fd, neighbour.endpoints[name].ip, 80)
            assert await ask(None, one.endpoints[name].ip, 80)
            if kind != "network":
                assert await try_tcp(neighbour.netns_fd, LAN_ADDRESS) == ""
        async with asyncio.timeout(3):
            while len((await networks.egress(name))["Refused"]) < 3:
                await asyncio.sleep(0.02)
        rows = (await networks.egress(name))["Refused"]
        assert {row["destination"] for row in rows if row["kind"] == "packet"} == {
            OTHER,
            LAN_ADDRESS,
            HOST_ADDRESS,
        }
        assert {(row["container"], row["verdict"]) for row in rows} == {("one" * 8, "refused")}
        assert all(row["port"] == 80 for row in rows if row["kind"] == "packet")
        await networks.release("one" * 8)
        sets = lan.host.run("nft", "list", "table", "inet", "gantry-egress")
        assert one.endpoints[name].ip not in sets

    settings = replace(
        SETTINGS, resolv_conf=str(tmp_path / "resolv.conf"), audit_dir=str(tmp_path / "audit")
    )
    with_networks(lan, body, settings)
    assert list((tmp_path / "audit").iterdir())


def test_names_that_are_not_allowed_are_refused_and_written_down(
    lan: Machine, tmp_path: Path
) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "shut", "Options": {OPTION: "*.example.org"}})
        one = await networks.allocate(request("one", mode="shut"))
        with LanServer(lan) as server:
            assert await resolve(one, "example.org") == ["REFUSED"]
            assert await resolve(one, "a.b.example.org") == ["NXDOMAIN"]
            assert [name for name, _ in server.asked] == ["a.b.example.org."]
        rows = (await networks.egress("shut"))["Refused"]
        assert [(row["kind"], row["name"]) for row in rows] == [("dns", "example.org")]

    with_networks(lan, body, replace(SETTINGS, resolv_conf=str(tmp_path / "resolv.conf")))


def odd_queries() -> dict[str, bytes]:
    """Questions for secret.example.com that are not plain ones."""
    head = b"\0\7\1\0\0\1\0\0\0\0\0\0"
    name = b"\x06secret\x07example\x03com\0"
    allowed = b"\x01a\x07example\x03org\0"
    return {
        "bytes that are no letters": head + b"\x01\xff" + name + b"\0\1\0\1",
        "another class": head + name + b"\0\1\0\xff",
        "a second question": b"\0\7\1\0\0\2\0\0\0\0\0\0" + allowed + b"\0\1\0\1"
        + name + b"\0\1\0\1",
        "another operation": head[:2] + b"\x11" + head[3:] + name + b"\0\1\0\1",
        "a pointer": head + b"\x06secret\xc0\x16" + b"\0\1\0\1" + b"\x07example\x03com\0",
        "a dot that separates nothing": head + b"\x0dx.example.org\x00\0\1\0\1",
        "control characters": head + b"\x05\x1b[31m\x07example\x03org\0\0\1\0\1",
        "a name cut short": head + b"\x3fsecret.example.com",
    }  # fmt: skip


@pytest.mark.parametrize("kind", odd_queries())
def test_what_is_not_understood_is_not_passed_on(lan: Machine, tmp_path: Path, kind: str) -> None:
    """Other servers may understand it: data would leave by names."""
    query = odd_queries()[kind]

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "shut", "Options": {OPTION: "*.example.org,192.0.2.1"}})
        one = await networks.allocate(request("one", mode="shut"))

        def ask_raw() -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(3)
                sock.sendto(query, ("127.0.0.11", 53))
                return sock.recv(512)

        with LanServer(lan) as server:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(None, lambda: inside(one.netns_fd, ask_raw))
            assert answer[3] & 0x0F == 5, "REFUSED"
            assert await resolve(one, "example.com") == ["REFUSED"]
            assert server.asked == []

    with_networks(lan, body, replace(SETTINGS, resolv_conf=str(tmp_path / "resolv.conf")))


@pytest.mark.parametrize(
    "answer",
    [LAN_ADDRESS, HOST_ADDRESS, "172.18.0.1", "127.0.0.1", "169.254.169.254", "::1", "fe80::1"],
)
def test_an_answer_does_not_open_the_inside(lan: Machine, tmp_path: Path, answer: str) -> None:
    """Who answers for a name below *.org may be anybody."""
    lan.lan.run("ip", "addr", "add", "169.254.169.254/32", "dev", "lo")
    lan.host.run("ip", "route", "add", "169.254.169.254/32", "via", LAN_ADDRESS)
    (tmp_path / "resolv.conf").write_text(f"nameserver {LAN_ADDRESS}\n")
    kind = "AAAA" if ":" in answer else "A"

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "shut", "EnableIPv6": True, "Options": {OPTION: "*.org"}})
        one = await networks.allocate(request("one", mode="shut"))
        with (
            LanServer(lan, {"inside.org.": f"inside.org 60 {kind} {answer}"}),
            open(lan.lan.path) as namespace,
            tcp_server(namespace.fileno(), 80),
            open(lan.host.path) as host,
            tcp_server(host.fileno(), 80),
        ):
            assert await resolve(one, "inside.org", kind) == [answer]
            reached = await try_tcp(one.netns_fd, answer)
            assert (reached == "") is (answer == LAN_ADDRESS)

    with_networks(lan, body, replace(SETTINGS, resolv_conf=str(tmp_path / "resolv.conf")))


def test_what_answers_open_is_limited(lan: Machine, tmp_path: Path) -> None:
    """Or a container that has a name below a `*.name` fills the kernel's memory."""

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "shut", "Options": {OPTION: "*.org"}})
        one = await networks.allocate(request("one", mode="shut"))
        zone = {
            f"n{n}.org.": "\n".join(f"n{n}.org 9999 A 10.{n}.{i >> 8}.{i & 255}" for i in range(25))
            for n in range(200)
        }
        with LanServer(lan, zone):
            for n in range(200):
                assert len(await resolve(one, f"n{n}.org")) == 25
        shown = lan.host.run("nft", "list", "set", "inet", "gantry-egress", "learned4")
        assert shown.count("expires") == 4096
        assert "10.199.0.24" in shown

    with_networks(lan, body, replace(SETTINGS, resolv_conf=str(tmp_path / "resolv.conf")))


def test_nothing_allowed_is_no_name_allowed(lan: Machine, tmp_path: Path) -> None:
    """Names carry data out, too."""

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "shut", "Options": {OPTION: ""}})
        one = await networks.allocate(request("one", mode="shut"))
        with LanServer(lan) as server:
            assert await resolve(one, "example.org") == ["REFUSED"]
            assert server.asked == []

    with_networks(lan, body, replace(SETTINGS, resolv_conf=str(tmp_path / "resolv.conf")))


def test_refusals_fill_no_disk(lan: Machine, tmp_path: Path) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "shut", "Options": {OPTION: "example.org"}})
        one = await networks.allocate(request("one", mode="shut"))
        loop = asyncio.get_running_loop()

        def flood() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(3)
                for number in range(2000):
                    name = b"n%06d" % number
                    sock.sendto(
                        b"\0\7\1\0\0\1" + bytes(6) + bytes((len(name),)) + name
                        + b"\x03com\0\0\1\0\1",
                        ("127.0.0.11", 53),
                    )  # fmt: skip
                    sock.recv(512)

        start = loop.time()
        await loop.run_in_executor(None, lambda: inside(one.netns_fd, flood))
        rows = (await networks.egress("shut"))["Refused"]
        assert 100 <= len(rows) <= 101 + 50 * (loop.time() - start)

    with_networks(lan, body, replace(SETTINGS, resolv_conf=str(tmp_path / "resolv.conf")))


def test_the_host_s_link_local_address_is_no_way_out(lan: Machine) -> None:
    """A service of the host (a proxy, say) listens there, too."""

    async def body(networks: Networks) -> None:
        await networks.create(
            {
                "Name": "six",
                "EnableIPv6": True,
                "Options": {"com.docker.network.bridge.name": "six0"},
                "IPAM": {"Config": [{"Subnet": "fd00:9::/64"}]},
            }
        )
        shut = await networks.allocate(request("one", mode="six", egress=("192.0.2.0/24",)))
        free = await networks.allocate(request("two", mode="six"))
        shown = lan.host.run("ip", "-6", "addr", "show", "dev", "six0", "scope", "link")
        address = shown.split("inet6 ")[1].split("/")[0]
        loop = asyncio.get_running_loop()

        def listen() -> socket.socket:
            return socket.create_server(("::", 8080), family=socket.AF_INET6)

        def connect() -> bool:
            with socket.socket(socket.AF_INET6) as sock:
                sock.settimeout(4)  # its own address may have to be found free first
                try:
                    sock.connect((address, 8080, 0, socket.if_nametoindex("eth0")))
                except OSError:
                    return False
                return True

        listener = await loop.run_in_executor(None, lambda: lan.host.call(listen))
        with listener:
            for sandbox, reached in ((free, True), (shut, False)):
                fd = sandbox.netns_fd
                assert await loop.run_in_executor(None, partial(inside, fd, connect)) is reached

    with_networks(lan, body)


def test_a_container_cannot_widen_its_networks_policy(lan: Machine, tmp_path: Path) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "shut", "Options": {OPTION: "203.0.113.0/24"}})
        one = await networks.allocate(
            request("one", mode="shut", egress=("0.0.0.0/0", "example.org"))
        )
        with open(lan.lan.path) as namespace, tcp_server(namespace.fileno(), 80):
            assert await try_tcp(one.netns_fd, OTHER) == ""
            assert await try_tcp(one.netns_fd, LAN_ADDRESS) != ""

    with_networks(lan, body, replace(SETTINGS, resolv_conf=str(tmp_path / "resolv.conf")))


def test_another_source_address_does_not_help(lan: Machine) -> None:
    async def body(networks: Networks) -> None:
        one = await networks.allocate(request("one", egress=()))
        assert one.netns_fd is not None

        def cheat() -> None:
            os.system("ip addr add 172.17.7.7/16 dev eth0; ip addr del 172.17.0.2/16 dev eth0")
            os.system("ip route add default via 172.17.0.1")

        inside(one.netns_fd, cheat)
        with open(lan.lan.path) as namespace, tcp_server(namespace.fileno(), 80):
            assert await refused(one.netns_fd, LAN_ADDRESS, 80)

    with_networks(lan, body)


def test_connect_and_disconnect_change_the_policy(lan: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "shut", "Options": {OPTION: "192.0.2.0/24"}})
        one = await networks.allocate(request("one"))
        with open(lan.lan.path) as namespace, tcp_server(namespace.fileno(), 80):
            assert await try_tcp(one.netns_fd, LAN_ADDRESS) == ""
            await networks.join("one" * 8, "shut", EndpointConfig())
            assert await try_tcp(one.netns_fd, LAN_ADDRESS) != ""
            await networks.leave("one" * 8, "shut")
            assert await try_tcp(one.netns_fd, LAN_ADDRESS) == ""

    with_networks(lan, body)


def test_a_policy_holds_while_the_daemon_restarts(lan: Machine) -> None:
    store = MemoryNetworkStore()

    async def main() -> None:
        networks = Networks(SETTINGS, store)
        await networks.start()
        await networks.settle()
        one = await networks.allocate(request("one", egress=()))
        assert one.netns_fd is not None
        with (
            process_in(one.netns_fd) as pid,
            open(lan.lan.path) as namespace,
            tcp_server(namespace.fileno(), 80),
        ):
            fd = os.dup(one.netns_fd)
            await networks.aclose()
            assert await try_tcp(fd, LAN_ADDRESS) != ""
            again = Networks(SETTINGS, store)
            await again.start()
            await again.adopt(request("one", egress=()), pid, one.state)
            await again.settle()
            assert await try_tcp(fd, LAN_ADDRESS) != ""
            await again.release("one" * 8)
            await again.aclose()
            os.close(fd)

    on_host(lan, main)


@pytest.mark.parametrize("word", ["bad name", "-", "a..b", "10.0.0.0/99", "ex ample.org"])
def test_policies_that_make_no_sense(machine: Machine, word: str) -> None:
    async def body(networks: Networks) -> None:
        with pytest.raises(InvalidParameter, match=r"invalid gantry\.egress\.allow"):
            await networks.create({"Name": "shut", "Options": {OPTION: f"a.b,{word}"}})
        with pytest.raises(InvalidParameter, match=r"invalid gantry\.egress\.allow"):
            await networks.allocate(request("one", egress=(word,)))

    with_networks(machine, body)
