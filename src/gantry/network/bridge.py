"""One bridge network: its device in the host, its addresses, the sandboxes made for it."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network

from gantry.ipc.owner import TaskOwner
from gantry.model.errors import Forbidden, System
from gantry.model.network import IpamPool, NetworkRecord
from gantry.network import interfaces, netlink
from gantry.network.firewall import BridgeRules
from gantry.network.interfaces import Interface
from gantry.network.ipam import AddressPool
from gantry.network.netns import Namespaces
from gantry.network.pool import Pool

_log = logging.getLogger(__name__)

ALIAS = "gantry:"
"""Bridges of ours carry the alias "gantry:<network id>" (ip link show)."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sandbox with an interface in a network, that nobody uses yet."""

    netns_fd: int
    interface: Interface
    ip: str
    ipv6: str = ""


class BridgeNetwork:
    """The live part of a bridge network; `record` is what is stored of it."""

    def __init__(
        self,
        record: NetworkRecord,
        bridge: str,
        namespaces: Namespaces,
        *,
        mtu: int = 0,
        iface_prefix: str = "eth",
    ) -> None:
        self.record = record
        self.bridge = bridge
        self.mtu = mtu
        self.iface_prefix = iface_prefix
        self.index = 0
        self._namespaces = namespaces
        self.pools4 = [_pool(p) for p in record.ipam if p.subnet and ":" not in p.subnet]
        self.pools6 = [_pool(p) for p in record.ipam if ":" in p.subnet]
        self.gateway4 = next((p.gateway for p in record.ipam if ":" not in p.subnet), "")
        self.gateway6 = next((p.gateway for p in record.ipam if ":" in p.subnet), "")
        self.sandboxes: Pool[Prepared] | None = None

    def rules(self, *, masquerade: bool, icc: bool) -> BridgeRules:
        return BridgeRules(
            bridge=self.bridge,
            subnets4=tuple(str(pool.subnet) for pool in self.pools4),
            subnets6=tuple(str(pool.subnet) for pool in self.pools6),
            masquerade=masquerade,
            icc=icc,
            internal=self.record.internal,
        )

    async def up(self) -> None:
        """Make the device, or take over the one that an earlier daemon made. Forbidden
        when a device of that name is not ours."""
        self.index = await self._namespaces.run(self._up)

    def _up(self) -> int:
        host = self._namespaces.host
        found = netlink.link(host, self.bridge)
        if found is not None and not (found.kind == "bridge" and found.alias.startswith(ALIAS)):
            raise Forbidden(f"cannot use {self.bridge}: a device of that name is not gantry's")
        if found is None:
            host.batch(
                (
                    netlink.add_link(
                        self.bridge, "bridge", mac=interfaces.random_mac(), mtu=self.mtu
                    ),
                    netlink.set_alias(self.bridge, ALIAS + self.record.id),
                )
            )
            found = netlink.link(host, self.bridge)
            assert found is not None
        if not self.pools6:
            interfaces.write_sysctl(f"net.ipv6.conf.{self.bridge}.disable_ipv6", "1")
        else:
            interfaces.write_sysctl(f"net.ipv6.conf.{self.bridge}.disable_ipv6", "0")
            interfaces.write_sysctl(f"net.ipv6.conf.{self.bridge}.accept_ra", "0")
        # Published ports on 127.0.0.1: packets from there are translated towards this
        # bridge and must be allowed onto it. The firewall keeps the other way shut.
        interfaces.write_sysctl(f"net.ipv4.conf.{self.bridge}.route_localnet", "1")
        messages = []
        for gateway, pools in ((self.gateway4, self.pools4), (self.gateway6, self.pools6)):
            if gateway and pools:
                prefix = pools[0].subnet.prefixlen
                messages.append(netlink.add_address(found.index, gateway, prefix, broadcast=True))
        messages.append(netlink.set_link(found.index, up=True))
        host.batch(messages)
        return found.index

    async def down(self) -> None:
        """Remove the device. Idempotent."""
        host = self._namespaces
        await host.run(lambda: host.host.do(netlink.delete_link(name=self.bridge)))
        self.index = 0

    # --- endpoints -------------------------------------------------------------------

    def interface(self, ip: str, ipv6: str = "", *, mac: str = "", index: int = 0) -> Interface:
        prefix4 = self.pools4[0].subnet.prefixlen if self.pools4 else 0
        prefix6 = self.pools6[0].subnet.prefixlen if self.pools6 else 0
        internal = self.record.internal
        return Interface(
            host_name=interfaces.veth_name(),
            name=f"{self.iface_prefix}0",
            master=self.index,
            mac=mac or (interfaces.mac_for(ip) if ip else interfaces.random_mac()),
            mtu=self.mtu,
            index=index,
            ipv4=f"{ip}/{prefix4}" if ip else "",
            ipv6=f"{ipv6}/{prefix6}" if ipv6 else "",
            gateway4=self.gateway4 if ip and not internal else "",
            gateway6=self.gateway6 if ipv6 and not internal else "",
        )

    async def prepare(self) -> Prepared:
        """A new sandbox with an interface and an address in this network."""
        ip = self.pools4[0].allocate() if self.pools4 else ""
        ipv6 = self.pools6[0].allocate() if self.pools6 else ""
        interface = self.interface(ip, ipv6, index=2)
        try:
            fd = await self._namespaces.run_for_fd(
                lambda: interfaces.new_sandbox(self._namespaces, interface)
            )
        except OSError as error:
            self.release(ip, ipv6)
            raise System(f"failed to create a network sandbox: {error}") from error
        except BaseException:
            self.release(ip, ipv6)
            raise
        return Prepared(fd, interface, ip, ipv6)

    def discard(self, prepared: Prepared) -> None:
        os.close(prepared.netns_fd)
        self.release(prepared.ip, prepared.ipv6)

    def start_pool(self, size: int, owner: TaskOwner) -> None:
        self.sandboxes = Pool(size, self.prepare, self.discard, owner, self.record.name)
        self.sandboxes.fill()

    async def take(self) -> Prepared:
        if self.sandboxes is None:
            return await self.prepare()
        return await self.sandboxes.take()

    def claim(self, *addresses: str) -> None:
        """Mark addresses as given out (to containers that ran before this daemon)."""
        for address in filter(None, addresses):
            for pool in self.pools6 if ":" in address else self.pools4:
                with contextlib.suppress(Exception):
                    pool.claim(address)

    def release(self, *addresses: str) -> None:
        for address in filter(None, addresses):
            for pool in self.pools6 if ":" in address else self.pools4:
                pool.release(address)


def _pool(pool: IpamPool) -> AddressPool:
    taken = [address for address in (pool.gateway, *pool.aux.values()) if address]
    return AddressPool(pool.subnet, range=pool.ip_range, taken=taken)


def choose_bridge_name(namespaces: Namespaces, wanted: str) -> str:
    """docker0, or gantry0 where somebody else's docker0 is; a name that was asked for
    stays. Runs on the worker."""
    if wanted:
        return wanted
    found = netlink.link(namespaces.host, "docker0")
    if found is None or found.alias.startswith(ALIAS):
        return "docker0"
    return "gantry0"


def existing_address(namespaces: Namespaces, bridge: str) -> str:
    """The IPv4 "address/prefix" of a bridge of ours that is already there, "" if none."""
    host = namespaces.host
    found = netlink.link(host, bridge)
    if found is None or not found.alias.startswith(ALIAS):
        return ""
    for address in netlink.addresses(host, 4):
        if address.index == found.index:
            return f"{address.address}/{address.prefix}"
    return ""


def free_subnet(namespaces: Namespaces, pools: tuple[tuple[str, int], ...], used: list[str]) -> str:
    """The first subnet of the pools that neither a network nor a route of the host uses."""
    taken = [ip_network(subnet, strict=False) for subnet in used]
    taken += [
        ip_network(route.target, strict=False)
        for route in netlink.routes(namespaces.host)
        if route.target and not route.gateway
    ]
    for base, size in pools:
        for candidate in ip_network(base).subnets(new_prefix=size):
            if not any(c.version == 4 and candidate.overlaps(c) for c in taken):
                return str(candidate)
    raise System("could not find an available, non-overlapping IPv4 address pool")


def first_host(subnet: str) -> str:
    return str(ip_network(subnet)[1])


def split_interface(value: str) -> tuple[str, str]:
    """ "172.17.0.1/16" → ("172.17.0.1", "172.17.0.0/16")."""
    found = ip_interface(value)
    return str(found.ip), str(found.network)
