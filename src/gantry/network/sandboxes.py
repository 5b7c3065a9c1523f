"""Containers' sandboxes: endpoints, the way out, published ports, names.

One `Live` a running container. What a start, a connect or a disconnect changes is
planned first (addresses, names, who is the gateway) and undone in reverse when a later
step fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from gantry.ipc.owner import TaskOwner
from gantry.model.errors import (
    Conflict,
    Forbidden,
    GantryError,
    InvalidParameter,
    NotFound,
    System,
)
from gantry.model.network import (
    EndpointConfig,
    EndpointState,
    NetworkRecord,
    SandboxRequest,
    SandboxState,
)
from gantry.network import endpoints, interfaces, netlink, netns
from gantry.network.announce import Announcer
from gantry.network.bridge import BridgeDriver
from gantry.network.catalog import Catalog
from gantry.network.drivers import Driver, Wanted
from gantry.network.exposure import Exposure
from gantry.network.firewall import Firewall, LinkRule
from gantry.network.ipam import DefaultIpam, Ipam, NoAddresses
from gantry.network.live import Live
from gantry.network.naming import Naming
from gantry.network.netns import Namespaces
from gantry.network.pool import Pool
from gantry.network.publish import parse_container_port
from gantry.network.publishing import again
from gantry.network.settings import NetworkSettings
from gantry.network.visible import Visible

_log = logging.getLogger(__name__)

_REAP_DELAY = 0.3  # seconds that a dead namespace gets to go by itself
SHARED = (
    "container sharing network namespace with another container or host cannot be connected to"
    " any other network"
)


def request_name(live: Live) -> str:
    return live.request.container_id[:12]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sandbox with an interface in the default bridge, that nobody uses yet."""

    netns_fd: int
    state: EndpointState


class Sandboxes:
    """See the module. `drivers`: by network, looked up by the service."""

    def __init__(
        self,
        *,
        settings: NetworkSettings,
        catalog: Catalog,
        namespaces: Namespaces,
        owner: TaskOwner,
        visible: Visible,
        firewall: Firewall | None,
        naming: Naming,
        exposure: Exposure,
        announcer: Announcer,
        driver_of: Callable[[NetworkRecord], Driver],
        ipam_of: Callable[[NetworkRecord], Ipam],
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._namespaces = namespaces
        self._owner = owner
        self._visible = visible
        self._firewall = firewall
        self._naming = naming
        self._exposure = exposure
        self._announcer = announcer
        self._driver_of = driver_of
        self._ipam_of = ipam_of
        self._pool: Pool[Prepared] | None = None
        self._dying: list[EndpointState] = []
        self._reaping: asyncio.Task[None] | None = None
        self._reap_lock = asyncio.Lock()
        self.live: dict[str, Live] = {}

    # --- life --------------------------------------------------------------------------

    def start_pool(self, size: int) -> None:
        """Make sandboxes for the default bridge ahead."""
        self._pool = Pool(size, self._prepare, self._discard, self._owner, "default bridge")
        self._pool.fill()

    async def ready(self) -> None:
        if self._pool is not None:
            await self._pool.filled()

    async def close(self) -> None:
        """Let go of all; running containers keep their networks."""
        if self._pool is not None:
            await self._pool.close()
        if self._reaping is not None:
            self._reaping.cancel()
        await self.reap()
        for live in self.live.values():
            await self._exposure.let_go(live)
            self._naming.stop(live, lift=False)
            if live.netns_fd >= 0:
                os.close(live.netns_fd)
        self.live.clear()

    def members(self, record: NetworkRecord) -> list[tuple[str, str, EndpointState]]:
        """(container id, its name, its endpoint) of all that run in the network."""
        return [
            (container, live.request.name, state)
            for container, live in self.live.items()
            for state in live.endpoints.values()
            if state.network_id == record.id
        ]

    def in_use(self, record: NetworkRecord) -> bool:
        return any(
            state.network_id == record.id
            for live in self.live.values()
            for state in live.endpoints.values()
        )

    # --- a container's start and end -----------------------------------------------------

    async def allocate(self, request: SandboxRequest) -> Live:
        """A sandbox with all endpoints that the request names; on error nothing is left."""
        if request.container_id in self.live:
            raise Conflict(f"container {request.container_id} already has a network sandbox")
        live = Live(request)
        self.live[request.container_id] = live
        try:
            async with live.lock:
                await self._fill(live)
        except OSError as error:
            await self.release(request.container_id)
            raise System(f"failed to set up container networking: {error}") from error
        except BaseException:
            await self.release(request.container_id)
            raise
        return live

    async def _fill(self, live: Live) -> None:
        request = live.request
        plans = endpoints.planned(request, self._catalog)
        for record, config in plans:
            endpoints.check(record, config)
        self._visible.linked(request, strict=True)
        alone = len(plans) == 1
        for record, config in plans:
            driver = self._driver_of(record)
            if live.netns_fd < 0 and request.ipv6 and self._poolable(record, config):
                await self._take(live, record, config)
            elif live.netns_fd < 0 and isinstance(driver, BridgeDriver):
                await self._attach(live, record, config, alone=alone, make=driver)
            else:
                if live.netns_fd < 0:
                    live.netns_fd = await self._bare()
                await self._attach(live, record, config, alone=alone)
        if live.netns_fd < 0:
            live.netns_fd = await self._bare()
        await self._settle(live, routed=alone)
        await self._link(live)

    async def _link(self, live: Live) -> None:
        """Legacy links are exceptions where containers are kept from each other."""
        own = live.endpoints.get("bridge")
        if own is None or self._settings.icc or self._firewall is None:
            return
        for linked in self._visible.linked(live.request):
            for port in linked.ports:
                number, proto = parse_container_port(port)
                for source, target in ((own.ip, linked.ip), (own.ipv6, linked.ipv6)):
                    if source and target:
                        live.links.append(LinkRule(source, target, proto, number))
        await self._firewall.link(live.links)

    async def relink(self, live: Live) -> None:
        """The exceptions for legacy links, with the addresses that their targets have now."""
        async with live.lock:
            old, live.links = live.links, []
            await self._link(live)
            gone = [rule for rule in old if rule not in live.links]
            if gone and self._firewall is not None:
                await self._firewall.link((), gone)

    def rename(self, live: Live, name: str) -> None:
        """Its endpoints answer to the new name instead of the old one."""
        live.request = replace(live.request, name=name)
        for network, state in live.endpoints.items():
            if not state.dns_names:
                continue
            names = endpoints.dns_names(live.request, state.config)
            live.endpoints[network] = state = replace(state, dns_names=names)
            record = self._catalog.get(state.network_id)
            if record is not None:
                self._naming.remember(record, state)

    async def release(self, container_id: str) -> None:
        """Withdraw ports and names, give addresses back. Idempotent."""
        live = self.live.get(container_id)
        if live is None:
            return
        async with live.lock:
            if self.live.pop(container_id, None) is not None:
                await self._release(live)

    async def _release(self, live: Live) -> None:
        for state in live.endpoints.values():
            self._naming.forget(state)
            self._announcer.stop(state)
        self._naming.stop(live, lift=True)
        if live.links and self._firewall is not None:
            await self._firewall.link((), live.links)
        await self._exposure.withdraw(live)
        for state in live.endpoints.values():
            record = self._catalog.get(state.network_id)
            if record is None:
                continue
            if isinstance(self._driver_of(record), BridgeDriver):
                self._dying.append(state)
            else:
                await self._detached(record, state, live.netns_fd)
        if live.netns_fd >= 0:
            os.close(live.netns_fd)
        if self._dying and (self._reaping is None or self._reaping.done()):
            with contextlib.suppress(RuntimeError):  # closing down
                self._reaping = self._owner.spawn(self._reap_soon(), "reap")

    async def _detached(self, record: NetworkRecord, state: EndpointState, fd: int) -> None:
        try:
            await self._driver_of(record).detach(record, state, fd)
        except (GantryError, OSError) as error:
            _log.warning("network %s: endpoint %s: %s", record.name, state.endpoint_id[:12], error)
        await self._give_back(record, state)

    async def adopt(self, request: SandboxRequest, pid: int, saved: SandboxState) -> Live:
        """Take a container that ran through a restart of the daemon back into the books."""
        live = Live(request, netns.open_of(pid))
        self.live[request.container_id] = live
        for state in saved.endpoints:
            record = self._catalog.get(state.network_id)
            if record is None:
                _log.error(
                    "container %s: its network %s is gone", request.container_id[:12], state.network
                )
                continue
            driver = self._driver_of(record)
            if isinstance(driver, BridgeDriver) and not await driver.there(state):
                _log.warning(
                    "container %s: it was being disconnected from network %s when the daemon died",
                    request.container_id[:12],
                    record.name,
                )
                continue
            await self._claim(record, state)
            await driver.adopt(record, state)
            live.endpoints[record.name] = state
            self._naming.remember(record, state)
            self._announcer.start(record, state, live.netns_fd)
        live.ways = self._elect(live)
        await self._link(live)
        try:
            await self._naming.serve(live, saved.dns_port)
        except OSError as error:
            _log.error("container %s: no DNS: %s", request.container_id[:12], error)
        if saved.published:
            try:
                await self._exposure.publish(live, again(saved.published))
            except GantryError as error:
                _log.error("container %s: %s", request.container_id[:12], error)
        return live

    async def _claim(self, record: NetworkRecord, state: EndpointState) -> None:
        ipam = self._ipam_of(record)
        if not isinstance(ipam, DefaultIpam):
            return  # a plugin keeps its own books
        for pool, address in endpoints.leases(record, state):
            with contextlib.suppress(Forbidden, InvalidParameter):
                await ipam.request_address(pool.pool_id, address)

    # --- connect, disconnect, ports of a running container -----------------------------------

    async def join(self, live: Live, record: NetworkRecord, config: EndpointConfig) -> None:
        """Connect a running container."""
        request = live.request
        if request.mode.startswith("container:"):
            raise InvalidParameter(SHARED)
        async with live.lock:
            if record.name in live.endpoints:
                raise Forbidden(
                    f"endpoint with name {request.name} already exists in network {record.name}"
                )
            endpoints.check_mix([*live.endpoints, record.name])
            endpoints.check(record, config)
            await self._attach(live, record, config, alone=False)
            try:
                await self._settle(live, routed=False)
            except BaseException:
                await self._drop(live, record.name)
                await self._settle(live, routed=False)
                raise

    async def leave(self, live: Live, record: NetworkRecord) -> None:
        """Disconnect a running container."""
        async with live.lock:
            if record.name not in live.endpoints:
                raise Forbidden(
                    f"container {live.request.container_id} is not connected to network"
                    f" {record.name}"
                )
            if record.driver == "host":
                raise InvalidParameter(
                    "cannot disconnect container from host network - container was created in"
                    " host network mode"
                )
            await self._drop(live, record.name)
            try:
                await self._settle(live, routed=False)
            except (GantryError, OSError) as error:
                # It has left; the way out that remains may be broken by the container itself.
                _log.warning("container %s: %s", request_name(live), error)

    async def update_ports(self, live: Live, request: SandboxRequest) -> None:
        """Publish what `request` says instead of what is published now; on error all stays."""
        async with live.lock:
            before = live.request
            live.request = request
            try:
                await self._exposure.publish(live, self._exposure.requests(live))
            except BaseException:
                live.request = before
                raise

    async def _drop(self, live: Live, network: str) -> None:
        state = live.endpoints.pop(network)
        self._naming.forget(state)
        self._announcer.stop(state)
        record = self._catalog.get(state.network_id)
        if record is not None:
            await self._detached(record, state, live.netns_fd)

    # --- one endpoint ------------------------------------------------------------------------

    async def _attach(
        self,
        live: Live,
        record: NetworkRecord,
        config: EndpointConfig,
        *,
        alone: bool,
        make: BridgeDriver | None = None,
    ) -> None:
        if record.config_only:
            raise Forbidden("cannot create endpoint on configuration-only network")
        driver = self._driver_of(record)
        async with AsyncExitStack() as undo:
            ipv6 = endpoints.wants_ipv6(live.request, config)
            if self._comes_again(live, record):
                await self.reap()
            ipv4, ipv6_, pool4, pool6 = await self._addresses(record, config, undo, ipv6=ipv6)
            wanted = Wanted(
                endpoint_id=secrets.token_hex(32),
                interface=endpoints.interface_name(record, config, live.endpoints.values()),
                ipv4=ipv4,
                ipv6=ipv6_,
                mac=endpoints.mac(config, live.request, record),
                gateway4=pool4,
                gateway6=pool6,
                default4=alone,
                default6=alone,
                link_local=config.link_local,
                sysctls=endpoints.sysctls(config),
                options=config.driver_opts,
                container_id=live.request.container_id,
                fresh=make is not None,
            )
            if make is not None:
                live.netns_fd, attached = await make.make(record, wanted)
            else:
                attached = await driver.attach(record, wanted, live.netns_fd)
            undo.pop_all()
        state = endpoints.state_of(record, live.request, config, wanted, attached)
        live.endpoints[record.name] = state
        if alone:
            live.ways = self._elect(live)
        self._naming.remember(record, state)
        self._announcer.start(record, state, live.netns_fd)

    def _comes_again(self, live: Live, record: NetworkRecord) -> bool:
        """Whether it is restarted, or made anew by its name: then it gets its address again, as
        with Docker, if it waits for it. (Nobody else waits: the kernel takes 30 ms and more.)"""
        return any(
            state.network_id == record.id and live.request.name in state.dns_names
            for state in self._dying
        )

    async def _addresses(
        self,
        record: NetworkRecord,
        config: EndpointConfig,
        undo: AsyncExitStack,
        *,
        ipv6: bool = True,
    ) -> tuple[str, str, str, str]:
        """("address/prefix" IPv4, IPv6, gateway IPv4, IPv6); "" where the network has none."""
        if record.driver in ("host", "null"):
            return "", "", "", ""
        ipam = self._ipam_of(record)
        found: list[tuple[str, str]] = []
        for version, enabled, asked in (
            (4, record.enable_ipv4, config.ipv4),
            (6, record.enable_ipv6 and ipv6, config.ipv6),
        ):
            if not enabled:
                found.append(("", ""))
                continue
            pools = [
                p for p in record.ipam if p.pool_id and (6 if ":" in p.subnet else 4) == version
            ]
            try:
                address, pool = await endpoints.request(record, ipam, pools, asked, version)
            except (NoAddresses, Forbidden):
                await self.reap()  # addresses of containers that ended a moment ago
                address, pool = await endpoints.request(record, ipam, pools, asked, version)
            if address:
                undo.push_async_callback(
                    ipam.release_address, pool.pool_id, address.partition("/")[0]
                )
            router = pool.aux.get(f"DefaultGatewayIPv{version}")
            found.append((address, router or pool.gateway))
        return found[0][0], found[1][0], found[0][1], found[1][1]

    async def _give_back(self, record: NetworkRecord, state: EndpointState) -> None:
        ipam = self._ipam_of(record)
        for pool, address in endpoints.leases(record, state):
            await ipam.release_address(pool.pool_id, address)

    # --- the way out -------------------------------------------------------------------------

    async def _settle(self, live: Live, *, routed: bool) -> None:
        """Elect the gateway, set default routes (unless `routed` already), publish ports."""
        ways = self._elect(live)
        changed = ways != live.ways
        if changed and not routed:
            await self._route(live, ways)
        live.ways = ways
        await self._naming.serve(live)
        if live.publication is None:
            requests = self._exposure.requests(live)
            if requests:
                await self._exposure.publish(live, requests)
        elif changed:
            await self._exposure.publish(live, again(live.publication.published))

    def _elect(self, live: Live) -> tuple[str, str]:
        def first(version: int) -> str:
            for state in endpoints.ranked(live.endpoints.values(), self._catalog):
                if state.gateway if version == 4 else state.ipv6_gateway:
                    return state.network
                if state.on_link4 if version == 4 else state.on_link6:
                    return state.network
            return ""

        return first(4), first(6)

    async def _route(self, live: Live, ways: tuple[str, str]) -> None:
        def change() -> None:
            with netlink.Socket() as inside:
                messages: list[netlink.Message] = []
                for version, old, new in ((4, live.ways[0], ways[0]), (6, live.ways[1], ways[1])):
                    if old == new:
                        continue
                    if old in live.endpoints:
                        messages += self._routes(inside, live.endpoints[old], version, remove=True)
                    if new:
                        messages += self._routes(inside, live.endpoints[new], version)
                try:
                    inside.batch(messages)
                except FileExistsError as error:
                    raise System("failed to set gateway: file exists") from error

        await self._namespaces.run(partial(self._namespaces.inside, live.netns_fd, change))

    def _routes(
        self, inside: netlink.Socket, state: EndpointState, version: int, *, remove: bool = False
    ) -> list[netlink.Message]:
        link = netlink.link(inside, state.interface)
        if link is None:
            return []
        gateway = state.gateway if version == 4 else state.ipv6_gateway
        if remove:
            return [netlink.delete_route(link.index, gateway=gateway, version=version)]
        # A route that the container itself has made is not ours to replace.
        return [netlink.add_route(link.index, gateway=gateway, version=version, replace=False)]

    # --- sandboxes made ahead --------------------------------------------------------------------

    async def _bare(self) -> int:
        return await self._namespaces.run_for_fd(
            partial(interfaces.new_sandbox, self._namespaces, None)
        )

    def _poolable(self, record: NetworkRecord, config: EndpointConfig) -> bool:
        return (
            self._pool is not None
            and record.name == "bridge"
            and not (config.ipv4 or config.ipv6 or config.link_local or config.driver_opts)
        )

    async def _prepare(self) -> Prepared:
        record = self._catalog.named("bridge")
        if record is None:
            raise NotFound("network bridge not found")
        driver = self._driver_of(record)
        assert isinstance(driver, BridgeDriver)
        config = EndpointConfig()
        async with AsyncExitStack() as undo:
            ipv4, ipv6, gateway4, gateway6 = await self._addresses(record, config, undo)
            wanted = Wanted(
                endpoint_id="",
                interface=endpoints.interface_name(record, config, ()),
                ipv4=ipv4,
                ipv6=ipv6,
                gateway4=gateway4,
                gateway6=gateway6,
                default4=True,
                default6=True,
                fresh=True,
            )
            try:
                fd, attached = await driver.make(record, wanted)
            except OSError as error:
                raise System(f"failed to create a network sandbox: {error}") from error
            undo.pop_all()
        blank = SandboxRequest("", "", "")
        return Prepared(fd, endpoints.state_of(record, blank, config, wanted, attached))

    def _discard(self, prepared: Prepared) -> None:
        os.close(prepared.netns_fd)
        self._dying.append(prepared.state)

    async def _take(self, live: Live, record: NetworkRecord, config: EndpointConfig) -> None:
        assert self._pool is not None
        prepared = await self._pool.take()
        live.netns_fd = prepared.netns_fd
        mac = endpoints.mac(config, live.request, record)
        state = replace(
            prepared.state,
            endpoint_id=secrets.token_hex(32),
            mac=mac or prepared.state.mac,
            aliases=config.aliases,
            gw_priority=config.gw_priority,
            config=config,
        )
        live.endpoints[record.name] = state
        live.ways = self._elect(live)
        if mac:
            await self._namespaces.run(
                partial(interfaces.set_mac, self._namespaces, live.netns_fd, state.interface, mac)
            )
        self._announcer.start(record, state, live.netns_fd)

    # --- the dead --------------------------------------------------------------------------------

    async def _reap_soon(self) -> None:
        await asyncio.sleep(_REAP_DELAY)
        await self.reap()

    async def reap(self) -> None:
        """Addresses become free when their interface is surely gone: a namespace dies with its
        last process, in the background; one that somebody else holds loses its link."""
        async with self._reap_lock:
            await self._reap()

    async def _reap(self) -> None:
        while self._dying:
            dying, self._dying = self._dying, []
            by_network: dict[str, list[EndpointState]] = {}
            for state in dying:
                by_network.setdefault(state.network_id, []).append(state)
            for network_id, states in by_network.items():
                record = self._catalog.get(network_id)
                if record is None:
                    continue
                driver = self._driver_of(record)
                assert isinstance(driver, BridgeDriver)
                await driver.unplug_all([state.host_interface for state in states])
                driver.forget(record, states)
                for state in states:
                    await self._give_back(record, state)
