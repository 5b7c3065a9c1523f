"""A container's published ports as one thing: held, translated, proxied; or none of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from gantry.ipc.owner import TaskOwner
from gantry.model.network import PublishedPort
from gantry.network.firewall import Firewall, PortRule
from gantry.network.proxy import UserlandProxy
from gantry.network.publish import Held, HostPorts, PortRequest, merge_ranges

_MANY = 64  # from here on binding sockets would hold the event loop up for a millisecond


class Publication:
    """What `Publisher.publish` gave; handed back to `withdraw`."""

    def __init__(self, held: list[Held], rules: list[PortRule], proxied: bool) -> None:
        self.held = held
        self.rules = rules
        self.proxied = proxied
        self.published: tuple[PublishedPort, ...] = merge_ranges(held)


class Publisher:
    def __init__(
        self, firewall: Firewall | None, ports: HostPorts, owner: TaskOwner, *, proxy: bool
    ) -> None:
        self._firewall = firewall
        self._ports = ports
        self._proxy = UserlandProxy(owner) if proxy else None

    async def publish(
        self, requests: Sequence[PortRequest], ipv4: str, ipv6: str, *, routed: bool = False
    ) -> Publication:
        """Make the container's ports reachable. System, and nothing done, when one is taken."""
        if len(requests) > _MANY:
            loop = asyncio.get_running_loop()
            held = await loop.run_in_executor(None, self._ports.acquire, requests)
        else:
            held = self._ports.acquire(requests)
        try:
            publication = Publication(held, _rules(merge_ranges(held), ipv4, ipv6), False)
            if self._firewall is not None:
                await self._firewall.publish(publication.rules)
        except BaseException:
            self._ports.release(held)
            raise
        if self._proxy is not None:
            self._proxy.serve(held, ipv4 or ipv6)
            publication.proxied = True
        return publication

    def let_go(self, publication: Publication) -> None:
        """Close the sockets, leave the rules: the daemon ends, the container goes on."""
        if publication.proxied and self._proxy is not None:
            self._proxy.stop(publication.held)
            publication.proxied = False
        held, publication.held = publication.held, []
        self._ports.release(held)

    async def withdraw(self, publication: Publication) -> None:
        """Idempotent."""
        self.let_go(publication)
        rules, publication.rules = publication.rules, []
        if rules and self._firewall is not None:
            await self._firewall.publish((), rules)


def _rules(published: Iterable[PublishedPort], ipv4: str, ipv6: str) -> list[PortRule]:
    rules: list[PortRule] = []
    for one in published:
        address = ipv6 if ":" in one.host_ip else ipv4
        if address:
            rules.append(
                PortRule(one.proto, one.host_ip, one.host_port, address, one.port, one.count)
            )
    return rules


def again(published: Iterable[PublishedPort]) -> list[PortRequest]:
    """The requests that publish the very same ports once more (after a daemon's restart)."""
    hosts: dict[tuple[str, int, int], list[str]] = {}
    for one in published:
        for n in range(one.count):
            key = (one.proto, one.port + n, one.host_port + n)
            hosts.setdefault(key, []).append(one.host_ip)
    return [
        PortRequest(proto, port, tuple(addresses), host_port, host_port)
        for (proto, port, host_port), addresses in hosts.items()
    ]
