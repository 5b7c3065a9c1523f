"""The daemon's network options, each seen in what a container gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.integration.network.netlab import (
    SETTINGS,
    ask,
    inside,
    on_host,
    publish,
    refused,
    request,
    routes,
    tcp_server,
    with_networks,
)
from tests.support.machine import HOST_ADDRESS, LAN_ADDRESS, Machine

from gantry.model.errors import InvalidParameter
from gantry.network import netlink
from gantry.network.service import Networks
from gantry.network.settings import NetworkSettings
from gantry.testing.network import MemoryNetworkStore

pytestmark = pytest.mark.integration


def test_addresses_of_the_default_bridge(machine: Machine) -> None:
    settings = replace(
        SETTINGS,
        bridge="own0",
        bip="10.66.0.1/16",
        fixed_cidr="10.66.7.0/24",
        default_gateway="10.66.0.254",
        mtu=1400,
        host_gateway_ips=("192.0.2.9",),
    )

    async def body(networks: Networks) -> None:
        one = await networks.allocate(request("one", extra_hosts=("up:host-gateway",)))
        endpoint = one.endpoints["bridge"]
        assert (endpoint.ip, endpoint.prefix) == ("10.66.7.0", 16)
        assert routes(one)["default"] == "10.66.0.254"
        assert b"192.0.2.9\tup\n" in one.hosts
        assert "mtu 1400" in machine.host.run("ip", "link", "show", "own0")
        shown = await networks.inspect("bridge")
        assert shown["IPAM"]["Config"] == [
            {
                "Subnet": "10.66.0.0/16",
                "IPRange": "10.66.7.0/24",
                "Gateway": "10.66.0.1",
                "AuxiliaryAddresses": {"DefaultGatewayIPv4": "10.66.0.254"},
            }
        ]
        assert shown["Options"]["com.docker.network.bridge.name"] == "own0"

    with_networks(machine, body, settings)


def test_ipv6_on_the_default_bridge(machine: Machine) -> None:
    settings = replace(SETTINGS, ipv6=True, bip6="fd66::1/64", fixed_cidr_v6="fd66::ff00/120")

    async def body(networks: Networks) -> None:
        one = await networks.allocate(request("one"))
        endpoint = one.endpoints["bridge"]
        assert (endpoint.ipv6, endpoint.ipv6_gateway) == ("fd66::ff00", "fd66::1")

        def addresses() -> list[str]:
            with netlink.Socket() as sock:
                return [a.address for a in netlink.addresses(sock, 6)]

        assert "fd66::ff00" in inside(one.netns_fd, addresses)
        with tcp_server(one, 80):
            assert await ask(None, "fd66::ff00", 80)

    with_networks(machine, body, settings)


def test_published_ports_go_to_the_address_that_was_set(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("", "8080")))
        one = await networks.allocate(request("one", port_bindings=bindings))
        assert one.ports == {"80/tcp": [("127.0.0.1", "8080")]}
        with tcp_server(one, 80):
            assert await ask(None, "127.0.0.1", 8080)
            assert await refused(machine, HOST_ADDRESS, 8080)

    with_networks(machine, body, replace(SETTINGS, ip="127.0.0.1"))


def test_without_masquerading_packets_keep_their_source(machine: Machine) -> None:
    machine.lan.run("ip", "route", "add", "172.17.0.0/16", "via", HOST_ADDRESS)

    async def body(networks: Networks) -> None:
        one = await networks.allocate(request("one"))
        with open(machine.lan.path) as namespace, tcp_server(namespace.fileno(), 80):
            assert (await ask(one.netns_fd, LAN_ADDRESS, 80)).strip() == "172.17.0.2"

    with_networks(machine, body, replace(SETTINGS, ip_masq=False))


def test_address_pools(machine: Machine) -> None:
    settings = replace(SETTINGS, default_address_pools=(("10.70.0.0/16", 24), ("fd70::/32", 64)))

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "a", "EnableIPv6": True})
        shown = await networks.inspect("a")
        assert [row["Subnet"] for row in shown["IPAM"]["Config"]] == ["10.70.1.0/24", "fd70::/64"]
        assert (await networks.inspect("bridge"))["IPAM"]["Config"][0]["Subnet"] == "10.70.0.0/24"

    with_networks(machine, body, settings)


def test_subnets_of_the_hosts_routes_are_avoided(machine: Machine) -> None:
    machine.host.run("ip", "addr", "add", "172.18.99.1/24", "dev", "lan0")

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "a"})
        assert (await networks.inspect("a"))["IPAM"]["Config"][0]["Subnet"] == "172.19.0.0/16"

    with_networks(machine, body)


def test_dns_options(machine: Machine) -> None:
    settings = replace(SETTINGS, dns=("192.0.2.53",), dns_search=("lan",), dns_opts=("timeout:1",))

    async def body(networks: Networks) -> None:
        one = await networks.allocate(request("one"))
        text = one.resolv_conf.decode()
        assert "nameserver 192.0.2.53\nsearch lan\noptions timeout:1\n" in text
        two = await networks.allocate(request("two", dns=("192.0.2.54",), dns_search=("own",)))
        assert "nameserver 192.0.2.54\nsearch own\n" in two.resolv_conf.decode()

    with_networks(machine, body, settings)


def test_default_network_options(machine: Machine) -> None:
    settings = replace(
        SETTINGS,
        default_network_opts=(("bridge", (("com.docker.network.driver.mtu", "1300"),)),),
    )

    async def body(networks: Networks) -> None:
        network_id = (await networks.create({"Name": "a"}))["Id"]
        assert "mtu 1300" in machine.host.run("ip", "link", "show", f"br-{network_id[:12]}")

    with_networks(machine, body, settings)


def test_no_default_bridge(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        assert [row["Name"] for row in await networks.list({})] == ["host", "none"]
        sandbox = await networks.allocate(request("one"))
        assert sandbox.netns_fd is not None
        assert sandbox.endpoints == {}
        assert routes(sandbox) == {}
        assert (await networks.allocate(request("two", mode="none"))).netns_fd is not None

    with_networks(machine, body, replace(SETTINGS, bridge="none"))


def test_the_hosts_network_and_another_containers(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        host = await networks.allocate(request("one", mode="host"))
        assert host.netns_fd is None and "host" in host.endpoints
        assert list((await networks.inspect("host"))["Containers"]) == ["one" * 8]
        await networks.release("one" * 8)
        assert (await networks.inspect("host"))["Containers"] == {}
        other = await networks.allocate(request("two", mode="container:x", netns_pid=77))
        assert (other.netns_fd, other.netns_pid, other.hosts) == (None, 77, b"")
        none = await networks.allocate(request("three", mode="none"))
        assert list(none.endpoints) == ["none"]
        assert routes(none) == {}
        assert none.ports == {}

    with_networks(machine, body)


def test_without_iptables_nothing_is_filtered(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        one = await networks.allocate(request("one"))
        with tcp_server(one, 80):
            assert await ask(None, "172.17.0.2", 80)
        assert machine.host.run("nft", "list", "ruleset") == ""

    with_networks(machine, body, replace(SETTINGS, iptables=False))


def test_a_gateway_outside_the_bridge_is_refused(machine: Machine) -> None:
    settings = replace(SETTINGS, bip="10.66.0.1/24", default_gateway="10.67.0.1")

    async def main() -> None:
        networks = Networks(settings, MemoryNetworkStore())
        try:
            with pytest.raises(InvalidParameter, match="default gateway ip must be part of the"):
                await networks.start()
        finally:
            await networks.aclose()

    on_host(machine, main)


def test_live_port_edits(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("", "8080")), ("81/tcp", ("", "8081")))
        one = await networks.allocate(request("one", port_bindings=bindings))
        await networks.allocate(request("two", port_bindings=publish(("1/tcp", ("", "9000")))))
        with tcp_server(one, 80), tcp_server(one, 81), tcp_server(one, 82):
            kept = publish(("80/tcp", ("", "8080")))
            changed = {**kept, **publish(("82/tcp", ("", "8082")))}
            one = await networks.update_ports("one" * 8, changed)
            assert one.ports["82/tcp"] == [("0.0.0.0", "8082"), ("::", "8082")]
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} one"
            assert await ask(machine, HOST_ADDRESS, 8082) == f"{LAN_ADDRESS} one"
            assert await refused(machine, HOST_ADDRESS, 8081)
            with pytest.raises(Exception, match="port is already allocated"):
                await networks.update_ports("one" * 8, publish(("80/tcp", ("", "9000"))))
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} one"
            one = await networks.update_ports("one" * 8, {})
            assert await refused(machine, HOST_ADDRESS, 8080)
            assert "172.17.0.2" not in machine.host.run(
                "nft", "list", "map", "inet", "gantry", "any4"
            )

    with_networks(machine, body)


def test_settings_have_dockerds_defaults() -> None:
    settings = NetworkSettings()
    assert settings.icc and settings.ip_masq and settings.ip_forward and settings.userland_proxy
    assert (settings.ip, settings.ipv6, settings.mtu) == ("0.0.0.0", False, 0)


def test_the_default_bridge_is_where_fixed_cidr_says(machine: Machine) -> None:
    """And what it had before goes, when that does not fit."""
    store = MemoryNetworkStore()

    def gateways() -> list[str]:
        said = machine.host.run("ip", "-o", "addr", "show", "dev", "docker0", "scope", "global")
        return [line.split()[3] for line in said.splitlines()]

    async def first(networks: Networks) -> None:
        assert gateways() == ["192.168.50.1/24"]

    async def second(networks: Networks) -> None:
        assert gateways() == ["192.168.60.1/24"]

    async def third(networks: Networks) -> None:
        assert gateways() == ["192.168.0.1/16"]
        sandbox = await networks.allocate(request("one"))
        assert sandbox.endpoints["bridge"].ip.startswith("192.168.60.")

    with_networks(machine, first, replace(SETTINGS, fixed_cidr="192.168.50.0/24"), store)
    with_networks(machine, second, replace(SETTINGS, fixed_cidr="192.168.60.0/24"), store)
    settings = replace(SETTINGS, fixed_cidr="192.168.60.0/24", bip="192.168.0.1/16")
    with_networks(machine, third, settings, store)


def test_published_ports_are_reached_by_routing_if_asked_for(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        one = await networks.allocate(request(port_bindings=publish(("80/tcp", ("", "8080")))))
        address = one.endpoints["bridge"].ip
        machine.lan.run("ip", "route", "add", f"{address}/32", "via", HOST_ADDRESS)
        with tcp_server(one, 80), tcp_server(one, 81):
            assert await ask(machine, address, 80) == f"{LAN_ADDRESS} one"
            assert await refused(machine, address, 81)

    with_networks(machine, body, replace(SETTINGS, allow_direct_routing=True))


@pytest.mark.usefixtures("needs_nftables")
def test_packets_with_the_mark_are_let_in(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        one = await networks.allocate(request())
        address = one.endpoints["bridge"].ip
        machine.lan.run("ip", "route", "add", f"{address}/32", "via", HOST_ADDRESS)
        with tcp_server(one, 80):
            assert await refused(machine, address, 80)
            mark = "add table ip m; add chain ip m c { type filter hook prerouting priority -150; }"
            machine.host.run("nft", f"{mark}; add rule ip m c iifname lan0 meta mark set 0x5")
            assert await ask(machine, address, 80) == f"{LAN_ADDRESS} one"
            assert await networks.check_firewall()

    with_networks(machine, body, replace(SETTINGS, bridge_accept_fwmark="0x1/0x3"))
