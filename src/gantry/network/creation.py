"""From a create request to a record with addresses: checks, Docker's texts, allocation.

The checks and their order are moby's (daemon/network.go, libnetwork/controller.go), so
that clients and scripts see the same refusals.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

import msgspec

from gantry.model.errors import (
    Conflict,
    Forbidden,
    GantryError,
    InvalidParameter,
    NotFound,
    System,
)
from gantry.model.network import IpamPool, NetworkRecord
from gantry.network import drivers
from gantry.network.announce import Announcements
from gantry.network.catalog import PREDEFINED, Catalog
from gantry.network.drivers import Traits
from gantry.network.ipam import Ipam

GATEWAY_DATA = "com.docker.network.gateway"
ENABLE_IPV4 = "com.docker.network.enable_ipv4"
ENABLE_IPV6 = "com.docker.network.enable_ipv6"
REQUEST_TYPE = "RequestAddressType"


class IpamConfigBody(msgspec.Struct, rename="pascal"):
    subnet: str | None = None
    ip_range: str | None = msgspec.field(default=None, name="IPRange")
    gateway: str | None = None
    auxiliary_addresses: dict[str, str] | None = None
    aux_address: dict[str, str] | None = None  # its name before API 1.24


class IpamBody(msgspec.Struct, rename="pascal"):
    driver: str | None = ""
    options: dict[str, str] | None = None
    config: list[IpamConfigBody] | None = None


class ConfigFromBody(msgspec.Struct, rename="pascal"):
    network: str = ""


class CreateBody(msgspec.Struct, rename="pascal"):
    """POST /networks/create. Unknown fields are passed over, as Docker does."""

    name: str = ""
    driver: str | None = ""
    scope: str | None = ""
    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = msgspec.field(default=None, name="EnableIPv6")
    ipam: IpamBody | None = msgspec.field(default=None, name="IPAM")
    internal: bool | None = False
    attachable: bool | None = False
    ingress: bool | None = False
    config_only: bool | None = False
    config_from: ConfigFromBody | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


def parse(body: Mapping[str, Any]) -> CreateBody:
    """InvalidParameter when a field has the wrong type."""
    try:
        return msgspec.convert(body, CreateBody)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None


def plan(
    body: CreateBody,
    catalog: Catalog,
    default_options: Mapping[str, Mapping[str, str]],
    mtu: int = 0,
) -> NetworkRecord:
    """The record that `body` asks for, before any address was allocated."""
    name, driver = body.name, body.driver or "bridge"
    if name in PREDEFINED or name == "default":
        raise Forbidden(f"operation is not permitted on predefined {name} network ")
    if driver == "overlay":
        raise Forbidden(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to'
            " connect this node to swarm and try again."
        )
    options = dict(body.options or {})
    if body.config_from is None:
        for key, value in default_options.get(driver, {}).items():
            options.setdefault(key, value)
    ipv4 = _family(body.enable_ipv4, options, ENABLE_IPV4, True)
    ipv6 = _family(body.enable_ipv6, options, ENABLE_IPV6, False)
    ipam = body.ipam or IpamBody()
    pools = _pools(ipam.config or [], ipv6)
    if not name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if catalog.named(name) is not None:
        raise Conflict(f"network with name {name} already exists")
    record = NetworkRecord(
        id=secrets.token_hex(32),
        name=name,
        driver=driver,
        created=now(),
        scope=body.scope or "",
        enable_ipv4=ipv4,
        enable_ipv6=ipv6,
        internal=bool(body.internal),
        attachable=bool(body.attachable),
        ingress=bool(body.ingress),
        config_only=bool(body.config_only),
        config_from=body.config_from.network if body.config_from else "",
        options=options,
        labels=dict(body.labels or {}),
        ipam_driver=ipam.driver or "default",
        ipam_options=ipam.options,
        ipam=tuple(pools),
    )
    _check_config(record)
    if record.config_only:
        return replace(record, driver="null", scope="local")
    return record


def apply_config(record: NetworkRecord, catalog: Catalog) -> NetworkRecord:
    """The record with what its configuration-only network says, if it names one, and without
    pools for addresses that it does not have."""
    if not record.config_from:
        return _own_pools(record)
    source = catalog.named(record.config_from)
    if source is None or not source.config_only:
        raise NotFound(f'configuration network "{record.config_from}" does not exist')
    return _own_pools(
        replace(
            record,
            enable_ipv4=source.enable_ipv4,
            enable_ipv6=source.enable_ipv6,
            labels=source.labels,
            options=source.options,
            ipam_driver=source.ipam_driver,
            ipam_options=source.ipam_options,
            ipam=source.ipam,
        )
    )


def _own_pools(record: NetworkRecord) -> NetworkRecord:
    if record.enable_ipv6:
        return record
    return replace(record, ipam=tuple(pool for pool in record.ipam if ":" not in pool.subnet))


def check_scope(record: NetworkRecord, traits: Traits) -> NetworkRecord:
    if record.scope == "local" and traits.scope == "global":
        raise Forbidden(f"cannot downgrade network scope for {record.driver} networks")
    if record.ingress and traits.scope != "global":
        raise Forbidden("Ingress network can only be global scope network")
    if record.scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")
    return replace(record, scope=record.scope or traits.scope)


def _check_config(record: NetworkRecord) -> None:
    if record.config_only and (
        record.ingress or record.internal or record.attachable or record.scope
    ):
        raise Forbidden(
            "configuration network can only contain network specific fields. Network operator"
            " fields like [ ingress | internal | attachable | scope ] are not supported."
        )
    if not record.config_from:
        Announcements.parse(record.options)
        return
    if record.config_only:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    if (
        record.ipam_driver != "default"
        or not record.enable_ipv4
        or record.enable_ipv6
        or record.labels
        or record.ipam_options
        or record.ipam
    ):
        raise Forbidden(
            "user-specified configurations are not supported if the network depends on a"
            " configuration network"
        )
    if record.options:
        raise Forbidden(
            "network driver options are not supported if the network depends on a"
            " configuration network"
        )


def _family(asked: bool | None, options: dict[str, str], name: str, default: bool) -> bool:
    if asked is not None:
        options.pop(name, None)
        return asked
    try:
        return drivers.flag(options, name, default)
    except ValueError:
        raise InvalidParameter(f'driver-opt "{name}" is not a valid bool') from None


def _pools(configs: Sequence[IpamConfigBody], ipv6: bool) -> list[IpamPool]:
    """Parsed, with all that is wrong with them in one text."""
    pools: list[IpamPool] = []
    wrong: list[str] = []
    for config in configs:
        pool = _parse_pool(config)
        subnet = ip_interface(pool.subnet) if pool.subnet else None
        version = subnet.version if subnet else 4
        if version == 6 and not ipv6:
            pools.append(pool)
            continue
        network = subnet.network if subnet else None
        if subnet is not None and subnet.ip != subnet.network.network_address:
            wrong.append(f"invalid subnet {pool.subnet}: it should be {subnet.network}")
        if pool.ip_range:
            wrong += _range_errors(pool.ip_range, network, version)
        for what, address in (
            (f"invalid gateway {pool.gateway}", pool.gateway),
            *((f"invalid auxiliary address {name}", a) for name, a in pool.aux.items()),
        ):
            said = _address_error(address, network, version)
            if said:
                wrong.append(f"{what}: {said}")
        pools.append(pool)
    if wrong:
        raise InvalidParameter("invalid network config:\n" + "\n".join(wrong))
    return pools


def _parse_pool(config: IpamConfigBody) -> IpamPool:
    for text in filter(None, (config.subnet, config.ip_range)):
        try:
            ip_network(text, strict=False)
            if "/" not in text:
                raise ValueError
        except ValueError:
            raise InvalidParameter(f"invalid CIDR address: {text}") from None
    aux = config.auxiliary_addresses or config.aux_address or {}
    for text in filter(None, (config.gateway, *aux.values())):
        try:
            ip_address(text)
        except ValueError:
            raise InvalidParameter(f"invalid IP address: {text}") from None
    return IpamPool(config.subnet or "", config.ip_range or "", config.gateway or "", aux)


def _range_errors(text: str, subnet: IPv4Network | IPv6Network | None, version: int) -> list[str]:
    interface = ip_interface(text)
    if interface.version != version:
        return [f"invalid ip-range {text}: parent subnet is an IPv{version} block"]
    wrong: list[str] = []
    if subnet is not None and interface.network.prefixlen < subnet.prefixlen:
        wrong.append(
            f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"
        )
    if interface.ip != interface.network.network_address:
        wrong.append(f"invalid ip-range {text}: it should be {interface.network}")
    if subnet is None or not (
        interface.network.network_address in subnet or subnet.network_address in interface.network
    ):
        wrong.append(
            f"invalid ip-range {text}: parent subnet {subnet or 'invalid Prefix'} doesn't"
            " contain ip-range"
        )
    return wrong


def _address_error(text: str, subnet: IPv4Network | IPv6Network | None, version: int) -> str:
    if not text:
        return ""
    address = ip_address(text)
    if address.version != version:
        return f"parent subnet is an IPv{version} block"
    if subnet is None or address not in subnet:
        return f"parent subnet {subnet or 'invalid Prefix'} doesn't contain this address"
    return ""


async def allocate(
    record: NetworkRecord, ipam: Ipam, traits: Traits, exclude: Sequence[str]
) -> NetworkRecord:
    """The record with pools, gateways and auxiliary addresses leased; on error none are.

    exclude: subnets that automatic choice avoids.
    """
    pools: list[IpamPool] = []
    async with AsyncExitStack() as undo:
        for version, enabled in ((4, record.enable_ipv4), (6, record.enable_ipv6)):
            if not enabled:
                continue
            asked = [p for p in record.ipam if (6 if ":" in p.subnet else 4) == version]
            for pool in asked or [IpamPool()]:
                leasing = _Leasing(record, ipam, traits, exclude, undo)
                pools.append(await leasing.lease(pool, version))
        undo.pop_all()
    return replace(record, ipam=tuple(pools))


@dataclass(frozen=True, slots=True)
class _Leasing:
    """One network's leases, each with its undoing."""

    record: NetworkRecord
    ipam: Ipam
    traits: Traits
    exclude: Sequence[str]
    undo: AsyncExitStack

    async def lease(self, pool: IpamPool, version: int) -> IpamPool:
        lease = await self.ipam.request_pool(
            pool.subnet,
            pool.ip_range,
            options=self.record.ipam_options,
            v6=version == 6,
            exclude=self.exclude,
        )
        self.undo.push_async_callback(self.ipam.release_pool, lease.id)
        gateway, leased = pool.gateway, False
        if not gateway and GATEWAY_DATA in lease.data:
            gateway = lease.data[GATEWAY_DATA].partition("/")[0]
        elif gateway or self.traits.gateways:
            try:
                given = await self.ipam.request_address(
                    lease.id, gateway, {REQUEST_TYPE: "com.docker.network.gateway"}
                )
            except GantryError as error:
                raise System(f"failed to allocate gateway ({gateway}): {error}") from error
            gateway, leased = given.partition("/")[0], bool(given)
            if leased:
                self.undo.push_async_callback(self.ipam.release_address, lease.id, gateway)
        for name, address in pool.aux.items():
            try:
                await self.ipam.request_address(lease.id, address)
            except GantryError as error:
                raise System(
                    f"failed to allocate secondary ip address ({name}:{address}): {error}"
                ) from error
            self.undo.push_async_callback(self.ipam.release_address, lease.id, address)
        return replace(
            pool, subnet=lease.subnet, gateway=gateway, pool_id=lease.id, gateway_leased=leased
        )


async def give_back(record: NetworkRecord, ipam: Ipam) -> None:
    """Undo `allocate`."""
    for pool in record.ipam:
        if not pool.pool_id:
            continue
        addresses = [pool.gateway] if pool.gateway_leased else []
        for address in filter(None, (*addresses, *pool.aux.values())):
            await ipam.release_address(pool.pool_id, address)
        await ipam.release_pool(pool.pool_id)


def local_ula(machine: str) -> tuple[str, int]:
    """The pool that IPv6 networks without a subnet are cut from: a /48 of unique local
    addresses (RFC 4193) that is always the same on this machine."""
    digest = hashlib.sha256(b"gantry networks " + machine.encode()).digest()
    return str(IPv6Network((b"\xfd" + digest[:5] + bytes(10), 48))), 64


def now() -> str:
    moment = datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond:06d}000Z"


async def lease_again(record: NetworkRecord, ipam: Ipam) -> NetworkRecord:
    """Tell the IPAM driver of a stored network's leases, after a restart: the record, with
    what it calls them now."""
    pools: list[IpamPool] = []
    for pool in record.ipam:
        if not pool.pool_id:
            pools.append(pool)
            continue
        lease = await ipam.request_pool(
            pool.subnet, pool.ip_range, options=record.ipam_options, v6=":" in pool.subnet
        )
        addresses = [pool.gateway] if pool.gateway and pool.gateway_leased else []
        for address in (*addresses, *pool.aux.values()):
            await ipam.request_address(lease.id, address)
        pools.append(replace(pool, pool_id=lease.id))
    return replace(record, ipam=tuple(pools))
