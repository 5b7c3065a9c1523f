"""Subnets and addresses: order, exhaustion, overlaps, never twice."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network, ip_address, ip_network
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.model.errors import Forbidden, InvalidParameter
from gantry.network.ipam import AddressPool, DefaultIpam, NoAddresses, NullIpam
from gantry.network.settings import DEFAULT_POOLS

T = TypeVar("T")


def wait(coroutine: object) -> str:
    return str(asyncio.run(coroutine))  # type: ignore[arg-type]  # a coroutine of any driver


def test_the_lowest_free_address_is_given() -> None:
    pool = AddressPool("10.0.0.0/29", taken=["10.0.0.1"])
    assert [pool.allocate() for _ in range(3)] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    pool.release("10.0.0.2")
    assert [pool.allocate() for _ in range(3)] == ["10.0.0.2", "10.0.0.5", "10.0.0.6"]
    with pytest.raises(NoAddresses):
        pool.allocate()


def test_a_range_limits_the_choice_but_not_the_asking() -> None:
    pool = AddressPool("10.0.0.0/16", range="10.0.5.0/30")
    assert [pool.allocate() for _ in range(4)] == [f"10.0.5.{n}" for n in range(4)]
    pool.claim("10.0.9.9")
    with pytest.raises(NoAddresses):
        pool.allocate()


def test_claims() -> None:
    pool = AddressPool("10.0.0.0/24")
    pool.claim("10.0.0.5")
    with pytest.raises(Forbidden, match="Address already in use"):
        pool.claim("10.0.0.5")
    with pytest.raises(InvalidParameter, match="out of range"):
        pool.claim("10.0.1.5")


@pytest.mark.parametrize(
    ("subnet", "count"),
    [("10.0.0.0/31", 2), ("10.0.0.0/32", 1), ("10.0.0.0/30", 2), ("fd00::/126", 3)],
)
def test_small_subnets(subnet: str, count: int) -> None:
    pool = AddressPool(subnet)
    assert pool.available == count
    assert len({pool.allocate() for _ in range(count)}) == count
    with pytest.raises(NoAddresses):
        pool.allocate()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(26, 30),
    st.lists(st.tuples(st.sampled_from(["allocate", "claim", "release"]), st.integers(0, 63))),
)
def test_no_address_is_given_twice(prefix: int, steps: list[tuple[str, int]]) -> None:
    subnet = ip_network(f"10.0.0.0/{prefix}")
    pool = AddressPool(str(subnet), taken=["10.0.0.1"])
    held = {"10.0.0.1"}
    for step, number in steps:
        address = str(ip_address(int(subnet[0]) + number))
        if step == "release" and address != "10.0.0.1":
            pool.release(address)
            held.discard(address)
        elif step == "claim":
            try:
                pool.claim(address)
            except (Forbidden, InvalidParameter):
                assert address in held or ip_address(address) not in subnet
            else:
                assert address not in held
                held.add(address)
        elif step == "allocate":
            try:
                given_out = pool.allocate()
            except NoAddresses:
                hosts = {str(host) for host in subnet.hosts()}
                assert hosts <= held
            else:
                assert given_out not in held
                assert ip_address(given_out) in subnet
                held.add(given_out)
    assert pool.used == len(held) + 2


def test_the_default_pools_in_order_around_what_is_used() -> None:
    ipam = DefaultIpam(DEFAULT_POOLS)
    assert wait(_subnet(ipam)) == "172.17.0.0/16"
    assert wait(_subnet(ipam, exclude=["172.18.5.0/24", "172.19.0.0/30"])) == "172.20.0.0/16"
    assert wait(_subnet(ipam, "0.0.0.0/24")) == "172.18.0.0/24"
    assert wait(_subnet(ipam, "192.168.0.0/24")) == "192.168.0.0/24"
    found = [wait(_subnet(ipam)) for _ in range(12)]
    assert found[-1] == "172.31.0.0/16"
    assert wait(_subnet(ipam)) == "192.168.16.0/20"


def test_networks_with_ranges_may_share_a_subnet() -> None:
    """As macvlan networks of two hosts do; an address is still given only once."""
    ipam = DefaultIpam(DEFAULT_POOLS)
    low = asyncio.run(ipam.request_pool("10.0.0.0/24", "10.0.0.0/29"))
    high = asyncio.run(ipam.request_pool("10.0.0.0/24", "10.0.0.8/30"))
    wider = asyncio.run(ipam.request_pool("10.0.0.0/16", "10.0.9.0/24"))
    assert (low.subnet, high.subnet, wider.subnet) == ("10.0.0.0/24",) * 2 + ("10.0.0.0/16",)
    for ip_range in ("10.0.0.8/30", ""):
        with pytest.raises(Forbidden, match="Pool overlaps"):
            asyncio.run(ipam.request_pool("10.0.0.0/24", ip_range))
    wait(ipam.request_address(low.id, "10.0.0.9"))
    with pytest.raises(Forbidden, match="already in use"):
        wait(ipam.request_address(high.id, "10.0.0.9"))
    given = [wait(ipam.request_address(high.id)) for _ in range(3)]
    assert given == ["10.0.0.8/24", "10.0.0.10/24", "10.0.0.11/24"]
    with pytest.raises(NoAddresses):
        wait(ipam.request_address(high.id))
    wait(ipam.release_address(low.id, "10.0.0.9"))
    assert wait(ipam.request_address(high.id)) == "10.0.0.9/24"
    assert (ipam.pool(low.id).used, ipam.pool(low.id).available) == (6, 7)
    wait(ipam.release_pool(high.id))
    assert wait(ipam.request_address(low.id)) == "10.0.0.1/24"


def test_overlaps_and_exhaustion() -> None:
    ipam = DefaultIpam([("10.1.0.0/24", 25)])
    wait(_subnet(ipam, "10.0.0.0/8", exclude=[]))
    with pytest.raises(Forbidden, match=r"^invalid pool request: Pool overlaps with other one"):
        wait(_subnet(ipam, "10.3.0.0/16"))
    with pytest.raises(InvalidParameter, match="all predefined address pools have been fully"):
        wait(_subnet(ipam))
    wait(ipam.release_pool("10.0.0.0/8"))
    assert wait(_subnet(ipam)) == "10.1.0.0/25"
    assert wait(_subnet(ipam)) == "10.1.0.128/25"
    with pytest.raises(InvalidParameter):
        wait(_subnet(ipam))
    with pytest.raises(InvalidParameter, match="invalid address pool"):
        wait(_subnet(ipam, v6=True))


def test_ipv6_pools_are_found_without_counting() -> None:
    ipam = DefaultIpam([("fd00::/8", 64)])
    assert wait(_subnet(ipam, v6=True)) == "fd00::/64"
    assert wait(_subnet(ipam, v6=True)) == "fd00:0:0:1::/64"
    lease = asyncio.run(ipam.request_pool("fd77::/64"))
    assert wait(ipam.request_address(lease.id)) == "fd77::1/64"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(16, 30)), max_size=20))
def test_chosen_subnets_never_overlap(others: list[tuple[int, int]]) -> None:
    exclude = [str(ip_network(f"10.0.{n}.0/{p}", strict=False)) for n, p in others]
    ipam = DefaultIpam([("10.0.0.0/16", 22)])
    found: list[IPv4Network] = []
    try:
        while True:
            found.append(IPv4Network(wait(_subnet(ipam, exclude=exclude))))
    except InvalidParameter:
        pass
    others_too = [IPv4Network(e) for e in exclude]
    for index, network in enumerate(found):
        assert not any(network.overlaps(other) for other in found[index + 1 :] + others_too)
    free = set(IPv4Network("10.0.0.0/16").subnets(new_prefix=22)) - set(found)
    assert all(any(one.overlaps(other) for other in others_too) for one in free)


def test_null_ipam_has_no_addresses() -> None:
    ipam = NullIpam()
    assert wait(_subnet(ipam)) == "0.0.0.0/0"
    assert wait(ipam.request_address("null/0.0.0.0/0")) == ""
    with pytest.raises(InvalidParameter, match="null ipam driver does not handle specific"):
        wait(_subnet(ipam, "10.0.0.0/8"))


async def _subnet(ipam: DefaultIpam | NullIpam, subnet: str = "", **options: object) -> str:
    lease = await ipam.request_pool(subnet, **options)  # type: ignore[arg-type]
    return lease.subnet
