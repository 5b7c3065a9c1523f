"""The bridge driver: a Linux bridge a network, a veth an endpoint.

A bridge takes 1,023 ports (BR_MAX_PORTS); a network that gets more endpoints grows
further bridges, *shards*, joined to the first by a veth pair. Together they are one
segment; only the first has the gateway's address.

Every device of ours carries the alias "gantry:<owner>:<network id>" (`ip link show`):
that is how a restarted daemon tells its own from others', other gantryds' too.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network

from gantry.model.errors import Forbidden, InvalidParameter, System
from gantry.model.network import EndpointState, NetworkRecord
from gantry.network import drivers, interfaces, netlink
from gantry.network.drivers import Attached, Traits, Wanted
from gantry.network.firewall import SHARD_GROUP, BridgeRules, Firewall
from gantry.network.interfaces import Interface
from gantry.network.netns import Namespaces

ALIAS = "gantry:"
PREFIX = "com.docker.network.bridge."
NAME, MASQUERADE, ICC = PREFIX + "name", PREFIX + "enable_ip_masquerade", PREFIX + "enable_icc"
MODE4, MODE6 = PREFIX + "gateway_mode_ipv4", PREFIX + "gateway_mode_ipv6"
INHIBIT4, BINDING = PREFIX + "inhibit_ipv4", PREFIX + "host_binding_ipv4"
DEFAULT, TRUSTED = PREFIX + "default_bridge", PREFIX + "trusted_host_interfaces"
MODES = ("nat", "nat-unprotected", "routed", "isolated")
SHARD = 1000
_CROWD = 250  # endpoints in a network from which on the kernel's neighbour table is looked after


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """The network's options, parsed."""

    name: str = ""
    mtu: int = 0
    masquerade: bool = True
    icc: bool = True
    mode4: str = "nat"
    mode6: str = "nat"
    inhibit4: bool = False
    binding: str = ""
    host4: str = ""
    host6: str = ""
    trusted: tuple[str, ...] = ()
    iface_prefix: str = "eth"

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> BridgeOptions:
        """InvalidParameter with Docker's text for values that are none."""

        def failed(name: str, why: str) -> InvalidParameter:
            return InvalidParameter(f"failed to parse {name} value: {options[name]} ({why})")

        def yes(name: str, default: bool) -> bool:
            try:
                return drivers.flag(options, name, default)
            except ValueError as error:
                raise failed(name, str(error)) from None

        def mode(name: str) -> str:
            value = options.get(name, "nat")
            if value not in MODES:
                raise failed(name, f"unknown gateway mode {value}")
            return value

        def address(name: str, version: int = 0) -> str:
            value = options.get(name, "")
            if value:
                try:
                    if ip_address(value).version not in (version or 4, version or 6):
                        raise ValueError
                except ValueError:
                    raise failed(name, "nil ip") from None
            return value

        trusted = tuple(filter(None, options.get(TRUSTED, "").split(":")))
        for name in trusted:
            if len(name) > 15 or "/" in name or any(map(str.isspace, name)):
                raise InvalidParameter(f"invalid interface name in {TRUSTED}: {name!r}")
        mtu = options.get(drivers.MTU_OPTION, "0")
        try:
            number = int(mtu)
        except ValueError:
            raise failed(
                drivers.MTU_OPTION, f'strconv.Atoi: parsing "{mtu}": invalid syntax'
            ) from None
        if number < 0:
            raise InvalidParameter(f"invalid MTU number: {number}")
        return cls(
            name=options.get(NAME, ""),
            mtu=number,
            masquerade=yes(MASQUERADE, True),
            icc=yes(ICC, True),
            mode4=mode(MODE4),
            mode6=mode(MODE6),
            inhibit4=yes(INHIBIT4, False),
            binding=address(BINDING),
            host4=address(drivers.HOST_IPV4_OPTION, 4),
            host6=address(drivers.HOST_IPV6_OPTION, 6),
            trusted=trusted,
            iface_prefix=options.get(drivers.IFACE_PREFIX_OPTION) or "eth",
        )


@dataclass(slots=True)
class _Device:
    """A network's bridges: name, index and number of ports of each, the first one first."""

    options: BridgeOptions
    names: list[str] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)


def alias_prefix(owner: str) -> str:
    """How the aliases of devices begin that the engine `owner` made."""
    return f"{ALIAS}{owner}:"


def bridge_name(record: NetworkRecord) -> str:
    return record.options.get(NAME) or f"br-{record.id[:12]}"


class BridgeDriver:
    """See the module and `gantry.network.drivers.PortDriver`.

    shard: endpoints a bridge, before the next one is made.
    """

    name = "bridge"

    def __init__(
        self,
        namespaces: Namespaces,
        firewall: Firewall | None,
        *,
        mtu: int = 0,
        shard: int = SHARD,
        owner: str = "",
    ) -> None:
        self._alias = alias_prefix(owner)
        self._namespaces = namespaces
        self._firewall = firewall
        self._mtu = mtu
        self.shard = shard
        self._devices: dict[str, _Device] = {}

    async def traits(self, record: NetworkRecord) -> Traits:
        options = BridgeOptions.parse(record.options)
        isolated = record.internal and options.mode4 == "isolated"
        return Traits(gateways=not (isolated or (options.inhibit4 and record.internal)), ports=True)

    def check(self, record: NetworkRecord, others: Sequence[NetworkRecord]) -> None:
        options = BridgeOptions.parse(record.options)
        for version, mode in (("ipv4", options.mode4), ("ipv6", options.mode6)):
            if mode == "isolated" and not record.internal:
                raise InvalidParameter(
                    f"gateway mode 'isolated' can only be used for an internal network"
                    f" (option {PREFIX}gateway_mode_{version})"
                )
        if len(bridge_name(record)) > 15 or "/" in bridge_name(record):
            raise InvalidParameter(f"invalid bridge name: {bridge_name(record)}")
        for other in others:
            conflict = _conflict(record, other) if other.id != record.id else ""
            if conflict:
                raise Forbidden(
                    f"cannot create network {record.id} ({bridge_name(record)}): conflicts with"
                    f" network {other.id} ({bridge_name(other)}): networks have {conflict}"
                )

    async def create(self, record: NetworkRecord) -> None:
        options = BridgeOptions.parse(record.options)
        device = _Device(options)
        try:
            await self._namespaces.run(partial(self._make, record, device))
        except OSError as error:
            raise System(f"cannot create network {record.id}: {error}") from error
        self._devices[record.id] = device
        try:
            for name in device.names:
                await self._protect(record, name)
        except BaseException:
            await self.remove(record)
            raise

    async def _protect(self, record: NetworkRecord, bridge: str) -> None:
        if self._firewall is None:
            return
        options = self._devices[record.id].options
        subnets = [pool.subnet for pool in record.ipam if pool.subnet]
        rules = BridgeRules(
            bridge=bridge,
            subnets4=tuple(s for s in subnets if ":" not in s),
            subnets6=tuple(s for s in subnets if ":" in s),
            masquerade=options.masquerade,
            snat4=options.host4,
            snat6=options.host6,
            icc=options.icc,
            internal=record.internal,
            mode4=options.mode4,
            mode6=options.mode6,
            trusted=options.trusted,
            shard=bridge != bridge_name(record),
        )
        await self._firewall.add_bridge(rules)

    async def remove(self, record: NetworkRecord) -> None:
        device = self._devices.pop(record.id, None)
        names = device.names if device else [bridge_name(record)]
        if self._firewall is not None:
            for name in names:
                await self._firewall.remove_bridge(name)
        await self._namespaces.run(partial(self._unmake, record))

    def host_ip(self, record: NetworkRecord) -> str:
        return BridgeOptions.parse(record.options).binding

    def routed(self, record: NetworkRecord, version: int) -> bool:
        options = BridgeOptions.parse(record.options)
        return (options.mode4 if version == 4 else options.mode6) == "routed"

    def trusts(self, record: NetworkRecord) -> bool:
        """Whether there are interfaces that published ports are reached from by routing."""
        return bool(BridgeOptions.parse(record.options).trusted)

    # --- endpoints -------------------------------------------------------------------

    async def attach(self, record: NetworkRecord, wanted: Wanted, netns_fd: int) -> Attached:
        interface = await self._plan(record, wanted)
        try:
            await self._namespaces.run(
                partial(interfaces.plug, self._namespaces, netns_fd, interface)
            )
        except BaseException:
            self._unplan(record, interface)
            raise
        return self._attached(record, wanted, interface)

    async def make(self, record: NetworkRecord, wanted: Wanted) -> tuple[int, Attached]:
        """A new sandbox with the endpoint in it, made in one visit: its fd."""
        interface = await self._plan(record, wanted)
        try:
            fd = await self._namespaces.run_for_fd(
                partial(interfaces.new_sandbox, self._namespaces, interface)
            )
        except BaseException:
            self._unplan(record, interface)
            raise
        return fd, self._attached(record, wanted, interface)

    async def detach(self, record: NetworkRecord, state: EndpointState, netns_fd: int) -> None:
        await self._namespaces.run(partial(self._unplug, (state.host_interface,)))
        self.forget(record, (state,))

    def forget(self, record: NetworkRecord, states: Sequence[EndpointState]) -> None:
        """These endpoints' interfaces are gone (with their namespaces)."""
        device = self._devices.get(record.id)
        if device is not None:
            # Which shard they were in is not worth a question: any that has ports.
            for _ in states:
                shard = max(range(len(device.ports)), key=device.ports.__getitem__)
                device.ports[shard] = max(0, device.ports[shard] - 1)

    async def adopt(self, record: NetworkRecord, state: EndpointState) -> None:
        """Its port was counted when the bridge was taken over."""

    async def there(self, state: EndpointState) -> bool:
        """Whether an endpoint of before a restart still has its interface."""
        host = self._namespaces.host
        found = await self._namespaces.run(partial(netlink.link, host, state.host_interface))
        return found is not None

    async def unplug_all(self, host_interfaces: Sequence[str]) -> None:
        """Delete the host's ends of veths; those that are gone already are none's worry."""
        await self._namespaces.run(partial(self._unplug, host_interfaces))

    async def sweep(self, known: frozenset[str]) -> None:
        """Remove veths in our bridges whose names are not in `known`, and bridges of ours
        that are no network's."""
        masters = {index for device in self._devices.values() for index in device.indexes}
        aliases = {self._alias + network_id for network_id in self._devices}

        def sweep() -> None:
            host = self._namespaces.host
            stale = [
                link.index
                for link in netlink.links(host)
                if (link.master in masters and link.name not in known and not link.alias)
                or (link.alias.startswith(self._alias) and link.alias not in aliases)
            ]
            host.batch(netlink.delete_link(index) for index in stale)

        await self._namespaces.run(sweep)
        for device in self._devices.values():
            device.ports = await self._namespaces.run(partial(self._count, device.indexes))

    def _attached(self, record: NetworkRecord, wanted: Wanted, interface: Interface) -> Attached:
        out = not record.internal
        return Attached(
            interface=interface.name,
            host_interface=interface.host_name,
            mac=interface.mac,
            gateway4=wanted.gateway4 if out and wanted.ipv4 else "",
            gateway6=wanted.gateway6 if out and wanted.ipv6 else "",
        )

    async def _plan(self, record: NetworkRecord, wanted: Wanted) -> Interface:
        device = self._devices.get(record.id)
        if device is None:
            raise System(f"network {record.id} has no bridge")
        shard = next((n for n, ports in enumerate(device.ports) if ports < self.shard), -1)
        if shard < 0:
            await self._namespaces.run(partial(self._grow, record, device))
            await self._protect(record, device.names[-1])
            shard = len(device.ports) - 1
        device.ports[shard] += 1
        total = sum(device.ports)
        if total % _CROWD == 0:
            interfaces.room_for_neighbours(4 * total)
        options = device.options
        out = not record.internal
        address = wanted.ipv4.partition("/")[0]
        return Interface(
            host_name=interfaces.veth_name(),
            name=wanted.interface,
            master=device.indexes[shard],
            mac=wanted.mac or (interfaces.mac_for(address) if address else interfaces.random_mac()),
            mtu=options.mtu or self._mtu,
            index=2 if wanted.fresh else 0,
            ipv4=wanted.ipv4,
            ipv6=wanted.ipv6,
            gateway4=wanted.gateway4 if out and wanted.default4 and wanted.ipv4 else "",
            gateway6=wanted.gateway6 if out and wanted.default6 and wanted.ipv6 else "",
            link_local=wanted.link_local,
            isolated=_isolated(record, options),
            sysctls=wanted.sysctls,
        )

    def _unplan(self, record: NetworkRecord, interface: Interface) -> None:
        device = self._devices.get(record.id)
        if device is not None and interface.master in device.indexes:
            device.ports[device.indexes.index(interface.master)] -= 1

    # --- on the worker ---------------------------------------------------------------

    def _make(self, record: NetworkRecord, device: _Device) -> None:
        host = self._namespaces.host
        name = bridge_name(record)
        found = netlink.link(host, name)
        if found is not None and found.kind != "bridge":
            raise Forbidden(f"cannot use {name}: it exists and is not a bridge")
        ours = found is None or found.alias.startswith(self._alias)
        if not ours and NAME not in record.options:
            raise Forbidden(f"cannot use {name}: a device of that name is not this engine's")
        made = found is None
        if found is None:
            host.do(_new_bridge(name, device.options.mtu or self._mtu))
            found = netlink.link(host, name)
            assert found is not None
        try:
            self._configure(record, device, found, made)
        except BaseException:
            if made:
                with contextlib.suppress(OSError):
                    host.do(netlink.delete_link(found.index))
            raise
        bridges = [found, *(() if made else self._shards(record))]
        device.names = [link.name for link in bridges]
        device.indexes = [link.index for link in bridges]
        device.ports = [0] if made else self._count(device.indexes)

    def _configure(
        self, record: NetworkRecord, device: _Device, link: netlink.Link, made: bool
    ) -> None:
        options, index, name = device.options, link.index, link.name
        sysctl = interfaces.write_sysctl
        has6 = any(":" in pool.subnet for pool in record.ipam)
        sysctl(f"net.ipv6.conf.{name}.disable_ipv6", "0" if has6 else "1")
        if has6:
            sysctl(f"net.ipv6.conf.{name}.accept_ra", "0")
        # Published ports on 127.0.0.1: packets from there are translated towards this
        # bridge and must be allowed onto it. The firewall keeps the other way shut.
        sysctl(f"net.ipv4.conf.{name}.route_localnet", "1")
        ours = made or link.alias.startswith(ALIAS)
        messages = [netlink.set_alias(name, self._alias + record.id)] if ours else []
        for pool in record.ipam:
            version6 = ":" in pool.subnet
            isolated = record.internal and (options.mode6 if version6 else options.mode4) == (
                "isolated"
            )
            if not pool.gateway or isolated or (options.inhibit4 and not version6):
                continue
            prefix = ip_network(pool.subnet).prefixlen
            messages.append(netlink.add_address(index, pool.gateway, prefix, broadcast=True))
        if has6 and not (record.internal and options.mode6 == "isolated"):
            messages.append(netlink.add_address(index, "fe80::1", 64))
        messages.append(netlink.set_link(index, up=True))
        if ours and not made:
            messages = [*self._stale(record, index), *messages]
        self._namespaces.host.batch(messages)
        if not options.icc and DEFAULT in record.options:
            # Links are exceptions, which only the packet filter can make. It sees packets
            # between two ports only if the bridge is told to show them.
            with contextlib.suppress(OSError):
                self._namespaces.host.do(netlink.filter_bridge(index))

    def _stale(self, record: NetworkRecord, index: int) -> list[netlink.Message]:
        """Addresses that the bridge has from another configuration."""
        wanted = {
            (str(ip_address(p.gateway)), ip_network(p.subnet).prefixlen)
            for p in record.ipam
            if p.gateway
        }
        return [
            netlink.delete_address(index, a.address, a.prefix)
            for a in netlink.addresses(self._namespaces.host, index=index)
            if (a.address, a.prefix) not in wanted and not ip_address(a.address).is_link_local
        ]

    def _grow(self, record: NetworkRecord, device: _Device) -> None:
        """One more shard, and a wire from it to the first."""
        host = self._namespaces.host
        name = _shard_name(record, len(device.names))
        mtu = device.options.mtu or self._mtu
        made = _new_bridge(name, mtu, SHARD_GROUP)
        host.batch((made, netlink.set_alias(name, self._alias + record.id)))
        found = netlink.link(host, name)
        assert found is not None
        try:
            here, there = interfaces.veth_name(), interfaces.veth_name()
            interfaces.write_sysctl(f"net.ipv6.conf.{name}.disable_ipv6", "1")
            host.batch(
                (
                    netlink.add_veth(
                        here, there, self._namespaces.home, master=found.index, mtu=mtu
                    ),
                    netlink.set_link(0, by_name=there, master=device.indexes[0], up=True),
                    netlink.set_alias(here, self._alias + record.id),
                    netlink.set_alias(there, self._alias + record.id),
                    netlink.set_link(found.index, up=True),
                )
            )
        except BaseException:
            with contextlib.suppress(OSError):
                host.do(netlink.delete_link(found.index))
            raise
        device.names.append(name)
        device.indexes.append(found.index)
        device.ports.append(0)

    def _unmake(self, record: NetworkRecord) -> None:
        """Everything of the network ends at once but the devices, which lose their names."""
        host = self._namespaces.host
        first = netlink.link(host, bridge_name(record))
        bridges = [*([first] if first else []), *self._shards(record)]
        wires = [port for link in bridges for port in netlink.links(host, master=link.index)]
        ours = [link for link in (*bridges, *wires) if link.alias == self._alias + record.id]
        messages: list[netlink.Message] = []
        for link in ours:
            if link.kind == "bridge":
                messages += (
                    netlink.delete_address(link.index, address.address, address.prefix)
                    for address in netlink.addresses(host, index=link.index)
                )
                gone = (errno.ENODEV,)  # by an earlier remove
                messages.append(netlink.set_link(link.index, up=False, ignore=gone))
                spare = "gone" + secrets.token_hex(4)
                messages.append(netlink.set_link(link.index, name=spare, ignore=gone))
        host.batch(messages)
        self._namespaces.remove_links([link.index for link in ours])

    def _unplug(self, names: Sequence[str]) -> None:
        self._namespaces.host.batch([netlink.delete_link(name=name) for name in names if name])

    def _count(self, indexes: Sequence[int]) -> list[int]:
        host = self._namespaces.host
        return [len(netlink.links(host, master=index)) for index in indexes]

    def _shards(self, record: NetworkRecord) -> list[netlink.Link]:
        """A network's further bridges that there are."""
        found: list[netlink.Link] = []
        while True:
            link = netlink.link(self._namespaces.host, _shard_name(record, len(found) + 1))
            if link is None or link.alias != self._alias + record.id:
                return found
            found.append(link)


def _shard_name(record: NetworkRecord, number: int) -> str:
    return f"bs{number}-{record.id[: 12 - len(str(number))]}"


def _conflict(record: NetworkRecord, other: NetworkRecord) -> str:
    """What two networks must not share. Addresses are the IPAM driver's business, but it
    lets networks share a subnet that have ranges in it, and two bridges cannot."""
    if bridge_name(record) == bridge_name(other):
        return "same bridge name"
    for pool in record.ipam:
        subnet = ip_network(pool.subnet) if pool.ip_range else None
        if subnet is not None and any(
            ip_network(theirs.subnet).version == subnet.version
            and subnet.overlaps(ip_network(theirs.subnet))
            for theirs in other.ipam
            if theirs.subnet
        ):
            return f"overlapping IPv{subnet.version}"
    return ""


def _isolated(record: NetworkRecord, options: BridgeOptions) -> bool:
    """Whether the bridge itself keeps its ports from each other (icc=false)."""
    return not options.icc and DEFAULT not in record.options


def _new_bridge(name: str, mtu: int, group: int = 0) -> netlink.Message:
    return netlink.add_link(name, "bridge", mac=interfaces.random_mac(), mtu=mtu, group=group)


def free_name(sock: netlink.Socket, owner: str) -> tuple[str, bool]:
    """docker0, or gantry0 (1, ...) where somebody else's docker0 is; and whether one of
    those that were passed over is another gantryd's. One of those that has no ports is
    left over: an engine that runs has sandboxes made ahead in its bridge."""
    links = netlink.links(sock)
    named = {link.name: link for link in links}
    used = {link.master for link in links}
    others = False
    for name in ("docker0", *(f"gantry{number}" for number in range(1000))):
        found = named.get(name)
        if found is None or found.alias.startswith(alias_prefix(owner)):
            return name, others
        if found.alias.startswith(ALIAS):
            if found.index not in used:
                return name, others
            others = True
    raise System("there is no free name for the default bridge")


def present_addresses(namespaces: Namespaces, bridge: str) -> list[str]:
    """The "address/prefix"es of a bridge that is already there. On the worker."""
    host = namespaces.host
    found = netlink.link(host, bridge)
    if found is None:
        return []
    return [f"{a.address}/{a.prefix}" for a in netlink.addresses(host, index=found.index)]


def routes_on_link(namespaces: Namespaces) -> list[str]:
    """The subnets that the host itself is in: networks avoid them. On the worker."""
    return [r.target for r in netlink.routes(namespaces.host) if r.target and not r.gateway]
