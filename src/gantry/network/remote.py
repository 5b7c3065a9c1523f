"""Network and IPAM drivers that are plugins: libnetwork's remote protocol.

Protocol: moby daemon/libnetwork/docs/remote.md and ipam.md. A plugin keeps its own books
over restarts of ours: networks are made known to it once. An interface that it made is
moved into the sandbox, and back when the endpoint leaves a sandbox that goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from gantry.model.errors import GantryError, InvalidParameter, System
from gantry.model.network import EndpointState, NetworkRecord
from gantry.network import interfaces, netlink
from gantry.network.creation import GATEWAY_DATA
from gantry.network.drivers import MAC_OPTION, Attached, Traits, Wanted
from gantry.network.interfaces import Interface
from gantry.network.ipam import Lease
from gantry.network.netns import Namespaces
from gantry.network.plugins import NoSuchMethod, Plugin

Json = dict[str, Any]

GENERIC = "com.docker.network.generic"
_SPACE = "LocalDefault"
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def _options(record: NetworkRecord) -> Json:
    return {
        GENERIC: dict(record.options),
        "com.docker.network.enable_ipv4": record.enable_ipv4,
        "com.docker.network.enable_ipv6": record.enable_ipv6,
        "com.docker.network.internal": record.internal,
    }


def _ipam_data(record: NetworkRecord, version: int) -> list[Json]:
    rows: list[Json] = []
    for pool in record.ipam:
        if not pool.subnet or (6 if ":" in pool.subnet else 4) != version:
            continue
        prefix = ip_network(pool.subnet).prefixlen
        row: Json = {"AddressSpace": _SPACE, "Pool": pool.subnet}
        if pool.gateway:  # plugins in Go refuse an empty one
            row["Gateway"] = f"{pool.gateway}/{prefix}"
        if pool.aux:
            row["AuxAddresses"] = {k: f"{v}/{prefix}" for k, v in pool.aux.items()}
        rows.append(row)
    return rows


@dataclass(frozen=True, slots=True)
class _Joined:
    """What a plugin answered to Join."""

    source: str
    gateway4: str
    gateway6: str
    routes: tuple[tuple[str, str], ...]  # (destination, next hop or "" on link)


class RemoteDriver:
    """`gantry.network.drivers.Driver` by a plugin."""

    def __init__(self, plugin: Plugin, namespaces: Namespaces) -> None:
        self.name = plugin.name
        self._plugin = plugin
        self._namespaces = namespaces
        self._known: set[str] = set()

    async def _call(self, method: str, body: Json | None = None) -> Json:
        return await self._plugin.call(f"NetworkDriver.{method}", body)

    async def traits(self, record: NetworkRecord) -> Traits:
        said = await self._call("GetCapabilities")
        scope = said.get("Scope")
        if scope not in ("local", "global"):
            raise System(f"invalid capability: expecting 'local' or 'global', got {scope}")
        gateways = True
        if said.get("GwAllocChecker"):
            skip = await self._call("GwAllocCheck", {"Options": _options(record)})
            gateways = not skip.get("SkipIPv4")
        return Traits(scope=str(scope), gateways=gateways)

    def check(self, record: NetworkRecord, others: Sequence[NetworkRecord]) -> None:
        """The plugin's own business."""

    def known(self, network_id: str) -> None:
        """The plugin was told of this network before (a stored one)."""
        self._known.add(network_id)

    async def create(self, record: NetworkRecord) -> None:
        if record.id in self._known:
            return
        body = {
            "NetworkID": record.id,
            "Options": _options(record),
            "IPv4Data": _ipam_data(record, 4),
            "IPv6Data": _ipam_data(record, 6),
        }
        await self._call("CreateNetwork", body)
        self._known.add(record.id)

    async def remove(self, record: NetworkRecord) -> None:
        if record.id in self._known:
            await self._call("DeleteNetwork", {"NetworkID": record.id})
            self._known.discard(record.id)

    async def attach(self, record: NetworkRecord, wanted: Wanted, netns_fd: int) -> Attached:
        names = {"NetworkID": record.id, "EndpointID": wanted.endpoint_id}
        options: Json = dict(wanted.options)
        if wanted.mac:
            options[MAC_OPTION] = wanted.mac
        asked = {"Address": wanted.ipv4, "AddressIPv6": wanted.ipv6, "MacAddress": wanted.mac}
        said = await self._call("CreateEndpoint", {**names, "Interface": asked, "Options": options})
        try:
            interface = _interface(wanted, _table(said, "Interface"))
            key = f"/proc/{os.getpid()}/fd/{netns_fd}"
            joined = _joined(
                await self._call("Join", {**names, "SandboxKey": key, "Options": options})
            )
            out = not record.internal
            interface = replace(
                interface,
                gateway4=joined.gateway4 if out and wanted.default4 else "",
                gateway6=joined.gateway6 if out and wanted.default6 else "",
            )
            try:
                mac = await self._enter(joined, interface, netns_fd)
                if joined.gateway4 or joined.gateway6:
                    await self._program(names)
            except BaseException:
                await self._quietly("Leave", names)
                raise
        except BaseException:
            await self._quietly("DeleteEndpoint", names)
            raise
        return Attached(
            interface=interface.name if joined.source else "",
            host_interface=joined.source,
            mac=mac,
            gateway4=joined.gateway4 if out else "",
            gateway6=joined.gateway6 if out else "",
            ipv4=interface.ipv4,
            ipv6=interface.ipv6,
        )

    async def _enter(self, joined: _Joined, interface: Interface, fd: int) -> str:
        if not joined.source:
            return interface.mac
        try:
            return await self._namespaces.run(partial(self._move_in, joined, interface, fd))
        except OSError as error:
            raise System(f"failed to add interface {joined.source} to sandbox: {error}") from error

    async def _program(self, names: Json) -> None:
        with contextlib.suppress(NoSuchMethod):
            await self._call("ProgramExternalConnectivity", {**names, "Options": {}})

    async def detach(self, record: NetworkRecord, state: EndpointState, netns_fd: int) -> None:
        names = {"NetworkID": record.id, "EndpointID": state.endpoint_id}
        await self._quietly("RevokeExternalConnectivity", names)
        if netns_fd >= 0 and state.interface and state.host_interface:
            with contextlib.suppress(OSError):
                await self._namespaces.run(partial(self._move_out, state, netns_fd))
        try:
            await self._call("Leave", names)
        finally:
            await self._call("DeleteEndpoint", names)

    async def adopt(self, record: NetworkRecord, state: EndpointState) -> None:
        """The plugin knows its endpoints itself."""

    async def _quietly(self, method: str, body: Json) -> None:
        with contextlib.suppress(GantryError):
            await self._call(method, body)

    # --- on the worker -----------------------------------------------------------------

    def _move_in(self, joined: _Joined, interface: Interface, fd: int) -> str:
        host = self._namespaces.host
        found = netlink.link(host, joined.source)
        if found is None:
            raise System(f"the plugin's interface {joined.source} does not exist")
        host.do(netlink.set_link(found.index, up=False, mac=interface.mac))
        host.do(netlink.move_link(found.index, fd, interface.name))

        def configure() -> str:
            with netlink.Socket() as inside:
                interfaces.configure(inside, interface)
                made = netlink.link(inside, interface.name)
                assert made is not None
                inside.batch(
                    netlink.add_route(made.index, target=target, gateway=hop)
                    for target, hop in joined.routes
                )
                return made.mac

        return self._namespaces.inside(fd, configure)

    def _move_out(self, state: EndpointState, fd: int) -> None:
        home = self._namespaces.home

        def move() -> None:
            with netlink.Socket() as inside:
                found = netlink.link(inside, state.interface)
                if found is not None:
                    inside.do(netlink.set_link(found.index, up=False))
                    inside.do(netlink.move_link(found.index, home, state.host_interface))

        self._namespaces.inside(fd, move)


def _text(said: Mapping[str, Any], key: str) -> str:
    """A field that is a string, or not there. System: a plugin may say anything."""
    value = said.get(key)
    if value is None or isinstance(value, str):
        return value or ""
    raise System(f"remote: invalid {key}: {value!r:.100}")


def _table(said: Mapping[str, Any], key: str) -> Json:
    """A field that is an object, or not there. System."""
    value = said.get(key)
    if value is None or isinstance(value, dict):
        return value or {}
    raise System(f"remote: invalid {key}: {value!r:.100}")


def _address(said: Mapping[str, Any], key: str) -> str:
    """A field that is an address with its prefix, "" if it is not there. System."""
    text = _text(said, key)
    try:
        if text and ("/" not in text or not ip_interface(text)):
            raise ValueError
    except ValueError:
        raise System(f"remote: invalid {key}: {text!r:.100}") from None
    return text


def _interface(wanted: Wanted, given: Mapping[str, Any]) -> Interface:
    """The interface, with what the plugin chose where we left the choice to it."""
    chosen: dict[str, str] = {}
    mac = _text(given, "MacAddress")
    if mac and not _MAC.fullmatch(mac):
        raise System(f"remote: invalid MacAddress: {mac!r:.100}")
    for key, ours, theirs in (
        ("Address", wanted.ipv4, _address(given, "Address")),
        ("AddressIPv6", wanted.ipv6, _address(given, "AddressIPv6")),
        ("MacAddress", wanted.mac, mac),
    ):
        if theirs and ours:
            raise InvalidParameter(f"driver modified interface {key}: {theirs}")
        chosen[key] = theirs or ours
    return Interface(
        host_name="",
        name=wanted.interface,
        master=0,
        mac=chosen["MacAddress"],
        ipv4=chosen["Address"],
        ipv6=chosen["AddressIPv6"],
        link_local=wanted.link_local,
        sysctls=wanted.sysctls,
    )


def _joined(said: Mapping[str, Any]) -> _Joined:
    gateways: list[str] = []
    for key in ("Gateway", "GatewayIPv6"):
        text = _text(said, key)
        try:
            gateways.append(str(ip_address(text)) if text else "")
        except ValueError:
            raise System(f'unable to parse {key} "{text:.100}"') from None
    rows = said.get("StaticRoutes") or []
    if not isinstance(rows, list):
        raise System(f"remote: invalid StaticRoutes: {rows!r:.100}")
    return _Joined(
        _text(_table(said, "InterfaceName"), "SrcName"),
        gateways[0],
        gateways[1],
        tuple(map(_route, rows)),
    )


def _route(row: object) -> tuple[str, str]:
    """(destination, next hop or "" on link)."""
    route = row if isinstance(row, dict) else {}
    target = _text(route, "Destination")
    hop = "" if route.get("RouteType") == 1 else _text(route, "NextHop")
    try:
        ip_network(target)
        if hop:
            ip_address(hop)
    except ValueError:
        raise System(f'unable to parse static route "{target:.100}" {hop:.100}'.rstrip()) from None
    return target, hop


class RemoteIpam:
    """`gantry.network.ipam.Ipam` by a plugin."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._space = ""
        self.replay = False

    async def _call(self, method: str, body: Json | None = None) -> Json:
        return await self._plugin.call(f"IpamDriver.{method}", body)

    async def start(self) -> None:
        """Ask for its address space and whether it wants leases repeated after a restart."""
        said = await self._call("GetDefaultAddressSpaces")
        self._space = _text(said, "LocalDefaultAddressSpace")
        with contextlib.suppress(NoSuchMethod):
            self.replay = bool((await self._call("GetCapabilities")).get("RequiresRequestReplay"))

    async def request_pool(
        self,
        subnet: str,
        ip_range: str = "",
        *,
        options: Mapping[str, str] | None = None,
        v6: bool = False,
        exclude: Sequence[str] = (),
    ) -> Lease:
        body = {
            "AddressSpace": self._space,
            "Pool": subnet,
            "SubPool": ip_range,
            "Options": dict(options or {}),
            "V6": v6,
        }
        said = await self._call("RequestPool", body)
        try:
            pool = str(ip_network(_text(said, "Pool"), strict=False))
        except ValueError:
            raise System(f"remote: invalid pool: {said.get('Pool')!r:.100}") from None
        table = _table(said, "Data")
        data = {key: _text(table, key) for key in table}
        _address(data, GATEWAY_DATA)
        return Lease(_text(said, "PoolID"), pool, data)

    async def release_pool(self, pool_id: str) -> None:
        await self._call("ReleasePool", {"PoolID": pool_id})

    async def request_address(
        self, pool_id: str, address: str = "", options: Mapping[str, str] | None = None
    ) -> str:
        body = {"PoolID": pool_id, "Address": address, "Options": dict(options or {})}
        return _address(await self._call("RequestAddress", body), "Address")

    async def release_address(self, pool_id: str, address: str) -> None:
        await self._call("ReleaseAddress", {"PoolID": pool_id, "Address": address})
