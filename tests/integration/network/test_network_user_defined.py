"""User-defined bridge networks: create, connect, addresses, isolation, removal."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.network.netlab import (
    SETTINGS,
    ask,
    inside,
    on_host,
    process_in,
    publish,
    refused,
    request,
    routes,
    tcp_server,
    veths,
    with_networks,
)
from tests.support.machine import HOST_ADDRESS, LAN_ADDRESS, Machine
from tests.support.wait import eventually

from gantry.model.errors import Forbidden, InvalidParameter, System
from gantry.model.network import EndpointConfig
from gantry.network import drivers
from gantry.network.bridge import MODE4, MODE6, TRUSTED
from gantry.network.interfaces import write_sysctl
from gantry.network.service import Networks
from gantry.testing.network import MemoryNetworkStore

pytestmark = pytest.mark.integration

DISABLE = "net.ipv6.conf.IFNAME.disable_ipv6=1"


def attach(*names: str, **fields: object) -> dict[str, EndpointConfig]:
    return {name: replace(EndpointConfig(), **fields) for name in names}  # type: ignore[arg-type]


def state(machine: Machine) -> tuple[str, list[str]]:
    """The firewall and the links."""
    links = machine.host.run("ip", "-br", "link").splitlines()
    return machine.host.run("nft", "list", "ruleset"), [line.split()[0] for line in links]


def test_a_network_from_create_to_remove(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        before = state(machine)
        network_id = (await networks.create({"Name": "back"}))["Id"]
        shown = await networks.inspect("back")
        assert shown["IPAM"]["Config"] == [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}]
        assert shown["Driver"] == "bridge" and shown["Scope"] == "local"
        sandbox = await networks.allocate(request("web", mode="back"))
        endpoint = sandbox.endpoints["back"]
        assert (endpoint.ip, endpoint.gateway) == ("172.18.0.2", "172.18.0.1")
        shown = await networks.inspect(network_id[:10])
        assert shown["Containers"] == {
            "web" * 8: {
                "Name": "web",
                "EndpointID": endpoint.endpoint_id,
                "MacAddress": "02:42:ac:12:00:02",
                "IPv4Address": "172.18.0.2/16",
                "IPv6Address": "",
            }
        }
        assert shown["Status"]["IPAM"]["Subnets"]["172.18.0.0/16"]["IPsInUse"] == 4
        with pytest.raises(Forbidden, match=r'has active endpoints \(name:"web" id:"[0-9a-f]{12}'):
            await networks.remove("back")
        await networks.release("web" * 8)
        await networks.remove("back")
        await networks.ready()
        await networks.idle()
        assert state(machine) == before

    with_networks(machine, lambda networks: _ready_first(networks, body))


async def _ready_first(networks: Networks, body: object) -> None:
    await networks.ready()
    await body(networks)  # type: ignore[operator]  # a coroutine function


def test_networks_are_isolated_from_each_other(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "front"})
        await networks.create({"Name": "back"})
        front = await networks.allocate(request("front", mode="front"))
        back = await networks.allocate(request("back", mode="back"))
        default = await networks.allocate(request("plain"))
        with tcp_server(back, 80), tcp_server(default, 80):
            assert await ask(None, back.endpoints["back"].ip, 80)
            assert await refused(front.netns_fd, back.endpoints["back"].ip, 80)
            assert await refused(front.netns_fd, default.endpoints["bridge"].ip, 80)
            assert await refused(default.netns_fd, back.endpoints["back"].ip, 80)

    with_networks(machine, body)


def test_an_internal_network_has_no_way_out_or_in(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "inner", "Internal": True})
        bindings = publish(("80/tcp", ("", "8080")))
        one = await networks.allocate(request("one", mode="inner", port_bindings=bindings))
        two = await networks.allocate(request("two", mode="inner"))
        plain = await networks.allocate(request("plain", port_bindings=publish(("80", ("", "81")))))
        assert one.ports == {"80/tcp": None}
        assert "default" not in routes(one)
        with (
            open(machine.lan.path) as namespace,
            tcp_server(namespace.fileno(), 80),
            tcp_server(one, 80),
            tcp_server(plain, 80),
        ):
            assert await ask(two.netns_fd, one.endpoints["inner"].ip, 80)
            assert await refused(two.netns_fd, LAN_ADDRESS, 80)
            gateway = "172.18.0.1"
            assert await refused(two.netns_fd, gateway, 81)  # another network's port
            assert await refused(machine, HOST_ADDRESS, 8080)
            assert await ask(None, one.endpoints["inner"].ip, 80)

    with_networks(machine, body)


@pytest.mark.parametrize("bridge_netfilter", ["0", "1"])
def test_containers_do_not_reach_each_other_without_icc(
    machine: Machine, bridge_netfilter: str
) -> None:
    machine.host.run("sysctl", "-q", f"net.bridge.bridge-nf-call-iptables={bridge_netfilter}")

    async def body(networks: Networks) -> None:
        options = {"com.docker.network.bridge.enable_icc": "false"}
        await networks.create({"Name": "apart", "Options": options})
        bindings = publish(("80/tcp", ("", "8080")))
        one = await networks.allocate(request("one", mode="apart", port_bindings=bindings))
        two = await networks.allocate(request("two", mode="apart"))
        with tcp_server(one, 80):
            assert await refused(two.netns_fd, one.endpoints["apart"].ip, 80)
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} one"

    with_networks(machine, body)


def test_connect_and_disconnect_while_running(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "back"})
        web = await networks.allocate(request("web"))
        peer = await networks.allocate(request("peer", mode="back"))
        web = await networks.join("web" * 8, "back", EndpointConfig(aliases=("www",)))
        assert list(web.endpoints) == ["bridge", "back"]
        assert web.endpoints["back"].interface == "eth1"
        assert web.endpoints["back"].dns_names == ("web", "www", "webwebwebweb")
        assert b"172.17.0.2\tweb\n172.18.0.3\tweb\n" in web.hosts
        assert b"nameserver 127.0.0.11" in web.resolv_conf
        assert routes(web)["default"] == "172.18.0.1"  # "back" < "bridge"
        with tcp_server(web, 80):
            assert await ask(peer.netns_fd, "172.18.0.3", 80) == "172.18.0.2 web"
            web = await networks.leave("web" * 8, "back")
            assert await refused(peer.netns_fd, "172.18.0.3", 80)
        assert list(web.endpoints) == ["bridge"]
        assert routes(web)["default"] == "172.17.0.1"
        assert b"nameserver 127.0.0.11" not in web.resolv_conf

    with_networks(machine, body)


def test_published_ports_follow_the_gateway(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "back"})
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        with tcp_server(web, 80):
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"
            web = await networks.join("web" * 8, "back", EndpointConfig(gw_priority=1))
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"
            assert "172.17.0.2" not in machine.host.run(
                "nft", "list", "map", "inet", "gantry", "any4"
            )
            await networks.leave("web" * 8, "back")
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"

    with_networks(machine, body)


def test_several_networks_at_the_start_and_static_addresses(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        config = [{"Subnet": "10.9.0.0/24", "IPRange": "10.9.0.128/25", "Gateway": "10.9.0.254"}]
        await networks.create({"Name": "a", "IPAM": {"Config": config}})
        await networks.create({"Name": "b"})
        ends = {
            "a": EndpointConfig(ipv4="10.9.0.5", mac="02:00:00:00:00:05"),
            "b": EndpointConfig(
                gw_priority=5,
                driver_opts={
                    "com.docker.network.endpoint.ifname": "back0",
                    "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1",
                },
            ),
        }
        web = await networks.allocate(request("web", mode="a", endpoints=ends))
        assert web.endpoints["a"].ip == "10.9.0.5"
        assert web.endpoints["a"].mac == "02:00:00:00:00:05"
        assert web.endpoints["b"].interface == "back0"
        assert routes(web)["default"] == "172.18.0.1"
        martians = "/proc/sys/net/ipv4/conf/back0/log_martians"
        assert inside(web.netns_fd, Path(martians).read_text) == "1\n"
        two = await networks.allocate(request("two", mode="a"))
        assert two.endpoints["a"].ip == "10.9.0.128"
        with pytest.raises(Forbidden, match=r"^Address already in use"):
            await networks.allocate(request("three", endpoints=attach("a", ipv4="10.9.0.5")))
        with pytest.raises(
            InvalidParameter,
            match=r"^invalid endpoint settings:\nno configured subnet contains IP address 10.8.0.1",
        ):
            await networks.allocate(request("three", endpoints=attach("a", ipv4="10.8.0.1")))
        assert len((await networks.inspect("a"))["Containers"]) == 2

    with_networks(machine, body)


def test_addresses_come_back_when_a_small_pool_is_used_up(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        config = [{"Subnet": "10.9.0.0/30"}]
        await networks.create({"Name": "tiny", "IPAM": {"Config": config}})
        for _ in range(3):
            await networks.allocate(request("one", mode="tiny"))
            with pytest.raises(Exception, match="no available IPv4 addresses on this network's"):
                await networks.allocate(request("two", mode="tiny"))
            await networks.release("one" * 8)

    with_networks(machine, body)


def test_ipv6(machine: Machine) -> None:
    for host, address in ((machine.host, "2001:db8::1/64"), (machine.lan, "2001:db8::2/64")):
        host.run("ip", "-6", "addr", "add", address, "dev", "lan0", "nodad")
    machine.lan.run("ip", "-6", "route", "add", "fd09::/64", "via", "2001:db8::1")

    async def body(networks: Networks) -> None:
        config = [{"Subnet": "fd09::/64"}]
        await networks.create({"Name": "six", "EnableIPv6": True, "IPAM": {"Config": config}})
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", mode="six", port_bindings=bindings))
        other = await networks.allocate(request("other", mode="six"))
        endpoint = web.endpoints["six"]
        assert (endpoint.ipv6, endpoint.ipv6_gateway) == ("fd09::2", "fd09::1")
        assert endpoint.ip == "172.18.0.2"
        assert b"fd09::2\tweb" in web.hosts
        with tcp_server(web, 80):
            assert await ask(other.netns_fd, "fd09::2", 80) == "fd09::3 web"
            assert await ask(machine, "2001:db8::1", 8080) == "2001:db8::2 web"
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"
            assert await ask(None, "::1", 8080)
            assert await refused(machine, "fd09::2", 80)
            assert (await ask(other.netns_fd, "2001:db8::1", 8080)).endswith(" web")
        with open(machine.lan.path) as namespace, tcp_server(namespace.fileno(), 80):
            assert (await ask(web.netns_fd, "2001:db8::2", 80)).strip() == "2001:db8::1"

    with_networks(machine, body)


def test_ipv6_only(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "six", "EnableIPv4": False, "EnableIPv6": True})
        web = await networks.allocate(request("web", mode="six"))
        endpoint = web.endpoints["six"]
        assert endpoint.ip == "" and endpoint.ipv6.startswith("fd")
        shown = await networks.inspect("six")
        assert [c["Subnet"][:2] for c in shown["IPAM"]["Config"]] == ["fd"]

    with_networks(machine, body)


@pytest.mark.parametrize(
    ("mode", "published", "other"),
    [("nat", False, False), ("nat-unprotected", True, True), ("routed", True, False)],
)
def test_gateway_modes_and_direct_routing(
    machine: Machine, mode: str, published: bool, other: bool
) -> None:
    machine.lan.run("ip", "route", "add", "172.18.0.0/16", "via", HOST_ADDRESS)

    async def body(networks: Networks) -> None:
        options = {"com.docker.network.bridge.gateway_mode_ipv4": mode}
        await networks.create({"Name": "back", "Options": options})
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", mode="back", port_bindings=bindings))
        address = web.endpoints["back"].ip
        with tcp_server(web, 80), tcp_server(web, 81):
            assert await refused(machine, address, 80) is not published
            assert await refused(machine, address, 81) is not other
            if mode == "routed":
                assert await refused(machine, HOST_ADDRESS, 8080)
                with open(machine.lan.path) as namespace, tcp_server(namespace.fileno(), 9):
                    assert (await ask(web.netns_fd, LAN_ADDRESS, 9)).strip() == address
            else:
                assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"

    with_networks(machine, body)


def test_other_bridge_options(machine: Machine) -> None:
    machine.host.run("ip", "addr", "add", "198.51.100.77/24", "dev", "lan0")
    prefix = "com.docker.network."

    async def body(networks: Networks) -> None:
        options = {
            prefix + "bridge.name": "mybr",
            prefix + "driver.mtu": "1400",
            prefix + "container_iface_prefix": "net",
            prefix + "bridge.host_binding_ipv4": "127.0.0.1",
            prefix + "host_ipv4": "198.51.100.77",
        }
        await networks.create({"Name": "back", "Options": options})
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", mode="back", port_bindings=bindings))
        assert web.endpoints["back"].interface == "net0"
        assert web.ports == {"80/tcp": [("127.0.0.1", "8080")]}
        assert "mtu 1400" in machine.host.run("ip", "link", "show", veths(machine, "mybr")[0])
        with open(machine.lan.path) as namespace, tcp_server(namespace.fileno(), 9):
            assert (await ask(web.netns_fd, LAN_ADDRESS, 9)).strip() == "198.51.100.77"
        with pytest.raises(Forbidden, match="networks have same bridge name"):
            await networks.create({"Name": "b", "Options": {prefix + "bridge.name": "mybr"}})
        assert (await networks.list({"name": ["^b$"]})) == []

    with_networks(machine, body)


def test_networks_and_addresses_survive_a_restart(machine: Machine) -> None:
    store = MemoryNetworkStore()

    async def first(networks: Networks) -> None:
        await networks.create({"Name": "one", "Labels": {"a": "b"}})
        await networks.create({"Name": "config", "ConfigOnly": True})
        await networks.create({"Name": "six", "EnableIPv6": True})

    async def second(networks: Networks) -> None:
        shown = {row["Name"]: row for row in await networks.list({})}
        assert set(shown) == {"bridge", "host", "none", "one", "config", "six"}
        assert shown["one"]["IPAM"]["Config"] == [
            {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}
        ]
        web = await networks.allocate(request("web", mode="one"))
        assert web.endpoints["one"].ip == "172.18.0.2"
        await networks.create({"Name": "two"})
        assert (await networks.inspect("two"))["IPAM"]["Config"][0]["Subnet"] == "172.20.0.0/16"

    with_networks(machine, first, store=store)
    ids = {record.name: record.id for record in store.load()}
    with_networks(machine, second, store=store)
    assert {record.name: record.id for record in store.load()}.items() >= ids.items()


def test_a_disconnect_that_a_crash_cut_short_is_one(machine: Machine) -> None:
    """The interface has gone; what was written down of it had not yet."""
    store = MemoryNetworkStore()

    async def main() -> None:
        networks = Networks(SETTINGS, store)
        await networks.start()
        await networks.settle()
        await networks.create({"Name": "back"})
        wanted = {"bridge": EndpointConfig(), "back": EndpointConfig()}
        one = await networks.allocate(request("one", endpoints=wanted))
        assert one.netns_fd is not None
        with process_in(one.netns_fd) as pid:
            await networks.aclose()
            machine.host.run("ip", "link", "del", one.state.endpoints[1].host_interface)
            again = Networks(SETTINGS, store)
            await again.start()
            left = await again.adopt(request("one", endpoints=wanted), pid, one.state)
            await again.settle()
            gone = one.state.endpoints[1].network
            assert set(left.endpoints) == {"bridge", "back"} - {gone}
            two = await again.allocate(request("two", mode=gone))
            assert two.endpoints[gone].ip == one.endpoints[gone].ip or gone == "bridge"
            await again.release("one" * 8)
            await again.aclose()

    on_host(machine, main)


def test_a_failed_create_leaves_nothing(machine: Machine) -> None:
    class Broken(MemoryNetworkStore):
        broken = False

        async def save(self, record: object) -> None:
            if self.broken:
                raise System("the disk is full")
            await super().save(record)  # type: ignore[arg-type]  # passed on

    store = Broken()

    async def body(networks: Networks) -> None:
        before = state(machine)
        store.broken = True
        with pytest.raises(System, match="the disk is full"):
            await networks.create({"Name": "back"})
        store.broken = False
        await networks.idle()
        assert state(machine) == before
        await networks.create({"Name": "back"})
        assert (await networks.inspect("back"))["IPAM"]["Config"][0]["Subnet"] == "172.18.0.0/16"

    with_networks(machine, lambda networks: _ready_first(networks, body), store=store)


def test_the_same_name_at_the_same_time(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        results = await asyncio.gather(
            *(networks.create({"Name": "same"}) for _ in range(5)), return_exceptions=True
        )
        assert sum(isinstance(result, dict) for result in results) == 1
        assert {str(r) for r in results if not isinstance(r, dict)} == {
            "network with name same already exists"
        }

    with_networks(machine, body)


def test_many_containers_at_once_get_addresses_of_their_own(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "back"})
        sandboxes = await asyncio.gather(
            *(networks.allocate(request(f"c{n}", mode="back")) for n in range(30))
        )
        assert len({s.endpoints["back"].ip for s in sandboxes}) == 30
        await asyncio.gather(*(networks.release(f"c{n}" * 8) for n in range(30)))

    with_networks(machine, body)


@pytest.mark.parametrize("bridge_netfilter", ["0", "1"])
def test_a_network_larger_than_a_bridge(machine: Machine, bridge_netfilter: str) -> None:
    """A bridge takes 1,023 ports; here it is made to take three."""
    machine.host.run("sysctl", "-q", f"net.bridge.bridge-nf-call-iptables={bridge_netfilter}")

    async def body(networks: Networks) -> None:
        networks.limit_bridge(3)
        await networks.create({"Name": "big"})
        bindings = publish(("80/tcp", ("", "8080")))
        boxes = [
            await networks.allocate(
                request(f"c{n}", mode="big", port_bindings=bindings if n == 7 else {})
            )
            for n in range(8)
        ]
        with tcp_server(boxes[7], 80), tcp_server(boxes[0], 80):
            assert await ask(boxes[0].netns_fd, boxes[7].endpoints["big"].ip, 80)
            assert await ask(boxes[4].netns_fd, boxes[7].endpoints["big"].ip, 80)
            assert await ask(boxes[7].netns_fd, boxes[0].endpoints["big"].ip, 80)
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} c7"
            assert (await ask(boxes[1].netns_fd, HOST_ADDRESS, 8080)).endswith("c7")
            assert (await ask(boxes[7].netns_fd, HOST_ADDRESS, 8080)).endswith("c7")
        for n in range(8):
            await networks.release(f"c{n}" * 8)
        await networks.remove("big")
        await networks.idle()
        links = machine.host.run("ip", "-br", "link")
        assert "bs1-" not in links and "bs2-" not in links

    with_networks(machine, body)
    eventually(lambda: veths(machine, "docker0") == [], "end of the veths")


def test_an_address_is_free_as_soon_as_its_container_is_gone(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "n", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}})
        wanted = {"n": EndpointConfig(ipv4="10.1.0.9")}
        await networks.allocate(request("one", mode="n", endpoints=wanted))
        await networks.release("one" * 8)
        two = await networks.allocate(request("two", mode="n", endpoints=wanted))
        assert two.endpoints["n"].ip == "10.1.0.9"

    with_networks(machine, body)


def test_who_comes_again_gets_the_address_again(machine: Machine) -> None:
    """Neighbours may have kept it."""

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "back"})
        for _ in range(3):
            one = await networks.allocate(request("web", mode="back"))
            assert one.endpoints["back"].ip == "172.18.0.2"
            await networks.release("web" * 8)

    with_networks(machine, body)


def test_no_ipv6_where_sysctls_switch_it_off(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "n", "EnableIPv6": True})
        off = {"n": EndpointConfig(driver_opts={drivers.SYSCTLS_OPTION: DISABLE})}
        one = await networks.allocate(request("one", mode="n", endpoints=off))
        two = await networks.allocate(request("two", mode="n", ipv6=False))
        three = await networks.allocate(request("three", mode="n"))
        assert [s.endpoints["n"].ipv6 != "" for s in (one, two, three)] == [False, False, True]
        assert b"ip6-localhost" not in two.hosts
        assert b"ip6-localhost" in three.hosts

    with_networks(machine, body)


@pytest.mark.usefixtures("needs_nftables")
def test_ports_are_open_in_every_routed_network(machine: Machine) -> None:
    """Also where that network is not the way out."""

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "nat"})
        await networks.create({"Name": "routed", "Options": {MODE4: "routed"}})
        both = {"nat": EndpointConfig(gw_priority=1), "routed": EndpointConfig()}
        published = {"80/tcp": [("", "8080")]}
        one = await networks.allocate(
            request("one", mode="nat", endpoints=both, port_bindings=published)
        )
        address = one.endpoints["routed"].ip
        machine.lan.run("ip", "route", "add", f"{address}/32", "via", HOST_ADDRESS)
        inside(one.netns_fd, lambda: write_sysctl("net.ipv4.conf.all.rp_filter", "0"))
        # Answers go out by the other network, whose address the host knows the way to.
        with tcp_server(one, 80), tcp_server(one, 81):
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} one"
            rules = machine.host.run("nft", "list", "set", "inet", "gantry", "open4")
            assert f"{address} . tcp . 80" in rules

    with_networks(machine, body)


def test_what_is_shown_of_ports_that_are_routed(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "n", "EnableIPv6": True, "Options": {MODE6: "routed"}})
        published = {"80/tcp": [("", "8080")]}
        one = await networks.allocate(request("one", mode="n", port_bindings=published))
        assert one.ports == {"80/tcp": [("0.0.0.0", "8080"), ("::", "")]}

    with_networks(machine, body)


def test_trusted_interfaces_reach_published_ports_directly(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "n", "Options": {TRUSTED: "lan0"}})
        published = {"80/tcp": [("", "8080")]}
        one = await networks.allocate(request("one", mode="n", port_bindings=published))
        two = await networks.allocate(request("two", port_bindings={"80/tcp": [("", "8081")]}))
        address, other = one.endpoints["n"].ip, two.endpoints["bridge"].ip
        for each in (address, other):
            machine.lan.run("ip", "route", "replace", f"{each}/32", "via", HOST_ADDRESS)
        with tcp_server(one, 80), tcp_server(one, 81), tcp_server(two, 80):
            assert await ask(machine, address, 80) == f"{LAN_ADDRESS} one"
            assert await refused(machine, address, 81)
            assert await refused(machine, other, 80)

    with_networks(machine, body)
    settings = replace(SETTINGS, firewall_backend="iptables")
    with_networks(machine, body, settings)
