"""Choosing the packet filter's backend, when the daemon starts.

An earlier daemon may have used another one, whose rules lead to containers that are gone. What
is in use is noted, and what is no longer used is taken away once the present one has all rules
in place.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from gantry.model.errors import InvalidParameter, System
from gantry.network.firewall import BridgeRules, Firewall, LinkRule, PortRule
from gantry.network.iptables import IptablesFirewall
from gantry.network.nft import NftFirewall

_log = logging.getLogger(__name__)

NAMES = ("nftables", "iptables", "iptables-nft", "iptables-legacy")


def parse_mark(text: str) -> tuple[int, int]:
    """(value, mask). InvalidParameter."""
    value, slash, mask = text.partition("/")
    try:
        found = int(value, 0), int(mask, 0) if slash else 0xFFFFFFFF
    except ValueError:
        found = -1, -1
    if not all(0 <= number <= 0xFFFFFFFF for number in found):
        raise InvalidParameter(f"invalid firewall mark {text!r}: it must be VALUE or VALUE/MASK")
    return found


@dataclass(frozen=True, slots=True)
class _Used:
    """A backend that has, or had, rules of ours. policies: see `IptablesFirewall.leave`."""

    backend: str
    table: str
    policies: str = ""

    def same(self, other: _Used) -> bool:
        """Whether both speak of the same rules: iptables has no table that is ours alone."""
        return self.backend == other.backend and (
            self.backend != "nftables" or self.table == other.table
        )


def _read(path: str) -> list[_Used]:
    try:
        with open(path, encoding="utf-8") as file:
            rows = [line.split() for line in file]
    except OSError:
        return []
    return [_Used(*row) for row in rows if len(row) in (2, 3) and row[0] in NAMES]


class ChosenFirewall:
    """A `Firewall` that settles on a backend at `start`: the one that was asked for, or
    the next one that this kernel can do.

    backend: "" or one of NAMES. accept_mark: "VALUE" or "VALUE/MASK" of packets that may go
    into every bridge (dockerd's --bridge-accept-fwmark). note: a file for what is in
    use, that does not outlast the machine's run; "" for none.
    """

    def __init__(
        self,
        backend: str,
        table: str,
        *,
        ipv6: bool = True,
        accept_mark: str = "",
        note: str = "",
    ) -> None:
        if backend not in ("", *NAMES):
            raise InvalidParameter(
                f'invalid firewall-backend "{backend}": must be one of {", ".join(NAMES)}'
            )
        self.backend = ""
        self._wanted = backend
        self._table = table
        self._ipv6 = ipv6
        self._mark = parse_mark(accept_mark) if accept_mark else None
        self._chosen: Firewall | None = None
        self._note = note
        self._former: list[_Used] = []
        self._policies = ""

    def _candidates(self) -> Sequence[str]:
        if self._wanted in ("iptables-nft", "iptables-legacy"):
            return (self._wanted,)
        return NAMES if self._wanted in ("", "nftables") else NAMES[1:]

    def _make(self, name: str, table: str) -> NftFirewall | IptablesFirewall:
        if name == "nftables":
            return NftFirewall(table, self._mark)
        flavour = name.partition("-")[2]
        return IptablesFirewall(flavour, ipv6=self._ipv6, accept_mark=self._mark)

    async def start(self) -> None:
        refused: list[str] = []
        used = _read(self._note)
        for name in self._candidates():
            backend = self._make(name, self._table)
            try:
                await backend.start()
            except OSError as error:
                refused.append(f"{name}: {error.strerror or error}")
                continue
            if refused:
                _log.warning("firewall: using %s (%s)", name, "; ".join(refused))
            self.backend, self._chosen = name, backend
            for one in used:
                if one.same(self._used):
                    self._policies = one.policies
            self._former = [one for one in used if not one.same(self._used)]
            self._remember()
            return
        raise System("no firewall backend works: " + "; ".join(refused))

    @property
    def _used(self) -> _Used:
        return _Used(self.backend, self._table, self._policies)

    def _remember(self) -> None:
        if not self._note:
            return
        with contextlib.suppress(OSError):
            with open(self._note + ".new", "w", encoding="utf-8") as file:
                for one in (*self._former, self._used):
                    file.write(f"{one.backend} {one.table} {one.policies}\n")
            os.replace(self._note + ".new", self._note)

    @property
    def _now(self) -> Firewall:
        assert self._chosen is not None, "the firewall was not started"
        return self._chosen

    async def add_bridge(self, rules: BridgeRules) -> None:
        await self._now.add_bridge(rules)

    async def remove_bridge(self, bridge: str) -> None:
        await self._now.remove_bridge(bridge)

    async def publish(self, add: Sequence[PortRule], remove: Sequence[PortRule] = ()) -> None:
        await self._now.publish(add, remove)

    async def link(self, add: Sequence[LinkRule], remove: Sequence[LinkRule] = ()) -> None:
        await self._now.link(add, remove)

    async def settle(self) -> None:
        await self._now.settle()
        for one in self._former:
            former = self._make(one.backend, one.table)
            try:
                if isinstance(former, IptablesFirewall):
                    await former.leave(one.policies)
                else:
                    await former.leave()
            except OSError as error:
                _log.warning("what %s did before stays: %s", one.backend, error)
        self._former = []
        self._remember()

    async def no_router(self, version: int) -> bool:
        changed = await self._now.no_router(version)
        if changed and str(version) not in self._policies:
            self._policies += str(version)
            self._remember()
        return changed

    @property
    def dear(self) -> bool:
        return self._now.dear

    async def check(self) -> bool:
        return await self._now.check()

    async def close(self, *, remove: bool = False) -> None:
        if self._chosen is not None:
            await self._chosen.close(remove=remove)
