"""Network drivers: how a network comes to be on the host, how a sandbox gets into it.

One Protocol; `bridge`, `vlan` (macvlan, ipvlan), `null` (host, none) and `remote`
(plugins) implement it, and all that make interfaces pass one contract suite
(`gantry.testing.network`).

The service decides names, addresses, gateways and the order of things; a driver makes
and unmakes devices. It keeps nothing on disk: everything it must know again after a
restart is in the network's record and the endpoint's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gantry.model.network import EndpointState, NetworkRecord
from gantry.network.publish import PortRequest

MAC_OPTION = "com.docker.network.endpoint.macaddress"
IFNAME_OPTION = "com.docker.network.endpoint.ifname"
SYSCTLS_OPTION = "com.docker.network.endpoint.sysctls"
MTU_OPTION = "com.docker.network.driver.mtu"
IFACE_PREFIX_OPTION = "com.docker.network.container_iface_prefix"
HOST_IPV4_OPTION = "com.docker.network.host_ipv4"
HOST_IPV6_OPTION = "com.docker.network.host_ipv6"


@dataclass(frozen=True, slots=True)
class Traits:
    """What the service must know of a driver before it makes a network.

    gateways: an address is set aside for the gateway even if the user names none.
    ports: it publishes ports. isolated_gateway...: see `bridge`.
    """

    scope: str = "local"
    gateways: bool = True
    ports: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """An endpoint to attach.

    interface: its name in the sandbox, final. ipv4, ipv6: "address/prefix" or "".
    gateway4, gateway6: of the network, "" without. default4, default6: whether this
    endpoint is to be the sandbox's way out. link_local: further addresses. fresh: the
    sandbox has no other interface (index 2 is free).
    """

    endpoint_id: str
    interface: str
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    gateway4: str = ""
    gateway6: str = ""
    default4: bool = False
    default6: bool = False
    link_local: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    container_id: str = ""
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Attached:
    """What a driver made of it. gateway4, gateway6: "" if the network is no way out;
    on_link4, on_link6: it is one without an address (ipvlan l3). mac: of the interface,
    "" when it has none. ipv4, ipv6: set by plugins that choose addresses themselves."""

    interface: str
    host_interface: str = ""
    mac: str = ""
    gateway4: str = ""
    gateway6: str = ""
    on_link4: bool = False
    on_link6: bool = False
    ipv4: str = ""
    ipv6: str = ""


class Driver(Protocol):
    """See the module. Methods raise the taxonomy's errors and then leave nothing behind."""

    name: str

    async def traits(self, record: NetworkRecord) -> Traits: ...

    def check(self, record: NetworkRecord, others: Sequence[NetworkRecord]) -> None:
        """Refuse options that make no sense, before anything is allocated.
        `others`: the driver's networks that exist."""

    async def create(self, record: NetworkRecord) -> None:
        """Make the network's devices and rules, or take over those an earlier daemon made."""

    async def remove(self, record: NetworkRecord) -> None:
        """Idempotent."""

    async def attach(self, record: NetworkRecord, wanted: Wanted, netns_fd: int) -> Attached:
        """Put an interface into the sandbox."""

    async def detach(self, record: NetworkRecord, state: EndpointState, netns_fd: int) -> None:
        """Take it out again. netns_fd: -1 when the sandbox is gone. Idempotent."""

    async def adopt(self, record: NetworkRecord, state: EndpointState) -> None:
        """An endpoint that an earlier daemon attached is still in use."""


class PortDriver(Driver, Protocol):
    """A driver that publishes ports (`Traits.ports`)."""

    def host_ip(self, record: NetworkRecord) -> str:
        """Where a binding without address goes: "0.0.0.0", or as the network's option says."""

    def routed(self, record: NetworkRecord, version: int) -> bool:
        """Whether ports are opened for direct routing instead of translated."""


def flag(options: Mapping[str, str], name: str, default: bool) -> bool:
    """A boolean option, in any of Go's spellings. ValueError for others."""
    value = options.get(name)
    if value is None:
        return default
    if value in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if value in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{value}": invalid syntax')


__all__ = [
    "HOST_IPV4_OPTION",
    "HOST_IPV6_OPTION",
    "IFACE_PREFIX_OPTION",
    "IFNAME_OPTION",
    "MAC_OPTION",
    "MTU_OPTION",
    "SYSCTLS_OPTION",
    "Attached",
    "Driver",
    "PortDriver",
    "PortRequest",
    "Traits",
    "Wanted",
    "flag",
]
