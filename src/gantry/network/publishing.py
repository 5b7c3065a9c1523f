"""A container's published ports as one thing: held, translated, proxied; or none of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence

from gantry.ipc.owner import TaskOwner
from gantry.model.network import PublishedPort
from gantry.network import conntrack
from gantry.network.firewall import Firewall, PortRule
from gantry.network.proxy import UserlandProxy
from gantry.network.publish import Held, HostPorts, PortRequest, merge_ranges

_MANY = 64  # from here on binding sockets would hold a container's start up
_LATER = 0.05  # seconds: a start is over by then


class Publication:
    """What `Publisher.publish` gave; handed back to `change` and `withdraw`.

    target: the container's address for the userland proxy.
    """

    def __init__(self, held: list[Held], rules: list[PortRule], target: str) -> None:
        self.held = held
        self.rules = rules
        self.target = target
        self.holding: asyncio.Task[None] | None = None

        self.published: tuple[PublishedPort, ...] = merge_ranges(held)


class Publisher:
    """Publishes ports by the register, the packet filter and the userland proxy together."""

    def __init__(
        self, firewall: Firewall | None, ports: HostPorts, owner: TaskOwner, *, proxy: bool
    ) -> None:
        self._firewall = firewall
        self._ports = ports
        self._owner = owner
        self._proxy = UserlandProxy(owner) if proxy else None

    async def publish(
        self,
        requests: Sequence[PortRequest],
        ipv4: str,
        ipv6: str,
        *,
        routed4: bool = False,
        routed6: bool = False,
        opened: Sequence[tuple[str, bool]] = (),
    ) -> Publication:
        """Make the container's ports reachable. System, and nothing done, when one is taken.

        ipv4, ipv6: the container's addresses, "" where it has none that is reachable so.
        routed4, routed6: no translation in that family. opened: addresses of the container
        at which its ports are open to packets that are routed there, and whether only to
        those from trusted interfaces.
        """
        return await self.change(
            Publication([], [], ""),
            requests,
            ipv4,
            ipv6,
            routed4=routed4,
            routed6=routed6,
            opened=opened,
        )

    async def change(
        self,
        old: Publication,
        requests: Sequence[PortRequest],
        ipv4: str,
        ipv6: str,
        *,
        routed4: bool = False,
        routed6: bool = False,
        opened: Sequence[tuple[str, bool]] = (),
    ) -> Publication:
        """Publish `requests` instead of what `old` has; what is in both goes on undisturbed.
        On error `old` stays as it was."""
        bound = list(requests)
        if routed4 or routed6:
            bound = [r for r in (_bound(r, routed4, routed6) for r in requests) if r is not None]
        kept, new = _match(old.held, bound) if old.held else ([], bound)
        many = len(new) > _MANY and all(r.first and r.first == r.last for r in new)
        await _held(old)
        fresh = self._ports.reserve(new) if many else await self._acquire(new)
        changed = Publication(kept + fresh, [], ipv4 or ipv6)
        rules = _rules(changed.published, ipv4, ipv6)
        rules += _open(requests, opened)
        try:
            if self._firewall is not None:
                present, wanted = set(old.rules), set(rules)
                await self._firewall.publish(
                    [rule for rule in rules if rule not in present],
                    [rule for rule in old.rules if rule not in wanted],
                )
        except BaseException:
            self._ports.release(fresh)
            raise
        staying = set(map(id, kept))
        gone = [one for one in old.held if id(one) not in staying]
        if self._proxy is not None:
            moved = kept if changed.target != old.target else []
            self._proxy.stop([*gone, *moved])
            self._proxy.serve([*fresh, *moved] if not many else moved, changed.target)
        if many:
            changed.holding = self._owner.spawn(self._hold(changed, fresh), "hold ports")
        self._ports.release(gone)
        old.held, old.rules = [], []
        changed.rules = rules
        changed.published += tuple(_unbound(requests, routed4, routed6))
        self._forget([*fresh, *gone])
        return changed

    async def _hold(self, publication: Publication, held: Sequence[Held]) -> None:
        """Bind the sockets of many ports, when the container's start is over."""
        await asyncio.sleep(_LATER)
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(None, self._ports.hold, held))
        if self._proxy is not None:
            self._proxy.serve(held, publication.target)

    async def let_go(self, publication: Publication) -> None:
        """Close the sockets, leave the rules: the daemon ends, the container goes on."""
        await _held(publication)
        if self._proxy is not None:
            self._proxy.stop(publication.held)
        held, publication.held = publication.held, []
        self._ports.release(held)

    async def withdraw(self, publication: Publication) -> None:
        """Idempotent."""
        held = publication.held
        await self.let_go(publication)
        rules, publication.rules = publication.rules, []
        if rules and self._firewall is not None:
            await self._firewall.publish((), rules)
            self._forget(held)

    def _forget(self, held: Sequence[Held]) -> None:
        """Flows from before must not be led where they were."""
        ports = frozenset(one.host_port for one in held if one.proto == "udp")
        if not ports:
            return

        async def forget() -> None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, conntrack.forget_udp, ports)

        with contextlib.suppress(RuntimeError):  # closing down
            self._owner.spawn(forget(), "forget flows")

    async def _acquire(self, requests: Sequence[PortRequest]) -> list[Held]:
        if len(requests) <= _MANY:
            return self._ports.acquire(requests)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._ports.acquire, requests)


async def _held(publication: Publication) -> None:
    """Sockets are not closed while another thread binds them."""
    task, publication.holding = publication.holding, None
    if task is not None:
        await asyncio.wait({task})


def _bound(request: PortRequest, routed4: bool, routed6: bool) -> PortRequest | None:
    """The request for the addresses of the host that are really bound."""
    hosts = tuple(h for h in request.hosts if not (routed6 if ":" in h else routed4))
    if not hosts:
        return None
    return request if hosts == request.hosts else request._replace(hosts=hosts)


def _unbound(
    requests: Iterable[PortRequest], routed4: bool, routed6: bool
) -> Iterator[PublishedPort]:
    """What is shown of ports that are reached by routing only: no port of the host (0)."""
    for request in requests:
        for host in request.hosts:
            if routed6 if ":" in host else routed4:
                yield PublishedPort(request.proto, host, 0, request.port)


def _match(
    held: Sequence[Held], requests: Sequence[PortRequest]
) -> tuple[list[Held], list[PortRequest]]:
    """Which held ports serve which requests already, and the requests that none serves."""
    known: dict[tuple[str, int, tuple[str, ...]], list[Held]] = {}
    for one in held:
        known.setdefault((one.proto, one.port, one.hosts), []).append(one)
    kept: list[Held] = []
    new: list[PortRequest] = []
    for request in requests:
        candidates = known.get((request.proto, request.port, request.hosts), [])
        fitting = next(
            (
                one
                for one in candidates
                if not request.first or request.first <= one.host_port <= request.last
            ),
            None,
        )
        if fitting is None:
            new.append(request)
        else:
            candidates.remove(fitting)
            kept.append(fitting)
    return kept, new


def _rules(published: Iterable[PublishedPort], ipv4: str, ipv6: str) -> list[PortRule]:
    rules: list[PortRule] = []
    for one in published:
        address = ipv6 if ":" in one.host_ip else ipv4
        if address:
            rules.append(
                PortRule(one.proto, one.host_ip, one.host_port, address, one.port, one.count)
            )
    return rules


def _open(requests: Iterable[PortRequest], addresses: Sequence[tuple[str, bool]]) -> list[PortRule]:
    return [
        PortRule(request.proto, "", 0, address, request.port, routed=not only, trusted=only)
        for request in requests
        for address, only in addresses
    ]


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
