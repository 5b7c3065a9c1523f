"""macvlan (ipvlan and VLANs where the kernel has them): containers on the host's own LAN."""

from __future__ import annotations

import errno

import pytest
from tests.integration.network.netlab import (
    ask,
    refused,
    request,
    routes,
    tcp_server,
    with_networks,
)
from tests.support.machine import LAN_ADDRESS, Machine

from gantry.model.errors import Forbidden, GantryError, InvalidParameter, System
from gantry.model.network import EndpointConfig
from gantry.network.service import Networks
from gantry.testing.network import MemoryNetworkStore

pytestmark = pytest.mark.integration

LAN = {"Config": [{"Subnet": "198.51.100.0/24", "IPRange": "198.51.100.64/26"}]}
LAN_GATEWAY = {"Config": [{"Subnet": "198.51.100.0/24", "Gateway": LAN_ADDRESS}]}


def body_of(name: str, driver: str, **options: str) -> dict[str, object]:
    return {"Name": name, "Driver": driver, "Options": options, "IPAM": LAN}


@pytest.mark.parametrize(
    ("driver", "mode"),
    [
        ("macvlan", "bridge"),
        ("macvlan", "private"),
        ("macvlan", "vepa"),
        ("ipvlan", "l2"),
        ("ipvlan", "l3"),
        ("ipvlan", "l3s"),
    ],
)
def test_containers_on_the_lan(machine: Machine, driver: str, mode: str) -> None:
    require(machine, driver)

    async def body(networks: Networks) -> None:
        options = {"parent": "lan0", f"{driver}_mode": mode}
        await networks.create(body_of("lan", driver, **options))
        one = await networks.allocate(request("one", mode="lan"))
        two = await networks.allocate(
            request("two", endpoints={"lan": EndpointConfig(ipv4="198.51.100.99")}, mode="lan")
        )
        assert one.endpoints["lan"].ip == "198.51.100.64"
        with tcp_server(one, 80), tcp_server(two, 80):
            if mode not in ("l3", "l3s"):  # these have no neighbours: the LAN needs a route
                assert await ask(machine, "198.51.100.64", 80) == f"{LAN_ADDRESS} one"
                assert await ask(machine, "198.51.100.99", 80) == f"{LAN_ADDRESS} two"
            apart = mode in ("private", "vepa")
            assert await refused(one.netns_fd, "198.51.100.99", 80) is apart
            assert await refused(None, "198.51.100.64", 80)  # never from its own host
        assert ("default" in routes(one)) is (mode in ("l3", "l3s"))
        await networks.release("one" * 8)
        await networks.release("two" * 8)
        await networks.remove("lan")
        assert "lan0" in machine.host.run("ip", "link")

    with_networks(machine, body)


def test_a_gateway_that_was_named_is_the_way_out(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create(
            {"Name": "lan", "Driver": "macvlan", "Options": {"parent": "lan0"}, "IPAM": LAN_GATEWAY}
        )
        one = await networks.allocate(request("one", mode="lan"))
        assert routes(one)["default"] == LAN_ADDRESS
        assert one.endpoints["lan"].ip == "198.51.100.1"

    with_networks(machine, body)


def test_without_a_parent_it_is_internal(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        network_id = (await networks.create(body_of("alone", "macvlan")))["Id"]
        parent = f"dm-{network_id[:12]}"
        assert parent in machine.host.run("ip", "link")
        one = await networks.allocate(request("one", mode="alone"))
        two = await networks.allocate(request("two", mode="alone"))
        with tcp_server(one, 80):
            assert await ask(two.netns_fd, one.endpoints["alone"].ip, 80)
        assert "default" not in routes(one)
        await networks.release("one" * 8)
        await networks.release("two" * 8)
        await networks.remove("alone")
        await networks.idle()
        assert parent not in machine.host.run("ip", "link")

    with_networks(machine, body)


def test_a_vlan_of_the_parent_is_made_and_removed(machine: Machine) -> None:
    require(machine, "vlan")

    async def body(networks: Networks) -> None:
        await networks.create(body_of("a", "macvlan", parent="lan0.10"))
        await networks.create(
            body_of("b", "macvlan", parent="lan0.10")
            | {"IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]}}
        )
        assert "lan0.10" in machine.host.run("ip", "link")
        await networks.remove("a")
        await networks.remove("b")
        await networks.idle()
        assert "lan0.10" not in machine.host.run("ip", "link")

    with_networks(machine, body)


@pytest.mark.parametrize(
    ("driver", "options", "error", "text"),
    [
        ("macvlan", {"parent": "lo"}, InvalidParameter, "loopback interface is not a valid"),
        ("macvlan", {"macvlan_mode": "x"}, InvalidParameter, "macvlan mode 'x' is not valid"),
        ("ipvlan", {"ipvlan_mode": "x"}, InvalidParameter, "ipvlan mode 'x' is not valid, 'l2'"),
        ("ipvlan", {"ipvlan_flag": "x"}, InvalidParameter, "ipvlan flag 'x' is not valid"),
        ("macvlan", {"parent": "nope"}, InvalidParameter, "invalid subinterface vlan name nope"),
        ("macvlan", {"parent": "nope.5"}, System, "interface was not found on the host: nope"),
        ("macvlan", {"parent": "lan0.x"}, InvalidParameter, "unable to parse a valid vlan id"),
        ("macvlan", {"parent": "lan0.5000"}, InvalidParameter, "must be between 1-4094"),
    ],
)
def test_options_that_make_no_sense(
    machine: Machine, driver: str, options: dict[str, str], error: type[GantryError], text: str
) -> None:
    async def body(networks: Networks) -> None:
        with pytest.raises(error, match=text):
            await networks.create(body_of("bad", driver, **options))
        assert await networks.list({"name": ["bad"]}) == []
        # The subnet is free again.
        await networks.create(body_of("good", "macvlan", parent="lan0"))

    with_networks(machine, body)


def test_one_parent_for_several_networks(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create(body_of("a", "macvlan", parent="lan0"))
        other = {"IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]}}
        passthru = body_of("b", "macvlan", parent="lan0", macvlan_mode="passthru") | other
        with pytest.raises(System, match="cannot use mode passthru, macvlan network"):
            await networks.create(passthru)
        await networks.create(body_of("c", "macvlan", parent="lan0") | other)

    with_networks(machine, body)


def test_networks_share_a_subnet_by_ranges(machine: Machine) -> None:
    """Two macvlan networks may, each with a range of its own, over a restart, too; two
    bridges may not, and neither may a network without a range."""
    subnet = "198.51.100.0/24"
    low = {"IPAM": {"Config": [{"Subnet": subnet, "IPRange": "198.51.100.64/27"}]}}
    high = {"IPAM": {"Config": [{"Subnet": subnet, "IPRange": "198.51.100.96/27"}]}}
    store = MemoryNetworkStore()

    async def shared(networks: Networks) -> None:
        await networks.create(body_of("a", "macvlan", parent="lan0") | low)
        await networks.create(body_of("b", "macvlan", parent="lan0") | high)
        with pytest.raises(Forbidden, match="Pool overlaps with other one"):
            await networks.create({"Name": "c", "IPAM": {"Config": [{"Subnet": subnet}]}})
        await networks.create({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]}})
        ranged = {"IPAM": {"Config": [{"Subnet": "10.9.0.0/16", "IPRange": "10.9.8.0/24"}]}}
        with pytest.raises(Forbidden, match="networks have overlapping IPv4"):
            await networks.create({"Name": "y", **ranged})
        assert sorted(n["Name"] for n in await networks.list({"driver": ["bridge"]})) == [
            "bridge",
            "x",
        ]

    async def again(networks: Networks) -> None:
        ends = {"a": EndpointConfig(), "b": EndpointConfig()}
        for name in ("one", "two"):
            box = await networks.allocate(request(name, mode="a", endpoints=ends))
            last = [int(box.endpoints[n].ip.rpartition(".")[2]) for n in ("a", "b")]
            assert 64 <= last[0] < 96 <= last[1] < 128
        with pytest.raises(Forbidden, match="Address already in use"):
            taken = {"a": EndpointConfig(ipv4=box.endpoints["b"].ip)}
            await networks.allocate(request("three", mode="a", endpoints=taken))

    with_networks(machine, shared, store=store)
    with_networks(machine, again, store=store)


def require(machine: Machine, kind: str) -> None:
    """Skip where the kernel cannot make such links."""
    extra = {"vlan": ("id", "5"), "ipvlan": ("mode", "l2")}.get(kind, ())
    try:
        machine.host.run("ip", "link", "add", "try0", "link", "lan0", "type", kind, *extra)
    except RuntimeError as error:
        pytest.skip(f"this kernel has no {kind}: {error} ({errno.EOPNOTSUPP})")
    machine.host.run("ip", "link", "del", "try0")
