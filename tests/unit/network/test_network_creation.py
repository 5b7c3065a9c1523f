"""Create requests: what is refused, with which words; what comes out of the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gantry.model.errors import Conflict, Forbidden, GantryError, InvalidParameter, NotFound, System
from gantry.model.network import NetworkRecord
from gantry.network import creation
from gantry.network.bridge import BridgeDriver, BridgeOptions
from gantry.network.catalog import Catalog
from gantry.network.drivers import Traits
from gantry.network.ipam import DefaultIpam
from gantry.network.settings import DEFAULT_POOLS
from gantry.testing.network import record


def plan(body: dict[str, Any], catalog: Catalog | None = None, **options: Any) -> NetworkRecord:
    return creation.plan(creation.parse(body), catalog or Catalog(), options)


def config(**fields: Any) -> dict[str, Any]:
    names = {"subnet": "Subnet", "range": "IPRange", "gateway": "Gateway"}
    row = {names.get(key, "AuxiliaryAddresses"): value for key, value in fields.items()}
    return {"Name": "x", "IPAM": {"Config": [row]}}


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ({"Name": "bridge"}, Forbidden, "operation is not permitted on predefined bridge network "),
        ({"Name": "none"}, Forbidden, "operation is not permitted on predefined none network "),
        ({"Name": " "}, InvalidParameter, "invalid name: name is empty"),
        ({"Name": "taken"}, Conflict, "network with name taken already exists"),
        ({"Name": "x", "Driver": "overlay"}, Forbidden, "This node is not a swarm manager. Use"),
        ({"Name": 5}, InvalidParameter, "invalid JSON"),
        ({"Name": "x", "Options": {"a": 1}}, InvalidParameter, "invalid JSON"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "no"}]}}, InvalidParameter, "invalid CIDR"),
        (config(subnet="10.0.0.0"), InvalidParameter, "invalid CIDR address: 10.0.0.0"),
        (
            config(subnet="10.0.0.5/24"),
            InvalidParameter,
            "invalid network config:\ninvalid subnet 10.0.0.5/24: it should be 10.0.0.0/24",
        ),
        (
            config(subnet="10.0.0.0/24", gateway="10.0.1.1"),
            InvalidParameter,
            "invalid network config:\ninvalid gateway 10.0.1.1: parent subnet 10.0.0.0/24"
            " doesn't contain this address",
        ),
        (
            config(subnet="10.0.0.0/24", gateway="fd00::1"),
            InvalidParameter,
            "invalid network config:\ninvalid gateway fd00::1: parent subnet is an IPv4 block",
        ),
        (
            config(subnet="10.0.0.0/24", range="10.0.0.0/16"),
            InvalidParameter,
            "invalid network config:\ninvalid ip-range 10.0.0.0/16: CIDR block is bigger than its"
            " parent subnet 10.0.0.0/24",
        ),
        (
            config(subnet="10.0.0.0/24", range="10.0.0.9/25"),
            InvalidParameter,
            "invalid network config:\ninvalid ip-range 10.0.0.9/25: it should be 10.0.0.0/25",
        ),
        (
            config(subnet="10.0.0.0/24", range="10.0.5.0/25"),
            InvalidParameter,
            "invalid network config:\ninvalid ip-range 10.0.5.0/25: parent subnet 10.0.0.0/24"
            " doesn't contain ip-range",
        ),
        (
            config(subnet="10.0.0.0/24", aux={"router": "10.1.0.1"}),
            InvalidParameter,
            "invalid network config:\ninvalid auxiliary address router: parent subnet 10.0.0.0/24"
            " doesn't contain this address",
        ),
        (config(subnet="10.0.0.0/24", gateway="x"), InvalidParameter, "invalid IP address: x"),
        (
            {"Name": "x", "ConfigOnly": True, "Internal": True},
            Forbidden,
            "configuration network can only contain network specific fields. Network operator"
            " fields like [ ingress | internal | attachable | scope ] are not supported.",
        ),
        (
            {"Name": "x", "ConfigFrom": {"Network": "c"}, "Labels": {"a": "b"}},
            Forbidden,
            "user-specified configurations are not supported if the network depends on a"
            " configuration network",
        ),
        (
            {"Name": "x", "ConfigFrom": {"Network": "c"}, "Options": {"a": "b"}},
            Forbidden,
            "network driver options are not supported if the network depends on a configuration"
            " network",
        ),
        (
            {"Name": "x", "Options": {"com.docker.network.enable_ipv6": "maybe"}},
            InvalidParameter,
            'driver-opt "com.docker.network.enable_ipv6" is not a valid bool',
        ),
    ],
)
def test_refusals(body: dict[str, Any], error: type[GantryError], text: str) -> None:
    catalog = Catalog()
    catalog.put(record("taken"))
    with pytest.raises(error) as caught:
        plan(body, catalog)
    assert str(caught.value).startswith(text)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as caught:
        plan(config(subnet="10.0.0.5/24", gateway="10.9.0.1", range="10.8.0.0/25"))
    assert len(str(caught.value).splitlines()) == 4


def test_default_options_of_the_driver() -> None:
    options = {"bridge": {"com.docker.network.driver.mtu": "1400", "a": "b"}}
    made = creation.plan(creation.parse({"Name": "x", "Options": {"a": "c"}}), Catalog(), options)
    assert made.options == {"com.docker.network.driver.mtu": "1400", "a": "c"}


def test_ipv6_by_option_or_flag() -> None:
    assert plan({"Name": "x", "EnableIPv6": True}).enable_ipv6
    made = plan({"Name": "x", "Options": {"com.docker.network.enable_ipv6": "1"}})
    assert made.enable_ipv6
    assert not plan({"Name": "x"}).enable_ipv6


def test_pools_for_addresses_that_a_network_does_not_have() -> None:
    pools = [
        {"Subnet": "2001:db8::1/64", "IPRange": "2001:db8::/96", "Gateway": "2001:db8::ffff"},
        {"Subnet": "10.0.0.0/24"},
    ]
    made = creation.apply_config(plan({"Name": "x", "IPAM": {"Config": pools}}), Catalog())
    assert [pool.subnet for pool in made.ipam] == ["10.0.0.0/24"]


def test_configuration_networks() -> None:
    catalog = Catalog()
    source = plan(
        {"Name": "c", "ConfigOnly": True, "Labels": {"a": "b"}, **config(subnet="10.0.0.0/24")}
        | {"Name": "c"}
    )
    assert (source.driver, source.scope) == ("null", "local")
    catalog.put(source)
    made = plan({"Name": "x", "ConfigFrom": {"Network": "c"}, "Internal": True}, catalog)
    applied = creation.apply_config(made, catalog)
    assert (applied.labels, applied.ipam, applied.internal) == ({"a": "b"}, source.ipam, True)
    with pytest.raises(NotFound, match='configuration network "d" does not exist'):
        creation.apply_config(plan({"Name": "y", "ConfigFrom": {"Network": "d"}}), catalog)


def test_scopes() -> None:
    ingress = plan({"Name": "x", "Ingress": True})
    with pytest.raises(Forbidden, match="Ingress network can only be global scope network"):
        creation.check_scope(ingress, Traits())
    with pytest.raises(Forbidden, match="cannot downgrade network scope for bridge networks"):
        creation.check_scope(plan({"Name": "x", "Scope": "local"}), Traits(scope="global"))
    with pytest.raises(Forbidden, match="cannot create a swarm scoped network"):
        creation.check_scope(plan({"Name": "x", "Scope": "swarm"}), Traits())


def lease(body: dict[str, Any], ipam: DefaultIpam, **traits: bool) -> NetworkRecord:
    return asyncio.run(creation.allocate(plan(body), ipam, Traits(**traits), ()))  # type: ignore[arg-type]


def test_addresses_are_leased_and_given_back() -> None:
    ipam = DefaultIpam([*DEFAULT_POOLS, ("fd00::/48", 64)])
    body = config(subnet="10.0.0.0/24", aux={"router": "10.0.0.9"}) | {"EnableIPv6": True}
    made = lease(body, ipam)
    assert [(p.subnet, p.gateway) for p in made.ipam] == [
        ("10.0.0.0/24", "10.0.0.1"),
        ("fd00::/64", "fd00::1"),
    ]
    assert ipam.pool("10.0.0.0/24").used == 4
    with pytest.raises(Forbidden, match="Pool overlaps"):
        lease(body, ipam)
    asyncio.run(creation.give_back(made, ipam))
    assert lease(body, ipam).ipam == made.ipam


def test_what_fails_half_way_is_undone() -> None:
    ipam = DefaultIpam(DEFAULT_POOLS)
    clash = config(subnet="10.0.0.0/24", gateway="10.0.0.1", aux={"a": "10.0.0.1"})
    with pytest.raises(
        System, match=r"failed to allocate secondary ip address \(a:10.0.0.1\): Address already"
    ):
        lease(clash, ipam)
    assert lease(config(subnet="10.0.0.0/24"), ipam).ipam[0].gateway == "10.0.0.1"


def test_without_gateways_there_is_none_unless_named() -> None:
    ipam = DefaultIpam(DEFAULT_POOLS)
    assert lease(config(subnet="10.0.0.0/24"), ipam, gateways=False).ipam[0].gateway == ""
    named = config(subnet="10.1.0.0/24", gateway="10.1.0.254")
    assert lease(named, ipam, gateways=False).ipam[0].gateway == "10.1.0.254"


PREFIX = "com.docker.network.bridge."


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {PREFIX + "enable_icc": "perhaps"},
            "failed to parse com.docker.network.bridge.enable_icc",
        ),
        ({PREFIX + "gateway_mode_ipv4": "x"}, r"value: x \(unknown gateway mode x\)"),
        ({PREFIX + "host_binding_ipv4": "x"}, r"host_binding_ipv4 value: x \(nil ip\)"),
        ({"com.docker.network.driver.mtu": "x"}, "strconv.Atoi"),
        ({"com.docker.network.driver.mtu": "-5"}, "invalid MTU number: -5"),
    ],
)
def test_bridge_options_that_make_no_sense(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        BridgeOptions.parse(options)


def test_isolated_gateways_need_an_internal_network() -> None:
    driver = BridgeDriver.__new__(BridgeDriver)
    options = {PREFIX + "gateway_mode_ipv4": "isolated"}
    with pytest.raises(InvalidParameter, match="can only be used for an internal network"):
        driver.check(record(options=options), [])
    driver.check(record(options=options, internal=True), [])
