"""The default bridge: sandboxes, published ports, who reaches whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from dataclasses import replace

import pytest
from tests.integration.network.netlab import (
    SETTINGS,
    ask,
    ask_udp,
    inside,
    on_host,
    process_in,
    publish,
    refused,
    request,
    tcp_server,
    udp_server,
    veths,
    with_networks,
)
from tests.support.machine import HOST_ADDRESS, LAN_ADDRESS, Machine
from tests.support.wait import eventually

from gantry.model.errors import System
from gantry.network.netlink import Counter
from gantry.network.service import Networks
from gantry.testing.network import MemoryNetworkStore

pytestmark = pytest.mark.integration


def test_a_start_from_the_pool_asks_the_kernel_for_nothing(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.ready()
        before = Counter.round_trips
        sandbox = await networks.allocate(request())
        assert Counter.round_trips == before
        endpoint = sandbox.endpoints["bridge"]
        assert (endpoint.ip, endpoint.gateway, endpoint.prefix) == ("172.17.0.2", "172.17.0.1", 16)
        assert b"172.17.0.2\tone\n" in sandbox.hosts

    with_networks(machine, body)


@pytest.mark.usefixtures("needs_nftables")
def test_publishing_ports_is_one_request_to_the_kernel(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.ready()
        before = Counter.round_trips
        bindings = publish(("80/tcp", ("", "8080")), ("80/tcp", ("127.0.0.1", "81")))
        await networks.allocate(request(port_bindings=bindings))
        assert Counter.round_trips == before + 1

    with_networks(machine, body)


@pytest.mark.parametrize("bridge_netfilter", ["0", "1"])
def test_who_reaches_a_published_port(machine: Machine, bridge_netfilter: str) -> None:
    path = "net.bridge.bridge-nf-call-iptables"
    if "No such file" in machine.host.run("sh", "-c", f"sysctl {path} 2>&1 || true"):
        pytest.skip("no bridge netfilter in this kernel")
    machine.host.run("sysctl", "-q", f"{path}={bridge_netfilter}")

    async def body(networks: Networks) -> None:
        web = await networks.allocate(
            request("web", port_bindings=publish(("80/tcp", ("", "8080")), ("53/udp", ("", "53"))))
        )
        other = await networks.allocate(request("other"))
        assert web.netns_fd is not None
        with tcp_server(web, 80), udp_server(web, 53):
            assert await ask(None, "127.0.0.1", 8080) == "172.17.0.1 web"
            assert await ask(None, "::1", 8080) == "172.17.0.1 web"
            assert await ask(None, HOST_ADDRESS, 8080) == f"{HOST_ADDRESS} web"
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"  # kept
            assert (await ask(other.netns_fd, HOST_ADDRESS, 8080)).endswith(" web")
            assert (await ask(web.netns_fd, HOST_ADDRESS, 8080)).endswith(" web")  # hairpin
            assert await ask(other.netns_fd, "172.17.0.2", 80) == "172.17.0.3 web"
            assert await ask_udp(machine, HOST_ADDRESS, 53) == f"{LAN_ADDRESS} web"
            assert await ask_udp(None, "127.0.0.1", 53) == "172.17.0.1 web"
            assert await ask_udp(None, "::1", 53) == "172.17.0.1 web"
            assert (await ask_udp(other.netns_fd, HOST_ADDRESS, 53)).endswith(" web")
        await networks.release(web.hostname * 8)
        assert await refused(None, "127.0.0.1", 8080)

    with_networks(machine, body)


def test_a_container_reaches_the_lan_by_the_hosts_address(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        sandbox = await networks.allocate(request())
        with open(machine.lan.path) as namespace, tcp_server(namespace.fileno(), 80):
            assert (await ask(sandbox.netns_fd, LAN_ADDRESS, 80)).strip() == HOST_ADDRESS

    with_networks(machine, body)


def test_what_is_not_published_is_out_of_reach(machine: Machine) -> None:
    machine.lan.run("ip", "route", "add", "172.17.0.0/16", "via", HOST_ADDRESS)

    async def body(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("127.0.0.1", "8080")), ("81/tcp", ("", "8081")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        with tcp_server(web, 80), tcp_server(web, 81):
            assert await ask(None, "127.0.0.1", 8080) == "172.17.0.1 web"
            assert await refused(machine, HOST_ADDRESS, 8080)
            assert await refused(machine, "172.17.0.2", 80)  # routed straight at it
            assert await refused(machine, "172.17.0.2", 81)

    with_networks(machine, body)


def test_loopback_ports_cannot_be_had_from_outside(machine: Machine) -> None:
    """CVE-2020-8558's class: a neighbour sends packets to 127.0.0.1 on the wire."""
    lan = machine.lan
    lan.run("ip", "route", "add", "127.9.9.9/32", "via", HOST_ADDRESS, "dev", "lan0")
    lan.run("sysctl", "-q", "net.ipv4.conf.all.route_localnet=1")
    machine.host.run("sysctl", "-q", "net.ipv4.conf.lan0.route_localnet=1")

    async def body(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("127.9.9.9", "8080")), ("80/tcp", ("", "8081")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        evil = await networks.allocate(request("evil"))
        assert evil.netns_fd is not None
        with tcp_server(web, 80):
            assert await ask(None, "127.9.9.9", 8080) == "172.17.0.1 web"
            assert await refused(machine, "127.9.9.9", 8080)

            def send_from_container() -> None:
                with open("/proc/sys/net/ipv4/conf/eth0/route_localnet", "w") as file:
                    file.write("1")

            inside(evil.netns_fd, send_from_container)
            assert await refused(evil.netns_fd, "127.9.9.9", 8080)

    with_networks(machine, body)


def test_ports_in_use_are_noticed(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.allocate(request("a", port_bindings=publish(("80/tcp", ("", "8080")))))
        with pytest.raises(
            System, match=r"Bind for 0.0.0.0:8080 failed: port is already allocated"
        ):
            await networks.allocate(request("b", port_bindings=publish(("1/tcp", ("", "8080")))))
        with socket.socket() as other:
            other.bind(("0.0.0.0", 9090))
            other.listen()
            with pytest.raises(
                System,
                match=r"driver failed programming external connectivity on endpoint c"
                r" \([0-9a-f]{64}\):"
                r" failed to bind host port 0.0.0.0:9090/tcp: address already in use",
            ):
                await networks.allocate(
                    request("c", port_bindings=publish(("1/tcp", ("", "9090"))))
                )
        await networks.release("a" * 8)
        await networks.allocate(request("c", port_bindings=publish(("1/tcp", ("", "8080")))))

    with_networks(machine, body)


@pytest.mark.usefixtures("needs_nftables")
def test_a_range_is_one_element_and_all_its_ports_work(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        same = {f"{n}/tcp": [("", str(n))] for n in range(8000, 8100)}
        shifted = {f"{n}/tcp": [("", str(n + 1000))] for n in range(8100, 8110)}
        web = await networks.allocate(request("web", port_bindings={**same, **shifted}))
        assert [
            (p.host_port, p.port, p.count) for p in web.state.published if ":" not in p.host_ip
        ] == [
            (8000, 8000, 100),
            (9100, 8100, 10),
        ]
        assert web.ports["8099/tcp"] == [("0.0.0.0", "8099"), ("::", "8099")]
        elements = machine.host.run("nft", "list", "map", "inet", "gantry", "range4")
        assert elements.count("172.17.0.2") == 1
        with tcp_server(web, 8099), tcp_server(web, 8105):
            assert await ask(machine, HOST_ADDRESS, 8099) == f"{LAN_ADDRESS} web"
            assert await ask(machine, HOST_ADDRESS, 9105) == f"{LAN_ADDRESS} web"

    with_networks(machine, body)


def test_a_udp_client_that_never_stops_reaches_the_new_container(machine: Machine) -> None:
    """Connection tracking would keep leading its packets to where the first one went."""

    async def body(networks: Networks) -> None:
        client = machine.lan.socket(socket.SOCK_DGRAM)
        client.connect((HOST_ADDRESS, 5300))
        client.setblocking(False)

        async def heard(name: str) -> None:
            async with asyncio.timeout(5):
                while True:
                    with contextlib.suppress(OSError):
                        client.send(b"?")
                    await asyncio.sleep(0.01)
                    with contextlib.suppress(OSError):
                        while True:
                            if client.recv(100).decode().endswith(name):
                                return

        with client:
            for _ in range(3):
                with contextlib.suppress(OSError):
                    client.send(b"?")  # before anything is published
                await asyncio.sleep(0.01)
            for name in ("one", "two"):
                bindings = publish(("53/udp", ("", "5300")))
                box = await networks.allocate(request(name, port_bindings=bindings))
                with udp_server(box, 53):
                    await heard(name)
                await networks.release(name * 8)

    with_networks(machine, body, replace(SETTINGS, userland_proxy=False))


@pytest.mark.parametrize(
    ("family", "address", "said"),
    [
        (socket.AF_INET, "127.0.0.1", "0.0.0.0"),
        (socket.AF_INET, "0.0.0.0", "0.0.0.0"),
        (socket.AF_INET6, "::", "0.0.0.0"),
        (socket.AF_INET6, "::1", "[::]"),
    ],
)
def test_a_port_in_use_inside_a_large_range(
    machine: Machine, family: socket.AddressFamily, address: str, said: str
) -> None:
    async def body(networks: Networks) -> None:
        bindings = {f"{n}/tcp": [("", str(n))] for n in range(8000, 8200)}
        with socket.socket(family) as other:
            other.bind((address, 8123))
            other.listen()
            text = rf"failed to bind host port {re.escape(said)}:8123/tcp: address already in use"
            with pytest.raises(System, match=text):
                await networks.allocate(request("web", port_bindings=bindings))
        await networks.allocate(request("web", port_bindings=bindings))
        async with asyncio.timeout(5):
            while can_bind(8199):
                await asyncio.sleep(0.01)
        await networks.release("web" * 8)
        assert can_bind(8199)
        # Given back before the sockets were bound: they are closed all the same.
        await networks.allocate(request("web", port_bindings=bindings))
        await networks.release("web" * 8)
        assert can_bind(8199)

    with_networks(machine, body)


def can_bind(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def test_nothing_is_left_of_released_containers(machine: Machine) -> None:
    def state() -> str:
        return machine.host.run("nft", "list", "ruleset")

    async def body(networks: Networks) -> None:
        before = state()
        for n in range(5):
            name = f"c{n}"
            await networks.allocate(
                request(name, port_bindings=publish(("80/tcp", ("", str(8000 + n)))))
            )
        for n in range(5):
            await networks.release(f"c{n}" * 8)
            await networks.release(f"c{n}" * 8)
        await networks.ready()
        assert state() == before

    with_networks(machine, body)
    eventually(lambda: veths(machine, "docker0") == [], "end of the veths")


def test_a_restarted_daemon_takes_running_containers_over(machine: Machine) -> None:
    store = MemoryNetworkStore()

    async def first() -> None:
        networks = Networks(SETTINGS, store)
        await networks.start()
        await networks.settle()
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        gone = await networks.allocate(
            request("gone", port_bindings=publish(("80/tcp", ("", "9090"))))
        )
        assert web.netns_fd is not None and gone.netns_fd is not None
        holder = os.dup(web.netns_fd)  # stands for the container's own process
        with tcp_server(holder, 80):
            await networks.aclose()  # as kill -9: nothing is withdrawn
            assert (await ask(machine, HOST_ADDRESS, 8080)).strip() == LAN_ADDRESS
            again = Networks(SETTINGS, store)
            await again.start()
            with process_in(holder) as pid:
                taken = await again.adopt(request("web", port_bindings=bindings), pid, web.state)
                await again.settle()
                assert taken.ports == web.ports
                assert taken.endpoints == web.endpoints
                assert (await ask(machine, HOST_ADDRESS, 8080)).strip() == LAN_ADDRESS
                assert "9090" not in machine.host.run("nft", "list", "ruleset")
                with pytest.raises(System, match="already allocated"):
                    await again.allocate(request("two", port_bindings=bindings))
                fresh = [await again.allocate(request(f"f{n}")) for n in range(4)]
                assert web.endpoints["bridge"].ip not in {
                    one.endpoints["bridge"].ip for one in fresh
                }
                await again.release("web" * 8)
                assert await refused(machine, HOST_ADDRESS, 8080)
            os.close(holder)
            await again.aclose()

    on_host(machine, first)


@pytest.mark.usefixtures("needs_nftables")
def test_another_tool_flushes_the_firewall(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        with tcp_server(web, 80):
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"
            machine.host.run("nft", "flush", "ruleset")
            # The userland proxy still serves the port meanwhile.
            assert await ask(machine, HOST_ADDRESS, 8080) == "172.17.0.1 web"
            assert not await networks.check_firewall()
            assert await networks.check_firewall()
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"

    with_networks(machine, body)


@pytest.mark.usefixtures("needs_nftables")
def test_a_users_own_rules_are_kept(machine: Machine) -> None:
    store = MemoryNetworkStore()

    async def body(networks: Networks) -> None:
        machine.host.run("nft", "add rule inet gantry DOCKER-USER counter drop")

    with_networks(machine, body, store=store)

    async def check(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        with tcp_server(web, 80):
            assert await refused(machine, HOST_ADDRESS, 8080)

    with_networks(machine, check, store=store)


@pytest.mark.usefixtures("needs_nftables")
def test_a_dropping_forward_policy_of_another_engine(machine: Machine) -> None:
    machine.host.run("iptables", "-P", "FORWARD", "DROP")

    async def body(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        with tcp_server(web, 80):
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"

    with_networks(machine, body)


def test_somebody_elses_docker0_is_left_alone(machine: Machine) -> None:
    machine.host.run("ip", "link", "add", "docker0", "type", "bridge")
    machine.host.run("ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
    machine.host.run("ip", "link", "set", "docker0", "up")

    async def body(networks: Networks) -> None:
        assert networks.default_bridge == "gantry0"
        sandbox = await networks.allocate(request())
        assert sandbox.endpoints["bridge"].ip == "172.18.0.2"

    with_networks(machine, body)
    with_networks(machine, body)


def test_without_a_userland_proxy(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        assert web.ports == {"80/tcp": [("0.0.0.0", "8080")]}
        with tcp_server(web, 80):
            assert await ask(None, "127.0.0.1", 8080) == "172.17.0.1 web"
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"
            assert await refused(None, "::1", 8080)

    with_networks(machine, body, replace(SETTINGS, userland_proxy=False))


def test_two_engines_side_by_side(machine: Machine) -> None:
    """Neither takes the other's bridges for its own left-overs, nor its table."""

    async def body() -> None:
        first = Networks(replace(SETTINGS, owner="aaaa"), MemoryNetworkStore())
        await first.start()
        await first.settle()
        await first.ready()
        await first.create({"Name": "mine"})
        second = Networks(replace(SETTINGS, owner="bbbb"), MemoryNetworkStore())
        await second.start()
        await second.settle()
        try:
            assert (first.default_bridge, second.default_bridge) == ("docker0", "gantry0")
            sandbox = await first.allocate(request("one", mode="mine"))
            other = await second.allocate(request("two"))
            with tcp_server(sandbox, 80), tcp_server(other, 80):
                own = sandbox.endpoints["mine"].ip
                assert await ask(None, own, 80) == f"{machine_gateway(own)} one"
                theirs = other.endpoints["bridge"].ip
                assert await ask(None, theirs, 80) == f"{machine_gateway(theirs)} two"
            assert await first.check_firewall()
            await second.remove_all()
        finally:
            await second.aclose()
            await first.aclose()
        assert "docker0" in machine.host.run("ip", "-o", "link")

    on_host(machine, body)


def machine_gateway(address: str) -> str:
    """The first address of a /16 that `address` is in."""
    return ".".join([*address.split(".")[:2], "0", "1"])
