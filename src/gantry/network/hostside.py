"""What networking needs of the host itself: forwarding, the default bridge's plan, files."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network

from gantry.model.errors import InvalidParameter
from gantry.model.network import IpamPool, NetworkRecord
from gantry.network import bridge, coexist, drivers, interfaces, netlink, resolution
from gantry.network.firewall import Firewall
from gantry.network.ipam import DefaultIpam
from gantry.network.netns import Namespaces
from gantry.network.nft import physical_interfaces
from gantry.network.settings import NetworkSettings


def place(settings: NetworkSettings) -> NetworkSettings:
    """The settings with names for the default bridge and the table that are free here, or
    were this engine's before."""
    found, others = settings.bridge, False
    if not found:
        with netlink.Socket() as sock:
            found, others = bridge.free_name(sock, settings.owner)
    common = found in ("none", "docker0", "gantry0") and not others
    table = settings.table or ("gantry" if common else f"gantry-{found}")
    return replace(settings, bridge=found, table=table)


def forward(settings: NetworkSettings) -> Sequence[str]:
    """Switch IPv4 forwarding on. Docker then drops what is forwarded between other
    interfaces; we drop it only between those that are real devices, so that virtual
    machines, VPNs and a real dockerd beside us go on working: the devices' names, none
    when forwarding was on already."""
    if not settings.ip_forward or interfaces.read_sysctl("net.ipv4.ip_forward") == "1":
        return ()
    interfaces.write_sysctl("net.ipv4.ip_forward", "1", required=True)
    return () if settings.ip_forward_no_drop else physical_interfaces()


def forward6(settings: NetworkSettings) -> None:
    """Switch IPv6 forwarding on, once a network has IPv6.

    A host that forwards ignores router advertisements unless it is told otherwise, and
    would lose its own default route: interfaces that accept them are told so first.
    """
    name = "net.ipv6.conf.all.forwarding"
    if not settings.ip_forward or interfaces.read_sysctl(name) in ("1", ""):
        return
    with contextlib.suppress(OSError):
        for interface in os.listdir("/proc/sys/net/ipv6/conf"):
            accept = f"/proc/sys/net/ipv6/conf/{interface}/accept_ra"
            if read(accept).strip() == b"1":
                with open(accept, "w") as file:
                    file.write("2")
    interfaces.write_sysctl("net.ipv6.conf.default.forwarding", "1")
    interfaces.write_sysctl(name, "1")


async def coexist_with(firewall: Firewall | None, name: str) -> None:
    if firewall is not None:
        await asyncio.get_running_loop().run_in_executor(None, coexist.allow, name)


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
    has, then what it had before, then a free subnet."""
    name = settings.bridge
    present = await namespaces.run(partial(bridge.existing_address, namespaces, name))
    before = next((p for p in known.ipam if ":" not in p.subnet), None) if known else None
    exclude = await namespaces.run(partial(reserved_subnets, namespaces, settings.resolv_conf))
    subnet, gateway = "", ""
    if settings.bip or present:
        interface = ip_interface(settings.bip or present)
        subnet, gateway = str(interface.network), str(interface.ip)
    elif before is not None and not _taken(before.subnet, exclude):
        subnet, gateway = before.subnet, before.gateway
    lease = await ipam.request_pool(subnet, settings.fixed_cidr if subnet else "", exclude=exclude)
    gateway = gateway or str(ip_network(lease.subnet)[1])
    await ipam.request_address(lease.id, gateway)
    router = _router(settings.default_gateway, lease.subnet)
    if router and router != gateway:
        await ipam.request_address(lease.id, router)
    aux = {"DefaultGatewayIPv4": router} if router and router != gateway else {}
    pools = [IpamPool(lease.subnet, settings.fixed_cidr, gateway, aux, lease.id)]
    if settings.ipv6:
        pools.append(await _plan_default6(settings, ipam))
    return name, tuple(pools)


async def _plan_default6(settings: NetworkSettings, ipam: DefaultIpam) -> IpamPool:
    subnet, gateway = settings.fixed_cidr_v6, ""
    if settings.bip6:
        interface = ip_interface(settings.bip6)
        subnet, gateway = str(interface.network), str(interface.ip)
    ranges = settings.fixed_cidr_v6 if settings.bip6 else ""
    lease = await ipam.request_pool(subnet, ranges, v6=True)
    gateway = gateway or str(ip_network(lease.subnet)[1])
    await ipam.request_address(lease.id, gateway)
    router = _router(settings.default_gateway_v6, lease.subnet)
    aux = {}
    if router and router != gateway:
        await ipam.request_address(lease.id, router)
        aux = {"DefaultGatewayIPv6": router}
    return IpamPool(lease.subnet, ranges, gateway, aux, lease.id)


def _router(address: str, subnet: str) -> str:
    if address and ip_address(address) not in ip_network(subnet):
        raise InvalidParameter("default gateway ip must be part of the network")
    return address


def _taken(subnet: str, others: list[str]) -> bool:
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
