"""What networking needs of the host itself: forwarding, the default bridge's plan, files."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import (
    IPv4Interface,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from gantry.model.errors import InvalidParameter
from gantry.model.network import IpamPool, NetworkRecord
from gantry.network import bridge, coexist, drivers, interfaces, netlink, resolution
from gantry.network.firewall import Firewall
from gantry.network.ipam import DefaultIpam
from gantry.network.netns import Namespaces
from gantry.network.settings import NetworkSettings

_LINK_LOCAL = IPv6Network("fe80::/64")


def place(settings: NetworkSettings) -> NetworkSettings:
    """The settings with names for the default bridge and the table that are free here, or
    were this engine's before."""
    found, others = settings.bridge, False
    if not found:
        with netlink.Socket() as sock:
            found, others = bridge.free_name(sock, settings.owner)
    common = found in ("none", "docker0", "gantry0") and not others
    table = settings.table or ("gantry" if common else f"gantry-{found}")
    return replace(settings, bridge=found, table=table, managed=not settings.bridge)


async def forward(settings: NetworkSettings, firewall: Firewall | None, version: int) -> None:
    """Switch forwarding on. Whatever this would forward between the host's other interfaces is
    dropped, unless somebody else had switched it on already. That it was us is noted, for the
    next daemon: the host is to be no router after a restart either."""
    if not settings.ip_forward:
        return
    name = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"
    off = interfaces.read_sysctl(name) == "0"
    folder, suffix = settings.run_dir, "" if version == 4 else "6"
    note = os.path.join(folder, "forwarding" + suffix) if folder else ""
    if off and note:
        with open(note, "w", encoding="ascii"):
            pass  # before: a crash between the two must not make it look like another's
    ours = off or (note and os.path.exists(note))
    if ours and firewall is not None and not settings.ip_forward_no_drop:
        await firewall.no_router(version)
    if off:
        if version == 6:
            _keep_listening()
            interfaces.write_sysctl("net.ipv6.conf.default.forwarding", "1")
        interfaces.write_sysctl(name, "1", required=version == 4)


def _keep_listening() -> None:
    """A host that forwards IPv6 ignores router advertisements unless it is told otherwise, and
    would lose its own default route: interfaces that accept them are told so."""
    with contextlib.suppress(OSError):
        for interface in os.listdir("/proc/sys/net/ipv6/conf"):
            accept = f"/proc/sys/net/ipv6/conf/{interface}/accept_ra"
            if read(accept).strip() == b"1":
                with open(accept, "w") as file:
                    file.write("2")


async def coexist_with(name: str) -> None:
    await asyncio.get_running_loop().run_in_executor(None, coexist.allow, name)


async def coexist_without(name: str) -> None:
    await asyncio.get_running_loop().run_in_executor(None, coexist.forget, name)


def reserved_subnets(namespaces: Namespaces, resolv_conf: str) -> list[str]:
    """What automatic choice of subnets avoids: where the host is, and its name servers."""
    servers = resolution.read_resolv_conf(resolv_conf).servers
    return [*bridge.routes_on_link(namespaces), *(str(ip_network(s)) for s in servers)]


def default_options(settings: NetworkSettings, name: str) -> Mapping[str, str]:
    """The default network's options, as inspect shows them."""
    return {
        bridge.DEFAULT: "true",
        bridge.ICC: str(settings.icc).lower(),
        bridge.MASQUERADE: str(settings.ip_masq).lower(),
        bridge.BINDING: settings.ip,
        bridge.NAME: name,
        drivers.MTU_OPTION: str(settings.mtu or 1500),
    }


async def plan_default(
    namespaces: Namespaces,
    settings: NetworkSettings,
    ipam: DefaultIpam,
    known: NetworkRecord | None,
) -> tuple[str, tuple[IpamPool, ...]]:
    """The default bridge's device and its pools, leased. bip, then the address the device
    has, then fixed-cidr, then what it had before, then a free subnet (moby
    getDefaultBridgeIPAMConf)."""
    name = settings.bridge
    present = await namespaces.run(partial(bridge.present_addresses, namespaces, name))
    exclude = await namespaces.run(partial(reserved_subnets, namespaces, settings.resolv_conf))
    planning = _Planning(settings.managed, present, known, exclude, ipam)
    pools = [await planning.lease(4, settings.bip, settings.fixed_cidr, settings.default_gateway)]
    if settings.ipv6:
        pools.append(
            await planning.lease(
                6, settings.bip6, settings.fixed_cidr_v6, settings.default_gateway_v6
            )
        )
    return name, tuple(pools)


@dataclass(frozen=True, slots=True)
class _Planning:
    """present: "address/prefix" of the device; exclude: subnets that are taken."""

    managed: bool
    present: Sequence[str]
    known: NetworkRecord | None
    exclude: Sequence[str]
    ipam: DefaultIpam

    async def lease(self, version: int, bip: str, fixed: str, router: str) -> IpamPool:
        subnet, gateway = self._subnet(version, bip, fixed)
        lease = await self.ipam.request_pool(
            subnet, fixed, v6=version == 6, exclude=() if version == 6 else self.exclude
        )
        gateway = gateway or str(ip_network(lease.subnet)[1])
        await self.ipam.request_address(lease.id, gateway)
        aux: dict[str, str] = {}
        if router and _router(router, lease.subnet) != gateway:
            await self.ipam.request_address(lease.id, router)
            aux = {f"DefaultGatewayIPv{version}": router}
        return IpamPool(lease.subnet, fixed, gateway, aux, lease.id)

    def _subnet(self, version: int, bip: str, fixed: str) -> tuple[str, str]:
        """(subnet, gateway), "" for what is free."""
        if bip:
            interface = ip_interface(bip)
            return str(interface.network), str(interface.ip)
        found = select_address(self.present, version, fixed, managed=self.managed)
        if found is not None:
            return str(found.network), str(found.ip)
        if fixed:
            return str(ip_network(fixed, strict=False)), ""
        pools = self.known.ipam if self.known is not None else ()
        before = next((p for p in pools if (6 if ":" in p.subnet else 4) == version), None)
        if before is not None and not _taken(before.subnet, self.exclude):
            return before.subnet, before.gateway
        return "", ""


def select_address(
    present: Sequence[str], version: int, fixed: str, *, managed: bool
) -> IPv4Interface | IPv6Interface | None:
    """The bridge's own address that is its gateway's: the one whose subnet has `fixed`, else
    one inside it, else any (moby selectBIP). Of a bridge that we manage, one that does not
    go with `fixed` is none, and a smaller subnet grows."""
    inner = ip_network(fixed, strict=False) if fixed else None
    ours = [i for i in map(ip_interface, present) if i.version == version]
    if version == 6 and not (inner and inner.subnet_of(_LINK_LOCAL)):  # type: ignore[arg-type]  # both are IPv6
        ours = [i for i in ours if i.ip not in _LINK_LOCAL]
    if not ours:
        return None
    chosen = ours[0]
    if inner is not None and len(ours) > 1:
        around = [i for i in ours if inner.network_address in i.network]
        inside = [i for i in ours if i.ip in inner]
        chosen = (around or inside or ours)[0]
    if managed and inner is not None:
        if inner.network_address not in chosen.network:
            return None
        if inner.prefixlen < chosen.network.prefixlen:
            return ip_interface(f"{chosen.ip}/{inner.prefixlen}")
    return chosen


def _router(address: str, subnet: str) -> str:
    if address and ip_address(address) not in ip_network(subnet):
        raise InvalidParameter("default gateway ip must be part of the network")
    return address


def _taken(subnet: str, others: Sequence[str]) -> bool:
    own = ip_network(subnet)
    return any(
        other.version == own.version and own != other and own.overlaps(other)
        for other in (ip_network(text, strict=False) for text in others)
    )


def machine_id() -> str:
    """What tells this machine from others; the same after a restart."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostname"):
        data = read(path).strip()
        if data:
            return data.decode(errors="replace")
    return "gantry"


def read(path: str) -> bytes:
    """The file, b"" when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
