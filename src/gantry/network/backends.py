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
    """A backend that has, or had, rules of ours."""

    backend: str
    table: str

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
    return [_Used(row[0], row[1]) for row in rows if len(row) == 2 and row[0] in NAMES]


def _write(path: str, used: Sequence[_Used]) -> None:
    if not path:
        return
    with contextlib.suppress(OSError):
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.writelines(f"{one.backend} {one.table}\n" for one in used)
        os.replace(path + ".new", path)


class ChosenFirewall:
    """A `Firewall` that settles on a backend at `start`: the one that was asked for, or
    the next one that this kernel can do.

    backend: "" or one of NAMES. apart, accept_mark: see `NftFirewall`; the latter is
    "VALUE" or "VALUE/MASK" (dockerd's --bridge-accept-fwmark). note: a file for what is in
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
        self.apart: Sequence[str] = ()
        self._wanted = backend
        self._table = table
        self._ipv6 = ipv6
        self._mark = parse_mark(accept_mark) if accept_mark else None
        self._chosen: Firewall | None = None
        self._note = note
        self._former: list[_Used] = []

    def _candidates(self) -> Sequence[str]:
        if self._wanted in ("iptables-nft", "iptables-legacy"):
            return (self._wanted,)
        return NAMES if self._wanted in ("", "nftables") else NAMES[1:]

    def _make(self, name: str, table: str) -> NftFirewall | IptablesFirewall:
        if name == "nftables":
            return NftFirewall(table, self.apart, self._mark)
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
            now = _Used(name, self._table)
            self._former = [one for one in used if not one.same(now)]
            _write(self._note, [*self._former, now])
            return
        raise System("no firewall backend works: " + "; ".join(refused))

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
            try:
                await self._make(one.backend, one.table).leave()
            except OSError as error:
                _log.warning("what %s did before stays: %s", one.backend, error)
        self._former = []
        _write(self._note, [_Used(self.backend, self._table)])

    async def check(self) -> bool:
        return await self._now.check()

    async def close(self, *, remove: bool = False) -> None:
        if self._chosen is not None:
            await self._chosen.close(remove=remove)
