"""Fakes of what the network package needs of others, and contract suites for its Protocols."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from gantry.model.errors import Forbidden, InvalidParameter
from gantry.model.network import EndpointState, IpamPool, NetworkRecord
from gantry.network import interfaces, netlink
from gantry.network.drivers import Driver, Wanted
from gantry.network.ipam import Ipam, NoAddresses
from gantry.network.netns import Namespaces
from gantry.network.ports import NetworkStore


class MemoryNetworkStore:
    """A `gantry.network.ports.NetworkStore` in memory."""

    def __init__(self, records: Iterable[NetworkRecord] = ()) -> None:
        self.records = {record.id: record for record in records}

    def load(self) -> list[NetworkRecord]:
        return list(self.records.values())

    async def save(self, record: NetworkRecord) -> None:
        self.records[record.id] = record

    async def delete(self, network_id: str) -> None:
        self.records.pop(network_id, None)


def record(name: str = "net", **fields: object) -> NetworkRecord:
    """A network's record for tests."""
    base = NetworkRecord(
        id=(name.encode().hex() * 64)[:64],
        name=name,
        driver="bridge",
        created="2024-01-01T00:00:00.000000000Z",
    )
    return replace(base, **fields)  # type: ignore[arg-type]  # the test's own fields


async def store_contract(make: Callable[[], NetworkStore]) -> None:
    """What every `NetworkStore` does. `make` opens the same store again each time."""
    store = make()
    assert list(store.load()) == []
    full = record(
        "full",
        options={"a": "b"},
        labels={"c": ""},
        ipam_options={"d": "e"},
        ipam=(IpamPool("10.0.0.0/24", "10.0.0.0/25", "10.0.0.1", {"x": "10.0.0.9"}, "p"),),
        enable_ipv6=True,
        internal=True,
    )
    await store.save(full)
    await store.save(record("second"))
    assert list(make().load()) == [full, record("second")]
    changed = replace(full, labels={"c": "d"})
    await store.save(changed)
    assert list(make().load()) == [changed, record("second")]
    await store.delete(full.id)
    await store.delete(full.id)
    assert list(make().load()) == [record("second")]


async def ipam_contract(ipam: Ipam) -> None:
    """What every `Ipam` that has addresses does."""
    lease = await ipam.request_pool("10.123.0.0/29")
    assert lease.subnet == "10.123.0.0/29"
    first = await ipam.request_address(lease.id)
    assert first.endswith("/29")
    asked = await ipam.request_address(lease.id, "10.123.0.6")
    assert asked == "10.123.0.6/29"
    for address, error in (("10.123.0.6", Forbidden), ("10.124.0.1", InvalidParameter)):
        try:
            await ipam.request_address(lease.id, address)
        except error:
            continue
        raise AssertionError(f"{address} was given out")
    given = {first, asked}
    try:
        while len(given) < 10:
            given.add(await ipam.request_address(lease.id))
    except NoAddresses:
        pass
    assert len(given) == 6
    await ipam.release_address(lease.id, first.partition("/")[0])
    await ipam.release_address(lease.id, first.partition("/")[0])
    assert await ipam.request_address(lease.id) == first
    await ipam.release_pool(lease.id)
    await ipam.release_pool(lease.id)


async def driver_contract(driver: Driver, namespaces: Namespaces, network: NetworkRecord) -> None:
    """What every `Driver` that makes interfaces does. The network has the subnet
    10.55.0.0/24 and no gateway; the calling thread is on a host of its own."""
    driver.check(network, [])
    await driver.create(network)
    await driver.create(network)  # a restarted daemon takes over what is there
    sandboxes: list[tuple[int, EndpointState]] = []
    for number, name in ((7, "eth0"), (8, "back0")):
        fd = await namespaces.run_for_fd(lambda: interfaces.new_sandbox(namespaces, None))
        wanted = Wanted(
            endpoint_id=f"{number}" * 64,
            interface=name,
            ipv4=f"10.55.0.{number}/24",
            sysctls=(("net.ipv4.conf.IFNAME.log_martians", "1"),),
        )
        attached = await driver.attach(network, wanted, fd)
        assert attached.interface == name
        link, addresses = await namespaces.run(partial(_look, namespaces, fd, name))
        assert link is not None and link.up
        assert link.mac == attached.mac
        assert f"10.55.0.{number}/24" in addresses
        state = EndpointState(
            network=network.name,
            network_id=network.id,
            endpoint_id=wanted.endpoint_id,
            interface=attached.interface,
            host_interface=attached.host_interface,
            ip=f"10.55.0.{number}",
            prefix=24,
        )
        await driver.adopt(network, state)
        sandboxes.append((fd, state))
    for fd, state in sandboxes:
        await driver.detach(network, state, fd)
        link, _ = await namespaces.run(partial(_look, namespaces, fd, state.interface))
        assert link is None
        await driver.detach(network, state, fd)
    for fd, _state in sandboxes:
        os.close(fd)
    await driver.remove(network)
    await driver.remove(network)


def _look(namespaces: Namespaces, fd: int, name: str) -> tuple[netlink.Link | None, list[str]]:
    def look() -> tuple[netlink.Link | None, list[str]]:
        with netlink.Socket() as sock:
            return netlink.link(sock, name), [
                f"{found.address}/{found.prefix}" for found in netlink.addresses(sock)
            ]

    return namespaces.inside(fd, look)
