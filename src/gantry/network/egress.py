"""Egress policies: an allow-list of what containers may connect to.

A network's option or a container's annotation `gantry.egress.allow=pypi.org,10.0.0.0/8`
names DNS names (`*.example.org` for all below one) and addresses. Where both speak, both
must allow. The embedded DNS server resolves only allowed names, and what addresses it
answers are let through for as long as the answer is valid; all else is refused (the
program gets "permission denied" or an unreachable host at once, no silence) and written
to the audit log.

Whoever answers for a name (which is anybody, below some `*.names`) must not choose what of
the inside is reached: an answer opens no loopback, link-local or multicast address, and
never this host itself. Those have to be allowed as addresses.

The rules are a table of their own, made with the first policy, whatever backend filters
the rest. Policies go by source address; a bridge table sees to it that a restricted
container has no other.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from gantry.model.errors import InvalidParameter, NotImplementedHere
from gantry.network import dnswire, nftables
from gantry.network.audit import Audit, PacketLog
from gantry.network.nftables import Element, Elements, ip_field, name_field

_log = logging.getLogger(__name__)

OPTION = "gantry.egress.allow"
_LONGEST = 86400  # and at most
_RATE, _BURST = 50.0, 100.0  # refusals a second in the audit log, as of packets (`_script`)
_SETS = ("restricted", "allowed", "learned")
_LEARNED = 4096  # addresses of a container that answers opened: beyond, the oldest is shut
_SHORTEST = 60  # seconds that an answer counts at least: programs keep addresses a little

Net: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Layer:
    """One allow-list, parsed. names: exact; below: all under these."""

    names: frozenset[str] = frozenset()
    below: tuple[str, ...] = ()
    networks: tuple[Net, ...] = ()

    @classmethod
    def parse(cls, words: Iterable[str]) -> Layer:
        """InvalidParameter for what is neither a name nor an address."""
        names: set[str] = set()
        below: list[str] = []
        networks: list[Net] = []
        for word in filter(None, (word.strip().lower().rstrip(".") for word in words)):
            try:
                networks.append(ip_network(word, strict=False))
                continue
            except ValueError:
                pass
            bare = word.removeprefix("*.")
            if not _is_name(bare):
                raise InvalidParameter(
                    f'invalid {OPTION}: "{word}" is no DNS name, address or CIDR'
                )
            if bare != word:
                below.append("." + bare)
            else:
                names.add(word)
        return cls(frozenset(names), tuple(below), tuple(networks))

    def names_it(self, name: str) -> bool:
        return name in self.names or name.endswith(self.below)

    def asks_for(self, name: str) -> bool:
        """Whether the name may be resolved. A list of addresses alone says nothing of names:
        some of a name's addresses might be among them. An empty list allows nothing."""
        if self.names or self.below:
            return self.names_it(name)
        return bool(self.networks)

    def contains(self, address: str) -> bool:
        value = ip_address(address)
        return any(value in network for network in self.networks)


_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")


def _is_name(word: str) -> bool:
    return _NAME.fullmatch(word) is not None


def common(layers: Sequence[Layer]) -> list[Net]:
    """The addresses that all layers allow by themselves."""
    found = list(layers[0].networks) if layers else []
    for layer in layers[1:]:
        narrowed: list[Net] = []
        for one in found:
            for other in layer.networks:
                if one.version != other.version:
                    continue
                if one.prefixlen >= other.prefixlen and one[0] in other:
                    narrowed.append(one)
                elif other[0] in one:
                    narrowed.append(other)
        found = narrowed
    return list(dict.fromkeys(found))


@dataclass(slots=True)
class Restriction:
    """The policy of one container: the DNS server's `Policy`.

    networks: ids, whose logs tell of it. sources: its addresses. bridges: where it is, and
    reaches its neighbours. learned_until: (source, address) → monotonic end.
    """

    owner: Egress
    container: str
    networks: tuple[str, ...]
    layers: tuple[Layer, ...]
    sources: tuple[str, ...]
    interfaces: tuple[tuple[str, str], ...] = ()  # (the host's end, an address it may use)
    bridges: tuple[str, ...] = ()
    elements: list[Element] = field(default_factory=list)
    guards: list[Element] = field(default_factory=list)
    learned_until: dict[tuple[str, str], float] = field(default_factory=dict)
    tokens: float = 100.0
    refused_at: float = 0.0

    def allows_name(self, name: str) -> bool:
        """Whether it may be asked of others."""
        return bool(name) and all(layer.asks_for(name) for layer in self.layers)

    async def learned(self, name: str, answer: bytes) -> None:
        """Let the addresses in an answer through before the container sees it."""
        for record in dnswire.records(answer):
            if record.type not in (dnswire.A, dnswire.AAAA) or not record.text:
                continue
            named = _outside(record.text)
            if all(
                layer.contains(record.text) or (named and layer.names_it(name))
                for layer in self.layers
            ):
                self.owner.admit(self, record.text, min(max(record.ttl, _SHORTEST), _LONGEST))

    def refused_name(self, name: str) -> None:
        """Written down, as long as there are not too many: each is a write to a file."""
        now = time.monotonic()
        self.tokens = min(_BURST, self.tokens + (now - self.refused_at) * _RATE)
        self.refused_at = now
        if self.tokens >= 1:
            self.tokens -= 1
            self.owner.audit.write(self.networks, container=self.container, kind="dns", name=name)

    def crowded_out(self, now: float) -> list[Element]:
        """What was learned first, as far as it is too much; what is over is just forgotten."""
        if len(self.learned_until) <= _LEARNED:
            return []
        for key in [key for key, until in self.learned_until.items() if until <= now]:
            del self.learned_until[key]
        gone: list[Element] = []
        while len(self.learned_until) > _LEARNED:
            source, address = next(iter(self.learned_until))
            del self.learned_until[source, address]
            gone.append(_learned(source, address))
        return gone


class Egress:
    """All restrictions. table: name of the main table; this one's is derived from it."""

    def __init__(self, table: str, audit: Audit) -> None:
        self.table = f"{table}-egress"
        self.audit = audit
        self._group = 0x4000 | int(hashlib.sha256(table.encode()).hexdigest()[:3], 16)
        self._elements: Elements | None = None
        self._guard: Elements | None = None
        self._packets: PacketLog | None = None
        self._restrictions: dict[str, Restriction] = {}

    def restrict(self, restriction: Restriction) -> None:
        """Put a container under its policy, instead of the one it had.

        NotImplementedHere when the kernel has no nftables.
        """
        try:
            self._start()
        except OSError as error:
            raise NotImplementedHere(f"egress policies need nftables: {error}") from error
        assert self._elements is not None and self._guard is not None
        self.lift(restriction.container)
        for source in restriction.sources:
            version = "6" if ":" in source else "4"
            restriction.elements.append(Element("restricted" + version, ip_field(source)))
            for network in common(restriction.layers):
                if network.version == int(version):
                    restriction.elements.append(_allowed(source, network))
        for interface, address in restriction.interfaces:
            name, version = name_field(interface), "6" if ":" in address else "4"
            restriction.guards.append(Element("guarded", name))
            restriction.guards.append(Element("guard" + version, name + ip_field(address)))
        same = [Element("same", name_field(b) + name_field(b)) for b in restriction.bridges]
        self._elements.change(add=[*restriction.elements, *same])
        restriction.guards = list(dict.fromkeys(restriction.guards))
        self._guard.change(add=restriction.guards)
        self._restrictions[restriction.container] = restriction

    def lift(self, container: str) -> None:
        """Idempotent."""
        if self._packets is not None and container in self._restrictions:
            self._packets.drain()  # a container ends sooner than its last refusal is read
        gone = self._restrictions.pop(container, None)
        if gone is None or self._elements is None or self._guard is None:
            return
        learned = [
            _learned(source, address)
            for (source, address), until in gone.learned_until.items()
            if until > time.monotonic()
        ]
        self._elements.change(remove=[*gone.elements, *learned], strict=False)
        self._guard.change(remove=gone.guards, strict=False)

    def admit(self, restriction: Restriction, address: str, seconds: int) -> None:
        """`address` may be reached from the container for so long."""
        assert self._elements is not None
        now = time.monotonic()
        add: list[Element] = []
        gone: list[Element] = []
        for source in restriction.sources:
            if (":" in source) != (":" in address):
                continue
            until = restriction.learned_until.get((source, address), 0.0)
            if until >= now + seconds / 2:
                continue  # long enough yet
            element = _learned(source, address, seconds)
            add.append(element)
            if until > now:
                gone.append(element)
            restriction.learned_until.pop((source, address), None)
            restriction.learned_until[source, address] = now + seconds
        gone += restriction.crowded_out(now)
        if add:
            self._elements.change(add=add, remove=gone, strict=False)

    def settle(self) -> None:
        """Forget what an earlier daemon left, if there is anything."""
        if self._elements is None and not _exists(self.table):
            return
        self._start()
        assert self._elements is not None and self._guard is not None
        for elements, names, field_of in (
            (
                self._elements,
                tuple(f"{name}{version}" for name in _SETS for version in (4, 6)),
                "elements",
            ),
            (self._guard, ("guarded", "guard4", "guard6"), "guards"),
        ):
            wanted = {
                (e.set, e.key) for r in self._restrictions.values() for e in getattr(r, field_of)
            }
            stale = [
                Element(name, key, b"", end)
                for name in names
                for key, end, _ in elements.keys(name)
                if (name, key) not in wanted
            ]
            elements.change(remove=stale, strict=False)

    def close(self, *, remove: bool = False) -> None:
        for elements in (self._elements, self._guard):
            if elements is not None:
                elements.close()
        if self._packets is not None:
            self._packets.close()
        if remove and self._elements is not None:
            nftables.run(f"delete table inet {self.table}\ndelete table bridge {self.table}\n")
        self._elements = self._guard = self._packets = None

    def _start(self) -> None:
        if self._elements is not None:
            return
        nftables.run(_script(self.table, self._group))
        self._elements = Elements(self.table)
        self._guard = Elements(self.table, "bridge")
        try:
            self._packets = PacketLog(self._group, self._refused)
        except OSError as error:
            _log.warning("refused packets are not written to the audit log: %s", error)

    def _refused(self, source: str, target: str, proto: str, port: int) -> None:
        for restriction in self._restrictions.values():
            if source in restriction.sources:
                self.audit.write(
                    restriction.networks,
                    container=restriction.container,
                    kind="packet",
                    source=source,
                    destination=target,
                    protocol=proto,
                    port=port,
                )
                return


def _exists(table: str) -> bool:
    elements = Elements(table)
    try:
        return elements.exists()
    finally:
        elements.close()


def _allowed(source: str, network: Net) -> Element:
    head = ip_field(source)
    return Element(
        f"allowed{network.version}",
        head + network[0].packed,
        key_end=head + network[-1].packed,
    )


def _learned(source: str, address: str, timeout: float = 0) -> Element:
    version = "6" if ":" in address else "4"
    return Element(f"learned{version}", ip_field(source) + ip_field(address), timeout=timeout)


def _outside(address: str) -> bool:
    """Whether a name may stand for it: nothing that has a meaning only on this host or link."""
    value = ip_address(address)
    if isinstance(value, IPv6Address):
        value = value.ipv4_mapped or value.sixtofour or value
    return not (
        value.is_loopback or value.is_link_local or value.is_multicast or value.is_unspecified
    )


def _script(table: str, group: int) -> str:
    lines = [f"add table inet {table}", f"add table bridge {table}"]
    for version, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr")):
        lines += [
            f"add set inet {table} restricted{version} {{type {kind};}}",
            f"add set inet {table} allowed{version}"
            f" {{type {kind} . {kind}; flags interval,timeout;}}",
            f"add set inet {table} learned{version} {{type {kind} . {kind}; flags timeout;}}",
            f"add set bridge {table} guard{version} {{type ifname . {kind};}}",
        ]
    lines.append(f"add set inet {table} same {{type ifname . ifname;}}")
    lines.append(f"add set bridge {table} guarded {{type ifname;}}")
    chains = {
        "forward": "{type filter hook forward priority -1;}",
        "input": "{type filter hook input priority -1;}",
        "check4": "",
        "check6": "",
        "host4": "",
        "host6": "",
        "refuse": "",
    }
    for name, hook in chains.items():
        lines += [f"add chain inet {table} {name} {hook}", f"flush chain inet {table} {name}"]
    for name, check in (("forward", "check"), ("input", "host")):
        lines += [
            f"add rule inet {table} {name} ct state established,related accept",
            f"add rule inet {table} {name} ip saddr @restricted4 jump {check}4",
            f"add rule inet {table} {name} ip6 saddr @restricted6 jump {check}6",
        ]
    for version, family in (("4", "ip"), ("6", "ip6")):
        ends = f"{family} saddr . {family} daddr"
        head = f"add rule inet {table} check{version}"
        lines += [
            f"{head} iifname . oifname @same return",
            f"{head} {ends} @allowed{version} return",
            f"{head} {ends} @learned{version} return",
            f"{head} goto refuse",
        ]
        head = f"add rule inet {table} host{version}"
        if version == "6":
            lines.append(
                f"{head} icmpv6 type {{nd-neighbor-solicit, nd-neighbor-advert,"
                " nd-router-solicit} accept"
            )
        lines += [f"{head} {ends} @allowed{version} return", f"{head} goto refuse"]
    head = f"add rule inet {table} refuse"
    lines += [
        f"{head} limit rate 50/second burst 100 packets log group {group}",
        f"{head} reject with icmpx type admin-prohibited",
    ]
    lines += [
        f"add chain bridge {table} prerouting {{type filter hook prerouting priority -300;}}",
        f"flush chain bridge {table} prerouting",
    ]
    head = f"add rule bridge {table} prerouting iifname @guarded"
    lines += [
        f"{head} ether type ip iifname . ip saddr != @guard4 drop",
        f"{head} ether type arp iifname . arp saddr ip != @guard4 drop",
        f"{head} ether type ip6 iifname . ip6 saddr != @guard6 ip6 saddr != fe80::/10"
        " ip6 saddr != :: drop",
        f"{head} ether type != {{ip, ip6, arp}} drop",
        f"add chain bridge {table} input {{type filter hook input priority -300;}}",
        f"flush chain bridge {table} input",
    ]
    # To this host itself: these are no sources that `restricted6` would know.
    head = f"add rule bridge {table} input iifname @guarded ip6 saddr {{::, fe80::/10}}"
    lines += [
        f"{head} icmpv6 type {{nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit,"
        " mld-listener-report, mld2-listener-report} accept",
        f"{head} drop",
    ]
    return "\n".join(lines) + "\n"
