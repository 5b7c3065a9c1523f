"""What a bridge network needs of a packet filter, as one Protocol, and its values.

The drivers of networks say *what* shall hold (this bridge masquerades, that port leads
there); a backend (`nft`, `iptables`) knows how. Every call is one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

SHARD_GROUP: Final = 0x67616E74
"""The device group of further switches (`BridgeRules.shard`): a comparison for a packet filter,
where a name would be a look-up for every packet."""


@dataclass(frozen=True, slots=True)
class BridgeRules:
    """How packets of one bridge are treated.

    subnets4, subnets6: "address/prefix". masquerade: packets that leave the bridge for
    elsewhere get an address of the host; snat4, snat6: which one ("" the kernel's choice).
    icc: containers on the bridge reach each other. internal: nothing leaves or enters.
    mode4, mode6: "nat", "nat-unprotected" (all ports reachable by direct routing),
    "routed" (no NAT; published ports reachable by direct routing), "isolated".
    trusted: interfaces from which direct routing to any port is allowed.
    shard: only a further switch of a network whose first bridge has all the rules.
    """

    bridge: str
    subnets4: tuple[str, ...] = ()
    subnets6: tuple[str, ...] = ()
    masquerade: bool = True
    snat4: str = ""
    snat6: str = ""
    icc: bool = True
    internal: bool = False
    mode4: str = "nat"
    mode6: str = "nat"
    trusted: tuple[str, ...] = ()
    shard: bool = False


@dataclass(frozen=True, slots=True)
class PortRule:
    """Host ports [host_port, host_port + count) lead to as many ports at `address`.

    host_ip: "0.0.0.0" or "::" for every address of the host in that family.
    routed: no translation, the ports are just opened for direct routing; the host's
    part is then meaningless. trusted: like routed, but only from the interfaces that the
    bridge trusts.
    """

    proto: str
    host_ip: str
    host_port: int
    address: str
    port: int
    count: int = 1
    routed: bool = False
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class LinkRule:
    """`source` may reach this port of `target` although icc is off (a legacy link)."""

    source: str
    target: str
    proto: str
    port: int


class Firewall(Protocol):
    """A packet filter backend.

    Life cycle: `start`, then networks and ports in any order, `settle` once when all
    that exists has been declared again (before that a backend may merely collect),
    further changes, `close`. Adding what is already there is no error: that is how a
    restarted daemon takes over. Removing what is missing is none either.
    """

    async def start(self) -> None:
        """Base chains in place. What an earlier daemon left keeps working meanwhile."""

    async def add_bridge(self, rules: BridgeRules) -> None:
        """Also replaces the rules of the same bridge."""

    async def remove_bridge(self, bridge: str) -> None: ...

    async def publish(self, add: Sequence[PortRule], remove: Sequence[PortRule] = ()) -> None:
        """In one transaction: first removes, then adds."""

    async def link(self, add: Sequence[LinkRule], remove: Sequence[LinkRule] = ()) -> None:
        """Exceptions from icc=false."""

    async def no_router(self, version: int) -> bool:
        """The engine is about to switch forwarding on, for its own networks (4 or 6: of which
        IP version): what the host would then forward between its other interfaces is dropped.
        Whether this changed a policy that is not ours."""

    async def settle(self) -> None:
        """Forget what an earlier daemon left and nobody has declared since."""

    @property
    def dear(self) -> bool:
        """Whether every `check` costs processes, not just those after a change of somebody's."""

    async def check(self) -> bool:
        """Whether all is in place; if another tool flushed it, restores it in one
        transaction and returns False."""

    async def close(self, *, remove: bool = False) -> None:
        """remove: take everything away, a user's own chain included."""
