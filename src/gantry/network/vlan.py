"""The macvlan and ipvlan drivers: containers directly on a network of the host's.

Each endpoint is a sub-interface of a *parent*: one of the host's (`-o parent=eth0`), a
VLAN of one (`-o parent=eth0.10`, made when it is not there), or a dummy of our own when
none is named, which makes the network internal. Options and texts: moby
libnetwork/drivers/{macvlan,ipvlan}.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from functools import partial

from gantry.model.errors import InvalidParameter, System
from gantry.model.network import EndpointState, NetworkRecord
from gantry.model.numbers import clamped
from gantry.network import interfaces, netlink
from gantry.network.bridge import alias_prefix
from gantry.network.drivers import Attached, Traits, Wanted
from gantry.network.interfaces import Interface
from gantry.network.netns import Namespaces

PARENT = "parent"
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
_MACVLAN_MODE, _IPVLAN_MODE, _IPVLAN_FLAGS, _VLAN_ID = 1, 1, 2, 1


class VlanDriver:
    """See the module. kind: "macvlan" or "ipvlan"."""

    def __init__(self, kind: str, namespaces: Namespaces, owner: str = "") -> None:
        self.name = kind
        self._alias = alias_prefix(owner)
        self._namespaces = namespaces

    async def traits(self, record: NetworkRecord) -> Traits:
        # A gateway is somebody else's: there is one only if the user names it.
        return Traits(gateways=False)

    def check(self, record: NetworkRecord, others: Sequence[NetworkRecord]) -> None:
        mode, flag = self._mode(record)
        parent = record.options.get(PARENT, "")
        if parent == "lo":
            raise InvalidParameter(f"loopback interface is not a valid {self.name} parent link")
        if self.name == "ipvlan":
            known: dict[str, int] = IPVLAN_MODES
            if flag not in IPVLAN_FLAGS:
                raise InvalidParameter(
                    f"requested ipvlan flag '{flag}' is not valid, 'bridge' is the ipvlan"
                    " driver default"
                )
        else:
            known = MACVLAN_MODES
        if mode not in known:
            default = "l2" if self.name == "ipvlan" else "bridge"
            raise InvalidParameter(
                f"requested {self.name} mode '{mode}' is not valid, '{default}' mode is the"
                f" {self.name} driver default"
            )
        for other in others:
            if not parent or other.options.get(PARENT) != parent or other.id == record.id:
                continue
            if self.name == "ipvlan":
                raise System(
                    f"network dm-{other.id[:12]} is already using parent interface {parent}"
                )
            if mode == "passthru":
                raise System(
                    f"cannot use mode passthru, macvlan network {other.id} is already using"
                    f" parent interface {parent}"
                )
            if self._mode(other)[0] == "passthru":
                raise System(
                    f"macvlan network {other.id} is already using parent interface {parent} in"
                    " mode passthru"
                )

    def _mode(self, record: NetworkRecord) -> tuple[str, str]:
        if self.name == "ipvlan":
            return (
                record.options.get("ipvlan_mode") or "l2",
                record.options.get("ipvlan_flag") or "bridge",
            )
        return record.options.get("macvlan_mode") or "bridge", ""

    def _internal(self, record: NetworkRecord) -> bool:
        return record.internal or not record.options.get(PARENT)

    async def create(self, record: NetworkRecord) -> None:
        try:
            await self._namespaces.run(partial(self._make_parent, record))
        except OSError as error:
            raise System(f"cannot create network {record.id}: {error}") from error

    async def remove(self, record: NetworkRecord) -> None:
        await self._namespaces.run(partial(self._unmake_parent, record))

    async def attach(self, record: NetworkRecord, wanted: Wanted, netns_fd: int) -> Attached:
        mode, _ = self._mode(record)
        layer3 = self.name == "ipvlan" and mode in ("l3", "l3s")
        out = not self._internal(record)
        gateway4 = wanted.gateway4 if out and not layer3 and wanted.ipv4 else ""
        gateway6 = wanted.gateway6 if out and not layer3 and wanted.ipv6 else ""
        interface = Interface(
            host_name=interfaces.veth_name(),
            name=wanted.interface,
            master=0,
            mac="" if self.name == "ipvlan" else wanted.mac or _mac(wanted),
            ipv4=wanted.ipv4,
            ipv6=wanted.ipv6,
            gateway4=gateway4 if wanted.default4 else "",
            gateway6=gateway6 if wanted.default6 else "",
            on_link4=out and layer3 and wanted.default4 and bool(wanted.ipv4),
            on_link6=out and layer3 and wanted.default6 and bool(wanted.ipv6),
            link_local=wanted.link_local,
            sysctls=wanted.sysctls,
        )
        try:
            mac = await self._namespaces.run(partial(self._plug, record, interface, netns_fd))
        except OSError as error:
            raise System(f"failed to create the {self.name} port: {error}") from error
        return Attached(
            interface=wanted.interface,
            mac=mac,
            gateway4=gateway4,
            gateway6=gateway6,
            on_link4=out and layer3 and bool(wanted.ipv4),
            on_link6=out and layer3 and bool(wanted.ipv6),
        )

    async def detach(self, record: NetworkRecord, state: EndpointState, netns_fd: int) -> None:
        if netns_fd >= 0:
            await self._namespaces.run(
                partial(interfaces.unplug, self._namespaces, netns_fd, state.interface)
            )

    async def adopt(self, record: NetworkRecord, state: EndpointState) -> None:
        """Nothing is kept of endpoints."""

    # --- on the worker -----------------------------------------------------------------

    def _plug(self, record: NetworkRecord, interface: Interface, fd: int) -> str:
        host = self._namespaces.host
        name = _parent_name(record)
        parent = netlink.link(host, name)
        if parent is None:
            raise System(f"the requested parent interface {name} was not found on the Docker host")
        mode, flag = self._mode(record)
        if self.name == "macvlan":
            data = netlink.u32(_MACVLAN_MODE, MACVLAN_MODES[mode])
        else:
            data = netlink.u16(_IPVLAN_MODE, IPVLAN_MODES[mode])
            data += netlink.u16(_IPVLAN_FLAGS, IPVLAN_FLAGS[flag])

        def make() -> str:
            with netlink.Socket() as inside:
                # Made in the host and moved: its parent is not to be seen from the sandbox.
                host.do(
                    netlink.add_link(
                        interface.host_name,
                        self.name,
                        data=data,
                        parent=parent.index,
                        mac="" if mode == "passthru" else interface.mac,
                        netns_fd=fd,
                    )
                )
                try:
                    made = netlink.link(inside, interface.host_name)
                    assert made is not None
                    inside.do(netlink.set_link(made.index, name=interface.name))
                    interfaces.configure(inside, interface)
                except BaseException:
                    inside.do(netlink.delete_link(name=interface.host_name))
                    inside.do(netlink.delete_link(name=interface.name))
                    raise
                return made.mac

        return self._namespaces.inside(fd, make)

    def _make_parent(self, record: NetworkRecord) -> None:
        host = self._namespaces.host
        name = _parent_name(record)
        if netlink.link(host, name) is not None:
            return
        if not record.options.get(PARENT):
            try:
                host.do(netlink.add_link(name, "dummy"))
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                host.do(netlink.add_link(name, "bridge"))  # without ports it is as good
        else:
            master, number = _split_vlan(name)
            found = netlink.link(host, master)
            if found is None:
                raise System(f"-o parent interface was not found on the host: {master}")
            data = netlink.attr(_VLAN_ID, struct.pack("=H", number))
            host.do(netlink.add_link(name, "vlan", data=data, parent=found.index))
        host.batch(
            (
                netlink.set_alias(name, self._alias + record.id),
                netlink.set_link(0, by_name=name, up=True),
            )
        )

    def _unmake_parent(self, record: NetworkRecord) -> None:
        """The parent goes if it is ours and nobody else uses it."""
        found = netlink.link(self._namespaces.host, _parent_name(record))
        if found is None or not found.alias.startswith(self._alias):
            return
        users = [
            link
            for link in netlink.links(self._namespaces.host)
            if link.parent == found.index and link.index != found.index
        ]
        if not users:
            self._namespaces.remove_links([found.index])


def _parent_name(record: NetworkRecord) -> str:
    return record.options.get(PARENT) or f"dm-{record.id[:12]}"


def _split_vlan(name: str) -> tuple[str, int]:
    """ "eth0.10" → ("eth0", 10)."""
    if "." not in name:
        raise InvalidParameter(
            f"invalid subinterface vlan name {name}, example formatting is eth0.10"
        )
    parts = name.split(".")
    if len(parts) != 2:
        raise InvalidParameter(
            "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead"
            f" received {name}"
        )
    if not parts[1].isdecimal():
        raise InvalidParameter(
            f"unable to parse a valid vlan id from: {parts[1]} (ex. eth0.10 for vlan 10)"
        )
    number = clamped(parts[1])
    if not 1 <= number <= 4094:
        raise InvalidParameter(f"vlan id must be between 1-4094, received: {number}")
    return parts[0], number


def _mac(wanted: Wanted) -> str:
    address = wanted.ipv4.partition("/")[0]
    return interfaces.mac_for(address) if address else interfaces.random_mac()
