"""The nftables backend: one `inet` table, ports and isolation as sets and maps.

Rules are written once at start and never change; networks and ports are elements, so
adding one is a transaction of one message and the kernel finds it by a hash. What every
packet of a connection passes is kept short (two comparisons, the user's chain, the state
of the connection), and looks nothing up: that is most of what a packet costs.

A packet's way through the table::

    raw-prerouting   seen on its way through a shard's bridge           → untracked
                     to or from 127.0.0.0/8                             → loopback
    loopback         from a container, or from anywhere but this host
                     to a port published there                          → drop
    prerouting       to an address of this host                         → ports
    output           likewise (127.0.0.1, our own addresses)            → ports
    ports            published?                                         → dnat
    forward          DOCKER-USER (the user's own rules, never flushed)
                     belongs to a connection                            → accept
                     between containers of one bridge                   → accept; without icc
                                                                          drop but for links
                     an internal network's, in or out                   → drop
                     into a bridge: was translated, or its port is open → accept, else drop
                     out of a bridge                                    → accept
    postrouting      back into the same bridge after dnat (hairpin),
                     or from 127.0.0.1                                  → masquerade
                     out of a masquerading bridge                       → masquerade or snat

Where bridges show their own frames to the packet filter (br_netfilter), a translated one
would have to leave a network's first bridge by the wire it came from, which a bridge does
not do. Packets out of shards are marked there, and left to the userland proxy.

Connections to link-local addresses are the userland proxy's, too: from there no address
of a container can be reached.

Ports published on 127.0.0.1 are out of other hosts' reach, whatever route_localnet says
(the class of CVE-2020-8558); nor does a container pass for the host by a source address in
127.0.0.0/8, which the kernel takes from interfaces with route_localnet.

`iifname` in postrouting needs Linux 5.7, as does dockerd's own backend.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from gantry.network import nftables
from gantry.network.firewall import SHARD_GROUP, BridgeRules, LinkRule, PortRule
from gantry.network.nftables import (
    Element,
    Elements,
    ip_field,
    name_field,
    port_field,
    proto_field,
)

_log = logging.getLogger(__name__)

_SETS = {
    "bridges": "set {type ifname;}",
    "same": "set {type ifname . ifname;}",
    "apart": "set {type ifname . ifname;}",
    "links4": "set {type ipv4_addr . ipv4_addr . inet_proto . inet_service;}",
    "links6": "set {type ipv6_addr . ipv6_addr . inet_proto . inet_service;}",
    "internal": "set {type ifname;}",
    "trusted": "set {type ifname . ifname;}",
    "unprotected4": "set {type ifname;}",
    "unprotected6": "set {type ifname;}",
    "routed4": "set {type ifname;}",
    "routed6": "set {type ifname;}",
    "loopback": "set {type ipv4_addr . inet_proto . inet_service; flags interval;}",
    "open4": "set {type ipv4_addr . inet_proto . inet_service; flags interval;}",
    "open6": "set {type ipv6_addr . inet_proto . inet_service; flags interval;}",
    "direct4": "set {type ipv4_addr . inet_proto . inet_service; flags interval;}",
    "direct6": "set {type ipv6_addr . inet_proto . inet_service; flags interval;}",
    "local4": "set {type ifname . ipv4_addr; flags interval;}",
    "local6": "set {type ifname . ipv6_addr; flags interval;}",
    "masquerade4": "set {type ifname . ipv4_addr; flags interval;}",
    "masquerade6": "set {type ifname . ipv6_addr; flags interval;}",
    "snat4": "map {type ifname : ipv4_addr;}",
    "snat6": "map {type ifname : ipv6_addr;}",
    "any4": "map {type inet_proto . inet_service : ipv4_addr . inet_service;}",
    "any6": "map {type inet_proto . inet_service : ipv6_addr . inet_service;}",
    "port4": "map {type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;}",
    "port6": "map {type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;}",
    "range4": ("map {type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval;}"),
    "range6": ("map {type ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval;}"),
    "physical4": "set {type ifname;}",
    "physical6": "set {type ifname;}",
}

_CHAINS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ports": (
        "",
        tuple(
            f"meta l4proto {{tcp, udp, sctp}} dnat {family} to {key} map @{name}{version}"
            for version, family in (("4", "ip"), ("6", "ip6"))
            for name, key in (
                ("port", f"{family} daddr . meta l4proto . th dport"),
                ("any", "meta l4proto . th dport"),
                ("range", f"{family} daddr . meta l4proto . th dport"),
            )
        ),
    ),
    "raw-prerouting": (
        "type filter hook prerouting priority raw;",
        (
            f"iifgroup {SHARD_GROUP} meta mark set {SHARD_GROUP} notrack",
            "ip saddr 127.0.0.0/8 jump loopback",
            "ip daddr 127.0.0.0/8 jump loopback",
        ),
    ),
    "loopback": (
        "",
        (
            "iifname @bridges drop",
            'iifname != "lo" ip daddr . meta l4proto . th dport @loopback drop',
        ),
    ),
    "prerouting": (
        "type nat hook prerouting priority dstnat;",
        (
            "ip daddr 127.0.0.0/8 return",
            f"meta mark {SHARD_GROUP} return",
            "ip6 daddr fe80::/10 return",
            "fib daddr type local jump ports",
        ),
    ),
    "output": (
        "type nat hook output priority -100;",
        ("ip6 daddr {::1, fe80::/10} return", "fib daddr type local jump ports"),
    ),
    "postrouting": (
        "type nat hook postrouting priority srcnat;",
        (
            "oifname @bridges ip saddr 127.0.0.0/8 masquerade",
            "oifname . ip saddr @local4 ct status dnat masquerade",
            "oifname . ip6 saddr @local6 ct status dnat masquerade",
            "iifname . oifname @same return",
            "snat ip to iifname map @snat4",
            "snat ip6 to iifname map @snat6",
            "iifname . ip saddr @masquerade4 masquerade",
            "iifname . ip6 saddr @masquerade6 masquerade",
        ),
    ),
    "DOCKER-USER": ("", ()),
    "forward": (
        "type filter hook forward priority filter;",
        (
            "jump DOCKER-USER",
            "ct state established,related accept",
            "iifname . oifname @apart jump linked",
            "iifname . oifname @same accept",
            "iifname @internal drop",
            "oifname @internal drop",
            "oifname @bridges jump inward",
            "iifname @bridges accept",
            "meta nfproto ipv4 iifname @physical4 oifname @physical4 drop",
            "meta nfproto ipv6 iifname @physical6 oifname @physical6 drop",
        ),
    ),
    "linked": (
        "",
        (
            *(
                f"{family} {end}addr . {family} {other}addr . meta l4proto . th {end2}port"
                f" @links{version} accept"
                for version, family in (("4", "ip"), ("6", "ip6"))
                for end, other, end2 in (("s", "d", "d"), ("d", "s", "s"))
            ),
            "drop",
        ),
    ),
    "inward": (
        "",
        (
            "ct status dnat accept",
            "ip daddr . meta l4proto . th dport @open4 accept",
            "ip6 daddr . meta l4proto . th dport @open6 accept",
            "meta nfproto ipv4 oifname @unprotected4 accept",
            "meta nfproto ipv6 oifname @unprotected6 accept",
            "ip protocol icmp oifname @routed4 accept",
            "meta l4proto ipv6-icmp oifname @routed6 accept",
            "iifname . oifname @trusted ip daddr . meta l4proto . th dport @direct4 accept",
            "iifname . oifname @trusted ip6 daddr . meta l4proto . th dport @direct6 accept",
            "drop",
        ),
    ),
}

_USER_CHAINS = frozenset({"DOCKER-USER"})


Chains = dict[str, tuple[str, tuple[str, ...]]]


def chains(accept_mark: tuple[int, int] | None = None) -> Chains:
    """Each chain's hook and rules. accept_mark: (value, mask) of packets that may go into
    every bridge."""
    if accept_mark is None:
        return _CHAINS
    value, mask = accept_mark
    hook, rules = _CHAINS["inward"]
    return {**_CHAINS, "inward": (hook, (f"meta mark & {mask:#x} == {value:#x} accept", *rules))}


def ruleset(table: str, present: Chains = _CHAINS) -> str:
    """The nft script that brings the table to its present form: chains are emptied and
    filled again in the same transaction; sets keep their elements, DOCKER-USER its rules."""
    lines = [f"add table inet {table}"]
    for name, declaration in _SETS.items():
        kind, _, body = declaration.partition(" ")
        lines.append(f"add {kind} inet {table} {name} {body}")
    for name, (hook, _rules) in present.items():
        lines.append(f"add chain inet {table} {name}" + (f" {{ {hook} }}" if hook else ""))
    for name, (_hook, rules) in present.items():
        if name not in _USER_CHAINS:
            lines.append(f"flush chain inet {table} {name}")
        lines += [f"add rule inet {table} {name} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


class NftFirewall:
    """`Firewall` by nftables. accept_mark: see `chains`."""

    def __init__(self, table: str = "gantry", accept_mark: tuple[int, int] | None = None) -> None:
        self.table = table
        self._chains = chains(accept_mark)
        self._physical: list[Element] = []
        self._elements: Elements | None = None
        self._generation = -1  # of the ruleset, when it was last found whole
        self._bridges: dict[str, list[Element]] = {}
        self._ports: dict[PortRule, list[Element]] = {}
        self._links: set[LinkRule] = set()
        self._counts: Counter[Element] = Counter()  # rules may share an element

    async def start(self) -> None:
        nftables.run(ruleset(self.table, self._chains))
        self._elements = Elements(self.table)

    async def add_bridge(self, rules: BridgeRules) -> None:
        elements = _bridge_elements(rules)
        self._change(elements, self._bridges.get(rules.bridge, []))
        self._bridges[rules.bridge] = elements

    async def remove_bridge(self, bridge: str) -> None:
        self._change([], self._bridges.pop(bridge, []))

    async def publish(self, add: Sequence[PortRule], remove: Sequence[PortRule] = ()) -> None:
        counts = self._counts
        gone = [e for rule in remove for e in self._ports.get(rule, ())]
        new = {rule: _port_elements(rule) for rule in add if rule not in self._ports}
        delta = Counter(e for elements in new.values() for e in elements)
        delta.subtract(gone)
        self._change(
            [e for e, n in delta.items() if n > 0 and not counts[e]],
            [e for e, n in delta.items() if n < 0 and counts[e] + n <= 0],
        )
        counts.update(delta)
        for element in gone:
            if counts[element] <= 0:
                del counts[element]
        for rule in remove:
            self._ports.pop(rule, None)
        self._ports.update(new)

    async def link(self, add: Sequence[LinkRule], remove: Sequence[LinkRule] = ()) -> None:
        gone = [rule for rule in remove if rule in self._links]
        self._change(map(_link_element, add), map(_link_element, gone))
        self._links.difference_update(gone)
        self._links.update(add)

    async def no_router(self, version: int) -> bool:
        found = [Element(f"physical{version}", name_field(n)) for n in physical_interfaces()]
        self._change(found, [])
        self._physical += found
        return False

    async def settle(self) -> None:
        wanted = {(e.set, e.key, e.key_end) for e in self._wanted()}
        assert self._elements is not None
        stale: list[Element] = []
        for name in _SETS:
            for key, key_end, value in self._elements.keys(name):
                if (name, key, key_end) not in wanted:
                    stale.append(Element(name, key, value, key_end))
        self._change([], stale)

    @property
    def dear(self) -> bool:
        return False

    async def check(self) -> bool:
        assert self._elements is not None
        if self._elements.generation() == self._generation:
            return True
        counts = self._elements.rules()
        whole = all(
            counts.get(name, 0) == len(rules)
            for name, (_hook, rules) in self._chains.items()
            if name not in _USER_CHAINS
        )
        if whole:
            present = {
                (name, key) for name in _SETS for key, _end, _value in self._elements.keys(name)
            }
            whole = all((e.set, e.key) in present for e in self._wanted())
        if not whole:
            self._restore()
        self._generation = self._elements.generation()
        return whole

    async def close(self, *, remove: bool = False) -> None:
        if self._elements is not None:
            self._elements.close()
            self._elements = None
        if remove:
            nftables.run(f"add table inet {self.table}\ndelete table inet {self.table}\n")

    async def leave(self) -> None:
        """Another backend is used now: all goes but the user's own rules, if there are any."""
        elements = Elements(self.table)
        try:
            if not elements.exists():
                return
            kept = elements.rules().keys() & _USER_CHAINS
        finally:
            elements.close()
        lines = [f"delete table inet {self.table}"]
        if kept:
            lines = [f"flush chain inet {self.table} {name}" for name in _CHAINS.keys() - kept]
            lines += [
                f"flush {declaration.partition(' ')[0]} inet {self.table} {name}"
                for name, declaration in _SETS.items()
            ]
        nftables.run("\n".join(lines) + "\n")

    def _wanted(self) -> list[Element]:
        found = list(self._physical)
        for elements in (*self._bridges.values(), *self._ports.values()):
            found += elements
        found += map(_link_element, self._links)
        return list(dict.fromkeys(found))

    def _change(self, add: Iterable[Element], remove: Iterable[Element]) -> None:
        assert self._elements is not None, "not started"
        new, gone = dict.fromkeys(add), dict.fromkeys(remove)
        try:
            self._elements.change(add=new, remove=gone, strict=False)
        except nftables.NftablesError as error:
            if error.errno != errno.ENOENT or self._elements.exists():
                raise
            self._restore()
            self._elements.change(add=new, remove=gone, strict=False)

    def _restore(self) -> None:
        assert self._elements is not None
        _log.warning("nftables table %s was changed by another tool: restoring", self.table)
        nftables.run(ruleset(self.table, self._chains))
        self._elements.change(add=self._wanted())


def _bridge_elements(rules: BridgeRules) -> list[Element]:
    name = name_field(rules.bridge)
    if rules.shard:
        return [Element("same", name + name)]
    found = [Element("bridges", name), Element("same", name + name)]
    if not rules.icc:
        found.append(Element("apart", name + name))
    if rules.internal:
        found.append(Element("internal", name))
        return found
    for version, mode, snat, subnets in (
        ("4", rules.mode4, rules.snat4, rules.subnets4),
        ("6", rules.mode6, rules.snat6, rules.subnets6),
    ):
        found += [_subnet_element("local" + version, name, subnet) for subnet in subnets]
        if mode == "nat-unprotected":
            found.append(Element("unprotected" + version, name))
        if mode == "routed":
            found.append(Element("routed" + version, name))
        elif rules.masquerade and snat:
            found.append(Element("snat" + version, name, ip_field(snat)))
        elif rules.masquerade:
            found += [_subnet_element("masquerade" + version, name, subnet) for subnet in subnets]
    found += [Element("trusted", name_field(inward) + name) for inward in rules.trusted]
    return found


def _link_element(rule: LinkRule) -> Element:
    key = ip_field(rule.source) + ip_field(rule.target) + proto_field(rule.proto)
    return Element("links6" if ":" in rule.source else "links4", key + port_field(rule.port))


def _subnet_element(name: str, bridge: bytes, subnet: str) -> Element:
    network = ip_network(subnet)
    return Element(name, bridge + network[0].packed, key_end=bridge + network[-1].packed)


def _port_elements(rule: PortRule) -> list[Element]:
    version = "6" if ":" in rule.address else "4"
    proto, address = proto_field(rule.proto), ip_field(rule.address)
    if rule.routed or rule.trusted:
        key = address + proto
        last = key + port_field(rule.port + rule.count - 1)
        return [
            Element(
                ("open" if rule.routed else "direct") + version,
                key + port_field(rule.port),
                key_end=last,
            )
        ]
    if (":" in rule.host_ip) != (":" in rule.address):
        return []  # not for the packet filter: the userland proxy serves it
    anywhere = rule.host_ip in ("0.0.0.0", "::")
    host = b"" if anywhere else ip_field(rule.host_ip)
    first, last = port_field(rule.host_port), port_field(rule.host_port + rule.count - 1)
    found: list[Element] = []
    if rule.host_ip.startswith("127."):
        found.append(Element("loopback", host + proto + first, key_end=host + proto + last))
    if rule.count > 1 and rule.host_port == rule.port:
        low, high = _whole(version) if anywhere else (host, host)
        return [
            *found,
            Element("range" + version, low + proto + first, address, high + proto + last),
        ]
    name = "any" if anywhere else "port"
    found += [
        Element(
            name + version,
            host + proto + port_field(rule.host_port + n),
            address + port_field(rule.port + n),
        )
        for n in range(rule.count)
    ]
    return found


def _whole(version: str) -> tuple[bytes, bytes]:
    size = 4 if version == "4" else 16
    return bytes(size), b"\xff" * size


def physical_interfaces(base: str = "/sys/class/net") -> list[str]:
    """Names of the interfaces that are real devices (or a hypervisor's), and of those that lead
    to one: its VLANs, a bond, a bridge that it is in."""
    below: dict[str, set[str]] = {}
    found: set[str] = set()
    for name in os.listdir(base) if os.path.isdir(base) else ():
        with contextlib.suppress(OSError):  # one has just gone, or is "bonding_masters"
            inside = os.listdir(f"{base}/{name}")
            below[name] = {n.removeprefix("lower_") for n in inside if n.startswith("lower_")}
            if "device" in inside:
                found.add(name)
    while more := {name for name, lower in below.items() if lower & found} - found:
        found |= more
    return sorted(found)
