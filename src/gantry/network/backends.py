"""Choosing the packet filter's backend, when the daemon starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

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


class ChosenFirewall:
    """A `Firewall` that settles on a backend at `start`: the one that was asked for, or
    the next one that this kernel can do.

    backend: "" or one of NAMES. apart, accept_mark: see `NftFirewall`; the latter is
    "VALUE" or "VALUE/MASK" (dockerd's --bridge-accept-fwmark).
    """

    def __init__(
        self, backend: str, table: str, *, ipv6: bool = True, accept_mark: str = ""
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

    def _candidates(self) -> list[tuple[str, Callable[[], Firewall]]]:
        def iptables(flavour: str) -> Callable[[], Firewall]:
            return lambda: IptablesFirewall(flavour, ipv6=self._ipv6, accept_mark=self._mark)

        every: list[tuple[str, Callable[[], Firewall]]] = [
            ("nftables", lambda: NftFirewall(self._table, self.apart, self._mark)),
            ("iptables", iptables("")),
            ("iptables-nft", iptables("nft")),
            ("iptables-legacy", iptables("legacy")),
        ]
        if self._wanted in ("iptables-nft", "iptables-legacy"):
            return [pair for pair in every if pair[0] == self._wanted]
        return every if self._wanted in ("", "nftables") else every[1:]

    async def start(self) -> None:
        refused: list[str] = []
        for name, make in self._candidates():
            backend = make()
            try:
                await backend.start()
            except OSError as error:
                refused.append(f"{name}: {error.strerror or error}")
                continue
            if refused:
                _log.warning("firewall: using %s (%s)", name, "; ".join(refused))
            self.backend, self._chosen = name, backend
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

    async def check(self) -> bool:
        return await self._now.check()

    async def close(self, *, remove: bool = False) -> None:
        if self._chosen is not None:
            await self._chosen.close(remove=remove)
