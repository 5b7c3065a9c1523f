"""The iptables backend, for kernels and people that want it (`"firewall-backend"`).

Chains have Docker's names, so that scripts and eyes that know dockerd's find their way;
for the same reason it cannot share a machine with a dockerd that uses iptables too.

A change is one `iptables-restore` a family: rules are counted in Python, and only those
that come or go are told. Between `start` and `settle` rules are only collected; `settle`
replaces our chains in one transaction, so that a restarted daemon interrupts nobody.

    filter FORWARD     → DOCKER-USER, DOCKER-FORWARD
    DOCKER-FORWARD     → DOCKER-CT (belongs to a connection), DOCKER-ISOLATION-STAGE-1
                         (internal, icc), DOCKER-BRIDGE (into a bridge → DOCKER),
                         DOCKER-ISOLATION-STAGE-2 (into a bridge: drop), out of one: accept
    nat PREROUTING, OUTPUT → DOCKER; nat POSTROUTING → DOCKER-POSTROUTING
    raw PREROUTING     → DOCKER-RAW (loopback addresses from outside)

`check` compares how many rules each chain has with how many it should: what another tool
flushed or took away is noticed, a rule that it added is its own business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from gantry.network.coexist import MARK
from gantry.network.firewall import BridgeRules, LinkRule, PortRule
from gantry.network.nftables import Elements

_log = logging.getLogger(__name__)

Rule = tuple[str, str, str]
"""(table, chain, the rest of the rule)."""

_CHAINS = (
    ("filter", "DOCKER"),
    ("filter", "DOCKER-FORWARD"),
    ("filter", "DOCKER-CT"),
    ("filter", "DOCKER-ISOLATION-STAGE-1"),
    ("filter", "DOCKER-ISOLATION-STAGE-2"),
    ("filter", "DOCKER-BRIDGE"),
    ("filter", "DOCKER-TRUSTED"),
    ("nat", "DOCKER"),
    ("nat", "DOCKER-POSTROUTING"),
    ("raw", "DOCKER-RAW"),
)
_USER = ("filter", "DOCKER-USER")
_JUMPS: tuple[Rule, ...] = (
    ("filter", "FORWARD", "-j DOCKER-FORWARD"),
    ("filter", "FORWARD", "-j DOCKER-USER"),
    ("nat", "PREROUTING", "-m addrtype --dst-type LOCAL -j DOCKER"),
    ("nat", "OUTPUT", "-m addrtype --dst-type LOCAL -j DOCKER"),
    ("nat", "POSTROUTING", "-j DOCKER-POSTROUTING"),
    ("raw", "PREROUTING", "-j DOCKER-RAW"),
)
_FIXED: tuple[Rule, ...] = (
    ("filter", "DOCKER-FORWARD", "-j DOCKER-CT"),
    ("filter", "DOCKER-FORWARD", "-j DOCKER-ISOLATION-STAGE-1"),
    ("filter", "DOCKER-FORWARD", "-j DOCKER-BRIDGE"),
    ("filter", "DOCKER-FORWARD", "-j DOCKER-ISOLATION-STAGE-2"),
    ("filter", "DOCKER", "-m conntrack --ctstate DNAT -j ACCEPT"),
)
_FIXED6: tuple[Rule, ...] = (  # no container could answer to these: the userland proxy serves them
    ("nat", "DOCKER", "-d ::1/128 -j RETURN"),
    ("nat", "DOCKER", "-d fe80::/10 -j RETURN"),
)


class IptablesError(OSError):
    """iptables refused; nothing was changed in the table it concerns."""


@dataclass(slots=True)
class _Family:
    """One of iptables and ip6tables. rules: with how many need each, in order of coming. drop:
    FORWARD's policy is to be that."""

    version: int
    command: str
    rules: Counter[Rule] = field(default_factory=Counter)
    usable: bool = True
    drop: bool = False


class IptablesFirewall:
    """`gantry.network.firewall.Firewall`. flavour: "", "nft" or "legacy". accept_mark:
    (value, mask) of packets that may go into every bridge."""

    def __init__(
        self, flavour: str = "", *, ipv6: bool = True, accept_mark: tuple[int, int] | None = None
    ) -> None:
        self._fixed = _FIXED
        if accept_mark is not None:
            match = f"-m mark --mark {accept_mark[0]:#x}/{accept_mark[1]:#x}"
            self._fixed = (*_FIXED, ("filter", "DOCKER", f"{match} -j ACCEPT"))
        middle = f"-{flavour}" if flavour else ""
        self._families = [_Family(4, f"iptables{middle}")]
        if ipv6:
            self._families.append(_Family(6, f"ip6tables{middle}"))
        self._settled = False
        self._bridges: dict[str, BridgeRules] = {}
        self._ports: set[PortRule] = set()
        self._links: set[LinkRule] = set()
        self._lock = asyncio.Lock()
        self._ruleset: Elements | None = None  # where iptables is nftables
        self._generation = -1  # of it, when all was last found in place

    async def start(self) -> None:
        for family in self._families:
            if shutil.which(family.command) is None:
                raise IptablesError(2, f"{family.command}: command not found")
            try:
                await _probe(family)
            except IptablesError as error:
                if family.version == 4:
                    raise
                _log.warning("IPv6 is not filtered: %s", error)
                family.usable = False
            family.rules.update(self._fixed)
            if family.version == 6:
                family.rules.update(_FIXED6)
        if "nf_tables" in await _said(self._families[0], "-V"):
            self._ruleset = Elements("filter", "ip")

    async def add_bridge(self, rules: BridgeRules) -> None:
        before = self._bridges.get(rules.bridge)
        if before == rules:
            return
        self._bridges[rules.bridge] = rules
        await self._change(
            lambda version: _bridge_rules(rules, version),
            lambda version: _bridge_rules(before, version) if before else [],
        )

    async def remove_bridge(self, bridge: str) -> None:
        before = self._bridges.pop(bridge, None)
        if before is not None:
            await self._change(lambda _: [], lambda version: _bridge_rules(before, version))

    async def publish(self, add: Sequence[PortRule], remove: Sequence[PortRule] = ()) -> None:
        new = [rule for rule in add if rule not in self._ports]
        gone = [rule for rule in remove if rule in self._ports]
        await self._change(
            lambda version: [r for rule in new for r in _port_rules(rule, version)],
            lambda version: [r for rule in gone for r in _port_rules(rule, version)],
        )
        self._ports.difference_update(gone)
        self._ports.update(new)

    async def link(self, add: Sequence[LinkRule], remove: Sequence[LinkRule] = ()) -> None:
        new = [rule for rule in add if rule not in self._links]
        gone = [rule for rule in remove if rule in self._links]
        await self._change(
            lambda version: [r for rule in new for r in _link_rules(rule, version)],
            lambda version: [r for rule in gone for r in _link_rules(rule, version)],
        )
        self._links.difference_update(gone)
        self._links.update(new)

    async def no_router(self, version: int) -> bool:
        """By FORWARD's policy, as dockerd does it."""
        async with self._lock:
            for family in self._families:
                if family.version == version and family.usable:
                    family.drop = "-P FORWARD ACCEPT" in await _said(family, "-S", "FORWARD")
                    if family.drop:
                        await _run(family, "-P", "FORWARD", "DROP")
                    return family.drop
        return False

    async def settle(self) -> None:
        async with self._lock:
            for family in self._families:
                await self._replace(family)
            self._settled = True

    @property
    def dear(self) -> bool:
        return self._ruleset is None

    async def check(self) -> bool:
        async with self._lock:
            generation = -1 if self._ruleset is None else self._ruleset.generation()
            if generation == self._generation >= 0:
                return True
            whole = True
            for family in self._families:
                if family.usable and not await _in_place(family):
                    _log.warning("%s: our chains are gone; restoring", family.command)
                    await self._replace(family)
                    whole = False
            self._generation = generation if whole else -1
            return whole

    async def close(self, *, remove: bool = False) -> None:
        if self._ruleset is not None:
            self._ruleset.close()
            self._ruleset = None
        if remove:
            await self._remove(_JUMPS, (*_CHAINS, _USER))
            for family in self._families:
                if family.drop:
                    await _run(family, "-P", "FORWARD", "ACCEPT")

    async def leave(self, policies: str = "") -> None:
        """Another backend is used now: all goes but the user's own rules, with which nobody
        but the user knows what is meant. policies: versions whose policy `no_router` changed."""
        jumps = [jump for jump in _JUMPS if not jump[2].endswith(_USER[1])]
        await self._remove(jumps, _CHAINS)
        for family in self._families:
            if str(family.version) in policies:
                await _run(family, "-P", "FORWARD", "ACCEPT")

    async def _remove(self, jumps: Iterable[Rule], chains: Iterable[tuple[str, str]]) -> None:
        for family in self._families:
            if shutil.which(family.command) is None:
                continue
            for table, chain, rest in jumps:
                await _run(family, "-t", table, "-D", chain, *rest.split())
            for action in ("-F", "-X"):
                for table, chain in chains:
                    await _run(family, "-t", table, action, chain)

    async def _change(
        self, add: Callable[[int], Iterable[Rule]], remove: Callable[[int], Iterable[Rule]]
    ) -> None:
        async with self._lock:
            for family in self._families:
                delta = Counter(add(family.version))
                delta.subtract(remove(family.version))
                before = family.rules
                lines = [
                    (rule, "-D" if number < 0 else "-A")
                    for rule, number in delta.items()
                    if (number > 0 and not before[rule])
                    or (number < 0 < before[rule] and before[rule] + number <= 0)
                ]
                if self._settled and family.usable and lines:
                    lines.sort(key=lambda line: line[1] == "-A")
                    await _restore(family, _script(lines))
                before.update(delta)
                for rule in delta:
                    if before[rule] <= 0:
                        del before[rule]

    async def _replace(self, family: _Family) -> None:
        """Our chains with all that is wanted, and the jumps to them, at once."""
        if not family.usable:
            return
        present = (await _said(family, "-S")).splitlines()
        user = f"-N {_USER[1]}" in present
        lines: dict[str, list[str]] = {"filter": [], "nat": [], "raw": []}
        # What the nftables backend once needed beside another firewall would undo all of ours.
        lines["filter"] += [f"-D{line[2:]}" for line in present if line.endswith(MARK)]
        for table, chain in _CHAINS:
            lines[table].append(f":{chain} - [0:0]")
        if family.drop:
            lines["filter"].append(":FORWARD DROP [0:0]")
        if not user:
            lines["filter"].append(":DOCKER-USER - [0:0]")
        for table, chain, rest in _JUMPS:
            if await _run(family, "-t", table, "-C", chain, *rest.split()) != 0:
                lines[table].append(f"-I {chain} 1 {rest}")
        for table, chain, rest in family.rules:
            lines[table].append(f"-A {chain} {rest}")
        text = "".join(
            f"*{table}\n" + "".join(f"{line}\n" for line in own) + "COMMIT\n"
            for table, own in lines.items()
        )
        await _restore(family, text)


def _script(lines: Iterable[tuple[Rule, str]]) -> str:
    tables: dict[str, list[str]] = {}
    for (table, chain, rest), action in lines:
        tables.setdefault(table, []).append(f"{action} {chain} {rest}\n")
    return "".join(f"*{table}\n{''.join(own)}COMMIT\n" for table, own in tables.items())


def _bridge_rules(rules: BridgeRules, version: int) -> list[Rule]:
    name = rules.bridge
    icc = "ACCEPT" if rules.icc or rules.shard else "DROP"
    found: list[Rule] = [("filter", "DOCKER-ISOLATION-STAGE-1", f"-i {name} -o {name} -j {icc}")]
    if rules.shard:
        return found
    state = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    found += [
        ("filter", "DOCKER-CT", f"-i {name} {state}"),
        ("filter", "DOCKER-CT", f"-o {name} {state}"),
    ]
    if version == 4:
        for end in ("s", "d"):
            found.append(("raw", "DOCKER-RAW", f"-{end} 127.0.0.0/8 -i {name} -j DROP"))
    if rules.internal:
        stage = "DOCKER-ISOLATION-STAGE-1"
        found += [
            ("filter", stage, f"-i {name} ! -o {name} -j DROP"),
            ("filter", stage, f"! -i {name} -o {name} -j DROP"),
        ]
        return found
    mode = rules.mode4 if version == 4 else rules.mode6
    found += [("filter", "DOCKER-BRIDGE", f"-o {name} -j DOCKER")]
    if mode == "nat-unprotected":
        found.append(("filter", "DOCKER-BRIDGE", f"-o {name} -j ACCEPT"))
    if mode == "routed":
        icmp = "icmp" if version == 4 else "ipv6-icmp"
        found.append(("filter", "DOCKER-BRIDGE", f"-o {name} -p {icmp} -j ACCEPT"))
    found += [
        ("filter", "DOCKER-BRIDGE", f"-i {inward} -o {name} -j DOCKER-TRUSTED")
        for inward in rules.trusted
    ]
    found += [
        ("filter", "DOCKER-ISOLATION-STAGE-2", f"-o {name} -j DROP"),
        ("filter", "DOCKER-FORWARD", f"-i {name} -j ACCEPT"),
    ]
    return found + _nat_rules(rules, version, mode)


def _nat_rules(rules: BridgeRules, version: int, mode: str) -> list[Rule]:
    name, chain = rules.bridge, "DOCKER-POSTROUTING"
    found: list[Rule] = []
    if version == 4:
        found.append(("nat", chain, f"-s 127.0.0.0/8 -o {name} -j MASQUERADE"))
    snat = rules.snat4 if version == 4 else rules.snat6
    target = f"SNAT --to-source {snat}" if snat else "MASQUERADE"
    for subnet in rules.subnets4 if version == 4 else rules.subnets6:
        network = ip_network(subnet)
        found.append(
            ("nat", chain, f"-s {network} -o {name} -m conntrack --ctstate DNAT -j MASQUERADE")
        )
        if rules.masquerade and mode != "routed":
            found.append(("nat", chain, f"-s {network} ! -o {name} -j {target}"))
    return found


def _port_rules(rule: PortRule, version: int) -> list[Rule]:
    if (6 if ":" in rule.address else 4) != version:
        return []
    last = rule.port + rule.count - 1
    if rule.routed or rule.trusted:
        span = f"{rule.port}:{last}" if rule.count > 1 else f"{rule.port}"
        chain = "DOCKER" if rule.routed else "DOCKER-TRUSTED"
        return [("filter", chain, f"-d {rule.address} -p {rule.proto} --dport {span} -j ACCEPT")]
    if (":" in rule.host_ip) != (":" in rule.address):
        return []
    where = "" if rule.host_ip in ("0.0.0.0", "::") else f"-d {rule.host_ip} "
    span = f"{rule.host_port}"
    if rule.count > 1:
        span += f":{rule.host_port + rule.count - 1}"
    match = f"{where}-p {rule.proto} --dport {span}"
    shown = f"[{rule.address}]" if version == 6 else rule.address
    to = f"{shown}:{rule.port}"
    if rule.count > 1:
        to = rule.address if rule.port == rule.host_port else f"{to}-{last}/{rule.host_port}"
    found: list[Rule] = [("nat", "DOCKER", f"{match} -j DNAT --to-destination {to}")]
    if rule.host_ip.startswith("127."):
        found.append(("raw", "DOCKER-RAW", f"{match} ! -i lo -j DROP"))
    return found


def _link_rules(rule: LinkRule, version: int) -> list[Rule]:
    if (6 if ":" in rule.source else 4) != version:
        return []
    match = f"-s {rule.source} -d {rule.target} -p {rule.proto} --dport {rule.port}"
    back = f"-s {rule.target} -d {rule.source} -p {rule.proto} --sport {rule.port}"
    return [("filter", "DOCKER-CT", f"{one} -j ACCEPT") for one in (match, back)]


async def _probe(family: _Family) -> None:
    """Whether the kernel can do all that is needed: a chain of it is made and removed."""
    target = "127.0.0.1" if family.version == 4 else "[::1]"
    rules = {
        "nat": (
            f"-p tcp --dport 1 -j DNAT --to-destination {target}:1",
            "-m addrtype --dst-type LOCAL -j RETURN",
        ),
        "filter": ("-m conntrack --ctstate DNAT -j ACCEPT",),
        "raw": ("-i lo -j DROP",),
    }
    made = "".join(
        f"*{table}\n:GANTRY-PROBE - [0:0]\n"
        + "".join(f"-A GANTRY-PROBE {rule}\n" for rule in own)
        + "COMMIT\n"
        for table, own in rules.items()
    )
    try:
        await _restore(family, made)
    finally:
        for table in rules:
            for action in ("-F", "-X"):
                await _run(family, "-t", table, action, "GANTRY-PROBE")


async def _in_place(family: _Family) -> bool:
    """Whether nobody has taken anything away."""
    found: Counter[tuple[str, str]] = Counter()
    jumps: set[Rule] = set()
    table = ""
    for line in (await _call(f"{family.command}-save")).stdout.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A "):
            _, chain, rest = line.split(" ", 2)
            found[table, chain] += 1
            jumps.add((table, chain, rest))
    wanted = Counter((table, chain) for table, chain, _ in family.rules)
    return jumps.issuperset(_JUMPS) and wanted <= found


async def _said(family: _Family, *arguments: str) -> str:
    return (await _call(family.command, "-w", *arguments)).stdout


async def _run(family: _Family, *arguments: str) -> int:
    """Its exit status."""
    return (await _call(family.command, "-w", *arguments)).returncode


async def _restore(family: _Family, script: str) -> None:
    done = await _call(f"{family.command}-restore", "-w", "--noflush", script=script)
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        text = " ".join(said[:2]) or os.strerror(5)
        raise IptablesError(5, f"{family.command}-restore: {text}")


async def _call(*words: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without holding anybody up. script: its standard input."""

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            input=script,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )

    return await asyncio.get_running_loop().run_in_executor(None, call)
