"""Planning an endpoint: which networks, which addresses, what names. Nothing here touches
the kernel.

Rules and texts are moby's (daemon/container_operations.go, libnetwork/endpoint.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network

from gantry.model.errors import InvalidParameter, System
from gantry.model.network import (
    EndpointConfig,
    EndpointState,
    IpamPool,
    NetworkRecord,
    SandboxRequest,
)
from gantry.network import drivers
from gantry.network.catalog import Catalog, user_defined
from gantry.network.drivers import Attached, Wanted
from gantry.network.ipam import Ipam, NoAddresses

_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")


def planned(
    request: SandboxRequest, catalog: Catalog
) -> list[tuple[NetworkRecord, EndpointConfig]]:
    """The networks that the container is to be in: its mode's first, the others by name."""
    mode = "bridge" if request.mode in ("", "default") else request.mode
    if mode in ("none", "host"):
        alone = catalog.named(mode)
        if alone is None:
            return []
        for config in request.endpoints.values():
            check(alone, config)
        return [(alone, EndpointConfig())]
    found: dict[str, tuple[NetworkRecord, EndpointConfig]] = {}
    for term, config in (request.endpoints or {mode: EndpointConfig()}).items():
        term = "bridge" if term == "default" else term
        if term == "bridge" and catalog.named("bridge") is None:
            continue  # --bridge=none: there is only lo
        record = catalog.find(term)
        found[record.id] = (record, config)
    plans = sorted(
        found.values(), key=lambda plan: (mode not in (plan[0].name, plan[0].id), plan[0].name)
    )
    check_mix([record.name for record, _ in plans])
    return plans


def check_mix(names: Sequence[str]) -> None:
    """Which networks go together in one container."""
    if len(names) > 1 and "host" in names:
        raise InvalidParameter(
            "container sharing network namespace with another container or host cannot be"
            " connected to any other network"
        )
    if len(names) > 1 and "none" in names:
        raise InvalidParameter(
            "container cannot be connected to multiple networks with one of the networks in"
            " private (none) mode"
        )


def check(record: NetworkRecord, config: EndpointConfig) -> None:
    """InvalidParameter with all that is wrong with the endpoint's settings in one text."""
    wrong: list[str] = []
    if not user_defined(record.name):
        if config.ipv4 or config.ipv6:
            wrong.append("user-specified IP address is supported on user-defined networks only")
        if config.aliases:
            wrong.append("network-scoped aliases are only supported for user-defined networks")
    for version, text in ((4, config.ipv4), (6, config.ipv6)):
        if text and (not _is_address(text, version) or _is_mapped(text)):
            wrong.append(f"invalid IPv{version} address: {text}")
        elif text and not any(
            ip_address(text) in ip_network(p.subnet)
            for p in record.ipam
            if p.subnet and (6 if ":" in p.subnet else 4) == version
        ):
            wrong.append(f"no configured subnet contains IP address {text}")
    for text in config.link_local:
        if not (_is_address(text, 4) or _is_address(text, 6)):
            wrong.append(f"invalid link-local IP address: {text}")
    if config.mac and not _MAC.fullmatch(config.mac):
        wrong.append(f"invalid MAC address: {config.mac}")
    for sysctl in filter(None, config.driver_opts.get(drivers.SYSCTLS_OPTION, "").split(",")):
        parts = sysctl.split(".", 4)
        if (
            len(parts) != 5
            or parts[0] != "net"
            or parts[1] not in ("ipv4", "ipv6", "mpls")
            or parts[3] not in ("IFNAME", "ifname")
            or "=" not in parts[4]
            or "/" in sysctl.partition("=")[0]
        ):
            wrong.append(
                f"unrecognised network interface sysctl '{sysctl}'; represent"
                " 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
    ifname = config.driver_opts.get(drivers.IFNAME_OPTION, "")
    if ifname and (len(ifname) > 15 or not re.fullmatch(r"[^\s/:]+", ifname) or ifname == "lo"):
        wrong.append(f"invalid interface name: {ifname}")
    if wrong:
        bullet = "* " if len(wrong) > 1 else ""
        raise InvalidParameter(
            "invalid endpoint settings:\n" + "\n".join(bullet + each for each in wrong)
        )


def _is_address(text: str, version: int) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return address.version == version and not address.is_unspecified and "%" not in text


def wants_ipv6(request: SandboxRequest, config: EndpointConfig) -> bool:
    """False when sysctls, of the container or of the endpoint, switch IPv6 off there."""
    off = ("net.ipv6.conf.IFNAME.disable_ipv6", "1")
    return request.ipv6 and off not in sysctls(config)


def _is_mapped(text: str) -> bool:
    address = ip_address(text)
    return address.version == 6 and address.ipv4_mapped is not None


def sysctls(config: EndpointConfig) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for sysctl in filter(None, config.driver_opts.get(drivers.SYSCTLS_OPTION, "").split(",")):
        key, _, value = sysctl.partition("=")
        pairs.append((key.replace(".ifname.", ".IFNAME."), value))
    return tuple(pairs)


def mac(config: EndpointConfig, request: SandboxRequest, record: NetworkRecord) -> str:
    """The MAC address that was asked for, "" if none was."""
    mode = "bridge" if request.mode in ("", "default") else request.mode
    own = request.mac_address if mode in (record.name, record.id) else ""
    text = config.mac or config.driver_opts.get(drivers.MAC_OPTION, "") or own
    if text and not _MAC.fullmatch(text):
        raise InvalidParameter(f"invalid MAC address: {text}")
    return text.lower().replace("-", ":")


def interface_name(
    record: NetworkRecord, config: EndpointConfig, present: Iterable[EndpointState]
) -> str:
    """Its interface's name in the sandbox: as asked for, or the first free ethN."""
    taken = {state.interface for state in present}
    asked = config.driver_opts.get(drivers.IFNAME_OPTION, "")
    if asked:
        if asked in taken:
            raise System(
                f"failed to set up container networking: error renaming interface to"
                f' "{asked}": file exists'
            )
        return asked
    prefix = record.options.get(drivers.IFACE_PREFIX_OPTION) or "eth"
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


async def request(
    record: NetworkRecord, ipam: Ipam, pools: Sequence[IpamPool], asked: str, version: int
) -> tuple[str, IpamPool]:
    """An address ("address/prefix") of the first pool that has one. NoAddresses if none has."""
    for pool in pools:
        if asked and ip_address(asked) not in ip_network(pool.subnet):
            continue
        try:
            return await ipam.request_address(pool.pool_id, asked), pool
        except NoAddresses:
            if asked:
                raise
    if asked:
        raise InvalidParameter(
            f"invalid address {asked}: It does not belong to any of this network's subnets"
        )
    raise NoAddresses(
        f"no available IPv{version} addresses on this network's address pools:"
        f" {record.name} ({record.id})"
    )


def leases(record: NetworkRecord, state: EndpointState) -> list[tuple[IpamPool, str]]:
    """The pools that the endpoint's addresses are from."""
    found: list[tuple[IpamPool, str]] = []
    for address in filter(None, (state.ip, state.ipv6)):
        for pool in record.ipam:
            if (
                pool.pool_id
                and (":" in pool.subnet) == (":" in address)
                and ip_address(address) in ip_network(pool.subnet)
            ):
                found.append((pool, address))
                break
    return found


def state_of(
    record: NetworkRecord,
    request: SandboxRequest,
    config: EndpointConfig,
    wanted: Wanted,
    attached: Attached,
) -> EndpointState:
    """What is remembered of an endpoint that was attached."""
    ip, _, prefix = (wanted.ipv4 or attached.ipv4).partition("/")
    ipv6, _, prefix6 = (wanted.ipv6 or attached.ipv6).partition("/")
    return EndpointState(
        network=record.name,
        network_id=record.id,
        endpoint_id=wanted.endpoint_id,
        interface=attached.interface,
        host_interface=attached.host_interface,
        ip=ip,
        prefix=int(prefix or 0),
        gateway=attached.gateway4,
        on_link4=attached.on_link4,
        ipv6=ipv6,
        ipv6_prefix=int(prefix6 or 0),
        ipv6_gateway=attached.gateway6,
        on_link6=attached.on_link6,
        mac=attached.mac or wanted.mac,
        aliases=config.aliases,
        dns_names=dns_names(request, config) if user_defined(record.name) else (),
        gw_priority=config.gw_priority,
        driver_opts=config.driver_opts,
        config=config,
    )


def dns_names(request: SandboxRequest, config: EndpointConfig) -> tuple[str, ...]:
    names = (request.name, *config.aliases, request.container_id[:12], request.hostname)
    return tuple(dict.fromkeys(filter(None, names)))


def ranked(states: Iterable[EndpointState], catalog: Catalog) -> list[EndpointState]:
    """In the order in which they are asked to be the way out (libnetwork's Endpoint.Less)."""

    def rank(state: EndpointState) -> tuple[int, bool, int, str]:
        record = catalog.get(state.network_id)
        internal = record is not None and record.internal
        ways = bool(state.gateway or state.on_link4) + bool(state.ipv6_gateway or state.on_link6)
        return -state.gw_priority, internal, -ways, state.network

    return sorted(states, key=rank)
