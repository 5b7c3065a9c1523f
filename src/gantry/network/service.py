"""The network service: the one object that containers and routes talk to.

Order at the daemon's start: `start` (devices, table, stored networks; what an earlier
daemon left goes on working), `adopt` for every container that still runs, `settle` (what
nobody adopted is swept, sandboxes are made ahead), and from then on all the others.

The work is done by `sandboxes` (containers' endpoints), `create` and `catalog` (networks),
`ipam`, the drivers and a `Firewall`; this module wires them and answers the API.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

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
    HostPort,
    NetworkRecord,
    Sandbox,
    SandboxRequest,
    SandboxState,
)
from gantry.network import bridge, coexist, creation, endpoints, hostside, views
from gantry.network.announce import Announcer
from gantry.network.audit import Audit
from gantry.network.backends import ChosenFirewall
from gantry.network.bridge import BridgeDriver
from gantry.network.catalog import PREDEFINED, Catalog
from gantry.network.dns import DnsServers
from gantry.network.drivers import Driver
from gantry.network.egress import OPTION, Egress, Layer
from gantry.network.exposure import Exposure
from gantry.network.firewall import Firewall
from gantry.network.ipam import DefaultIpam, Ipam, NullIpam
from gantry.network.links import Linked
from gantry.network.live import Live
from gantry.network.naming import Naming
from gantry.network.netns import Namespaces
from gantry.network.null import NullDriver
from gantry.network.plugins import Plugins
from gantry.network.ports import NetworkStore
from gantry.network.publish import HostPorts
from gantry.network.publishing import Publisher
from gantry.network.remote import RemoteDriver, RemoteIpam
from gantry.network.sandboxes import Sandboxes
from gantry.network.settings import NetworkSettings
from gantry.network.upstream import Forwarder
from gantry.network.visible import Visible
from gantry.network.vlan import VlanDriver

_log = logging.getLogger(__name__)

_SLOWER = 5  # legacy iptables is asked less often: each look is two processes
_PLUGINS_START = 5.0  # seconds that plugins get when the daemon starts

Json = dict[str, Any]
Filters = Mapping[str, Sequence[str]]
Members = list[tuple[str, str, EndpointState]]
OnEvent = Callable[[str, str, Mapping[str, str]], object]
"""(action, network id, attributes): create, connect, disconnect, destroy, prune."""


class Networks:
    """See the module."""

    def __init__(
        self,
        settings: NetworkSettings,
        store: NetworkStore,
        *,
        firewall: Firewall | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """firewall: another backend than the one that the settings name (tests)."""
        settings = hostside.place(settings)
        self._settings = settings
        self._store = store
        self._on_event = on_event
        self._owner = TaskOwner("network")
        self._namespaces = Namespaces()
        self._firewall = firewall
        if firewall is None and settings.iptables:
            self._firewall = ChosenFirewall(
                settings.firewall_backend,
                settings.table,
                ipv6=settings.ip6tables,
                accept_mark=settings.bridge_accept_fwmark,
                note=os.path.join(settings.run_dir, "firewall") if settings.run_dir else "",
            )
        self._catalog = Catalog()
        self._locks: dict[str, asyncio.Lock] = {}
        self._bridges = BridgeDriver(
            self._namespaces, self._firewall, mtu=settings.mtu, owner=settings.owner
        )
        self._drivers: dict[str, Driver] = {
            driver.name: driver
            for driver in (
                self._bridges,
                NullDriver("host"),
                NullDriver("null"),
                VlanDriver("macvlan", self._namespaces, settings.owner),
                VlanDriver("ipvlan", self._namespaces, settings.owner),
            )
        }
        pools = list(settings.default_address_pools)
        if not any(":" in base for base, _ in pools):
            pools.append(creation.local_ula(hostside.machine_id()))
        self._plugins = Plugins(settings.plugin_dirs[0], settings.plugin_dirs[1:])
        self._ipam = DefaultIpam(pools)
        self._ipams: dict[str, Ipam] = {"default": self._ipam, "null": NullIpam()}
        ports = HostPorts(drop=not settings.userland_proxy)
        self._audit = Audit(settings.audit_dir)
        self._egress = Egress(settings.table, self._audit)
        self._visible = Visible(settings, self._catalog, self._linkable)
        publisher = Publisher(self._firewall, ports, self._owner, proxy=settings.userland_proxy)
        forwarder = partial(Forwarder, timeout=settings.timeout_dns)
        dns = DnsServers(self._namespaces, self._owner, forwarder)
        self._naming = Naming(self._catalog, self._visible, dns, self._egress)
        self._hosted: dict[str, tuple[str, EndpointState]] = {}
        self._unrestored: set[str] = set()  # networks whose plugin did not answer
        self._sandboxes = Sandboxes(
            settings=settings,
            catalog=self._catalog,
            namespaces=self._namespaces,
            owner=self._owner,
            visible=self._visible,
            firewall=self._firewall,
            naming=self._naming,
            exposure=Exposure(settings, self._catalog, publisher, self._driver_of),
            announcer=Announcer(self._namespaces, self._owner),
            driver_of=self._driver_of,
            ipam_of=self._ipam_of,
        )

    # --- life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the default bridge and the packet filter, bring stored networks back. System
        when the kernel refuses."""
        try:
            if self._firewall is not None:
                await self._firewall.start()
            await hostside.forward(self._settings, self._firewall, 4)
            stored = {record.id: record for record in self._store.load()}
            await self._predefined({record.name: record for record in stored.values()})
        except OSError as error:
            raise System(f"cannot start networking: {error}") from error
        by_plugins: set[asyncio.Task[None]] = set()
        for record in stored.values():
            if record.name in PREDEFINED:
                continue
            if record.driver in self._drivers and record.ipam_driver in self._ipams:
                await self._restore(record)
            else:
                restoring = self._restore(record)
                by_plugins.add(self._owner.spawn(restoring, f"restore network {record.name}"))
        if by_plugins:  # one that does not answer does not hold up the others, nor us for long
            await asyncio.wait(by_plugins, timeout=_PLUGINS_START)

    async def settle(self) -> None:
        """Call once, after all `adopt`s. Sweeps what is left of containers that are gone."""
        if self._firewall is not None:
            await self._firewall.settle()
        self._egress.settle()
        await self._bridges.sweep(
            frozenset(
                state.host_interface
                for live in self._sandboxes.live.values()
                for state in live.endpoints.values()
            )
        )
        if self._catalog.named("bridge") is not None:
            self._sandboxes.start_pool(self._settings.pool_size)
        if self._firewall is not None and self._settings.firewall_poll:
            self._owner.spawn(self._watch_firewall(), "watch the firewall")

    async def _watch_firewall(self) -> None:
        """Other tools flush rulesets, and a dockerd that starts later drops our packets."""
        keeper = coexist.Keeper()
        loop = asyncio.get_running_loop()
        slow = self._firewall is not None and self._firewall.dear
        poll = self._settings.firewall_poll * (_SLOWER if slow else 1)
        try:
            while True:
                await asyncio.sleep(poll)
                try:
                    await self.check_firewall()
                    if self.firewall_backend == "nftables":
                        bridges = [
                            bridge.bridge_name(r) for r in self._catalog if r.driver == "bridge"
                        ]
                        await loop.run_in_executor(None, keeper.look, bridges)
                except OSError as error:
                    _log.warning("firewall: %s", error)
        finally:
            keeper.close()

    async def aclose(self) -> None:
        """Let go of everything. Running containers keep their network; sandboxes that were
        made ahead vanish."""
        await self._sandboxes.close()
        await self._owner.aclose()
        await self._plugins.aclose()
        self._egress.close()
        if self._firewall is not None:
            await self._firewall.close()
        await asyncio.get_running_loop().run_in_executor(None, self._namespaces.close)

    async def remove_all(self) -> None:
        """Take every network and our table off the machine (uninstall, tests)."""
        for record in self._catalog:
            await self._driver_of(record).remove(record)
        self._egress.close(remove=True)
        if self._firewall is not None:
            await self._firewall.close(remove=True)

    async def check_firewall(self) -> bool:
        """False when another tool had flushed our table, which is now as it was."""
        return self._firewall is None or await self._firewall.check()

    @property
    def firewall_backend(self) -> str:
        """What filters packets, by the name it has in `info`."""
        if self._firewall is None:
            return ""
        chosen = self._firewall.backend if isinstance(self._firewall, ChosenFirewall) else ""
        return (chosen or self._settings.firewall_backend).partition("-")[0]

    @property
    def default_bridge(self) -> str:
        """Its device's name, "" when there is none."""
        record = self._catalog.named("bridge")
        return bridge.bridge_name(record) if record is not None else ""

    async def ready(self) -> None:
        """Wait until the sandboxes made ahead are there (tests, benchmarks)."""
        await self._sandboxes.ready()

    async def idle(self) -> None:
        """Wait until devices that were removed are gone (tests)."""
        await self._namespaces.removed()

    def limit_bridge(self, endpoints: int) -> None:
        """How many endpoints a bridge takes before its network grows another one."""
        self._bridges.shard = endpoints

    # --- containers --------------------------------------------------------------------

    async def allocate(self, request: SandboxRequest) -> Sandbox:
        """A container's network, ready for its first process.

        In the default bridge, without published ports: no request to the kernel at all. On
        any error nothing is left. NotFound: no such network. Conflict: it has one already.
        InvalidParameter: settings that make no sense. System: no addresses, a port in use.
        Docker's texts.
        """
        if request.mode.startswith("container:"):
            return Sandbox(None, "", netns_pid=request.netns_pid, state=SandboxState(request.mode))
        if request.mode == "host":
            endpoints.planned(request, self._catalog)  # its settings make sense
            return self._on_host(request)
        await self._retry(request)
        live = await self._sandboxes.allocate(request)
        for state in live.endpoints.values():
            self._emit("connect", state.network_id, container=request.container_id)
        return self._sandbox(live)

    async def release(self, container_id: str) -> None:
        """At the end: ports, names and addresses go. Idempotent."""
        self._hosted.pop(container_id, None)
        live = self._sandboxes.live.get(container_id)
        await self._sandboxes.release(container_id)
        for state in live.endpoints.values() if live is not None else ():
            self._emit("disconnect", state.network_id, container=container_id)

    async def adopt(self, request: SandboxRequest, pid: int, saved: SandboxState) -> Sandbox:
        """Take a container that ran through a restart of the daemon back into the books.

        pid: its first process. Addresses and ports are claimed as `saved` says; a port that
        somebody else took meanwhile is logged and stays translated.
        """
        if request.mode.startswith("container:"):
            return Sandbox(None, "", netns_pid=request.netns_pid, state=saved)
        if request.mode == "host":
            return self._on_host(request)
        return self._sandbox(await self._sandboxes.adopt(request, pid, saved))

    async def join(self, container_id: str, network: str, config: EndpointConfig) -> Sandbox:
        """Connect a running container to a network: its sandbox as it then is."""
        record = self._catalog.find(network)
        live = self._running(container_id)
        if record.id in self._unrestored:
            await self._restore(record)
        if record.driver == "host":
            raise InvalidParameter(
                "cannot connect container to host network - container must be created in host"
                " network mode"
            )
        try:
            await self._sandboxes.join(live, record, config)
        except OSError as error:
            raise System(f"failed to set up container networking: {error}") from error
        self._emit("connect", record.id, container=container_id)
        return self._sandbox(live)

    async def leave(self, container_id: str, network: str) -> Sandbox:
        """Disconnect a running container from a network: its sandbox as it then is."""
        record = self._catalog.find(network)
        live = self._running(container_id)
        await self._sandboxes.leave(live, record)
        self._emit("disconnect", record.id, container=container_id)
        return self._sandbox(live)

    async def update_ports(
        self,
        container_id: str,
        port_bindings: Mapping[str, Sequence[HostPort]],
        *,
        exposed: Sequence[str] | None = None,
        publish_all: bool | None = None,
    ) -> Sandbox:
        """Publish other ports of a running container. What stays is not interrupted; on
        error (a port in use) everything is as before."""
        live = self._running(container_id)
        request = replace(
            live.request,
            port_bindings=port_bindings,
            exposed=live.request.exposed if exposed is None else exposed,
            publish_all=live.request.publish_all if publish_all is None else publish_all,
        )
        await self._sandboxes.update_ports(live, request)
        return self._sandbox(live)

    async def rename(self, container_id: str, name: str) -> None:
        """The container has another name, for its neighbours too."""
        live = self._sandboxes.live.get(container_id)
        if live is not None:
            async with live.lock:
                self._sandboxes.rename(live, name)
        elif container_id in self._hosted:
            self._hosted[container_id] = (name, self._hosted[container_id][1])

    async def relink(self, container_id: str, links: Sequence[str]) -> Sandbox | None:
        """A running container's legacy links are now these: its sandbox as it then is."""
        live = self._sandboxes.live.get(container_id)
        if live is None:
            return None
        live.request = replace(live.request, links=tuple(links))
        await self._sandboxes.relink(live)
        return self._sandbox(live)

    async def linking(self, container_id: str) -> Mapping[str, Sandbox]:
        """Running containers with legacy links to this one, as they now see it: it may have
        come back with another address."""
        found: dict[str, Sandbox] = {}
        target = self._sandboxes.live.get(container_id)
        if target is None:
            return found
        called = (target.request.name, container_id, container_id[:12])
        for other, live in self._sandboxes.live.items():
            links = live.request.links
            if links and any(link.partition(":")[0].lstrip("/") in called for link in links):
                await self._sandboxes.relink(live)
                found[other] = self._sandbox(live)
        return found

    def resolve(self, term: str) -> tuple[str, str]:
        """(name, id) of the network that `term` names. NotFound, InvalidParameter."""
        record = self._catalog.find("bridge" if term == "default" else term)
        return record.name, record.id

    def check_endpoint(self, network: str, config: EndpointConfig) -> tuple[str, str]:
        """Like `resolve`, and the settings make sense there (create, connect when stopped)."""
        record = self._catalog.find("bridge" if network == "default" else network)
        endpoints.check(record, config)
        return record.name, record.id

    # --- the networks API ----------------------------------------------------------------

    async def list(self, filters: Filters) -> list[Json]:
        """GET /networks."""
        wanted = views.Filter(filters)
        return [
            views.summary(record)
            for record in self._catalog
            if wanted.matches(record, self._sandboxes.in_use(record))
        ]

    async def inspect(self, name: str, *, verbose: bool = False, scope: str = "") -> Json:
        """GET /networks/{id}."""
        record = self._catalog.find(name)
        if scope and record.scope != scope:
            raise NotFound(f"network {name} not found")
        await self._sandboxes.reap()  # addresses of containers that ended are free
        return views.detail(record, self._members(record), self._status(record), verbose=verbose)

    async def create(self, body: Json) -> Json:
        """POST /networks/create."""
        asked = creation.parse(body)
        lock = self._locks.setdefault(asked.name, asyncio.Lock())
        try:
            async with lock:
                record = await self._create(asked)
        finally:
            if not lock.locked():
                self._locks.pop(asked.name, None)
        if not record.config_only:
            self._emit("create", record.id)
        return {"Id": record.id, "Warning": ""}

    async def remove(self, name: str) -> None:
        """DELETE /networks/{id}."""
        record = self._catalog.find(name)
        if record.name in PREDEFINED:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
        await self._remove(record)

    async def prune(self, filters: Filters) -> Json:
        """POST /networks/prune."""
        wanted = views.Filter(filters, prune=True)
        gone: list[str] = []
        for record in self._catalog:
            if not wanted.matches(record, self._sandboxes.in_use(record)):
                continue
            try:
                await self._remove(record)
            except GantryError as error:
                _log.info("network %s is not pruned: %s", record.name, error)
                continue
            gone.append(record.name)
        self._emit("prune", "", reclaimed="0")
        return {"NetworksDeleted": gone or None}

    async def egress(self, name: str) -> Json:
        """What a network's egress policies allow and refused: {"Allow": [...] or None,
        "Refused": [{"time", "container", "kind": "dns" | "packet", "name" | "destination",
        "protocol", "port"}, ...]}, the last thousand, oldest first."""
        record = self._catalog.find(name)
        allow = record.options.get(OPTION)
        words = [word.strip() for word in allow.split(",")] if allow is not None else None
        return {"Allow": words, "Refused": self._audit.read(record.id)}

    # --- parts -----------------------------------------------------------------------------

    async def _create(self, asked: creation.CreateBody) -> NetworkRecord:
        settings = self._settings
        options = {driver: dict(pairs) for driver, pairs in settings.default_network_opts}
        record = creation.plan(asked, self._catalog, options)
        if record.config_only:
            await self._store.save(record)
            self._catalog.put(record)
            return record
        driver = await self._load_driver(record.driver)
        traits = await driver.traits(record)
        record = creation.apply_config(record, self._catalog)
        record = creation.check_scope(record, traits)
        if OPTION in record.options:
            Layer.parse(record.options[OPTION].split(","))
            if record.driver != "bridge":
                raise InvalidParameter(
                    f"egress policies do not reach networks of the driver {record.driver}"
                )
        driver.check(record, [r for r in self._catalog if r.driver == record.driver])
        ipam = await self._load_ipam(record.ipam_driver)
        exclude = await self._namespaces.run(
            partial(hostside.reserved_subnets, self._namespaces, settings.resolv_conf)
        )
        record = await creation.allocate(record, ipam, traits, exclude)
        try:
            await driver.create(record)
            try:
                await self._store.save(record)
            except BaseException:
                await driver.remove(record)
                raise
        except BaseException:
            await creation.give_back(record, ipam)
            raise
        self._catalog.put(record)
        if record.driver == "bridge" and self.firewall_backend == "nftables":
            await hostside.coexist_with(bridge.bridge_name(record))
        if record.enable_ipv6:
            await hostside.forward(self._settings, self._firewall, 6)
        return record

    async def _remove(self, record: NetworkRecord) -> None:
        users = self._sandboxes.members(record)
        if users:
            shown = ", ".join(
                f'name:"{name}" id:"{state.endpoint_id[:12]}"' for _, name, state in users
            )
            raise Forbidden(
                f"error while removing network: network {record.name} has active endpoints"
                f" ({shown})"
            )
        if record.config_only and any(r.config_from == record.name for r in self._catalog):
            raise Forbidden(
                f'error while removing network: configuration network "{record.name}" is in use'
            )
        await self._sandboxes.reap()
        self._catalog.drop(record)
        try:
            if not record.config_only:
                await self._driver_of(record).remove(record)
            await self._store.delete(record.id)
        except BaseException:
            self._catalog.put(record)
            raise
        if record.driver == "bridge" and self.firewall_backend == "nftables":
            await hostside.coexist_without(bridge.bridge_name(record))
        self._naming.forget_network(record)
        self._audit.forget(record.id)
        if not record.config_only:
            await creation.give_back(record, self._ipam_of(record))
            self._emit("destroy", record.id, record=record)

    async def _restore(self, record: NetworkRecord) -> None:
        """A stored network: its addresses are leased again, its device is made if need be.
        When that fails (a plugin is not up yet), it is tried again at the next use."""
        self._catalog.put(record)
        self._unrestored.discard(record.id)
        if record.config_only:
            return
        try:
            ipam = await self._load_ipam(record.ipam_driver)
            if not isinstance(ipam, RemoteIpam) or ipam.replay:
                record = await creation.lease_again(record, ipam)
                self._catalog.put(record)
            driver = await self._load_driver(record.driver)
            if isinstance(driver, RemoteDriver):
                driver.known(record.id)
            await driver.create(record)
        except (GantryError, OSError) as error:
            _log.error("network %s cannot be restored: %s", record.name, error)
            self._unrestored.add(record.id)

    async def _retry(self, request: SandboxRequest) -> None:
        for term in (request.mode, *request.endpoints) if self._unrestored else ():
            record = self._catalog.named(term) or self._catalog.get(term)
            if record is not None and record.id in self._unrestored:
                await self._restore(record)

    async def _predefined(self, known: Mapping[str, NetworkRecord]) -> None:
        for name, driver in (("host", "host"), ("none", "null")):
            record = known.get(name) or NetworkRecord(
                secrets.token_hex(32), name, driver, creation.now()
            )
            if name not in known:
                await self._store.save(record)
            self._catalog.put(record)
        if self._settings.bridge != "none":
            await self._default_bridge(known.get("bridge"))

    async def _default_bridge(self, known: NetworkRecord | None) -> None:
        name, pools = await hostside.plan_default(
            self._namespaces, self._settings, self._ipam, known
        )
        record = NetworkRecord(
            id=known.id if known else secrets.token_hex(32),
            name="bridge",
            driver="bridge",
            created=known.created if known else creation.now(),
            enable_ipv6=self._settings.ipv6,
            ipam=pools,
            options=hostside.default_options(self._settings, name),
        )
        self._catalog.put(record)
        await self._bridges.create(record)
        if record != known:
            await self._store.save(record)
        if self.firewall_backend == "nftables":
            await hostside.coexist_with(name)
        if record.enable_ipv6:
            await hostside.forward(self._settings, self._firewall, 6)

    def _driver_of(self, record: NetworkRecord) -> Driver:
        driver = self._drivers.get(record.driver)
        if driver is None:
            raise NotFound(f'plugin "{record.driver}" not found')
        return driver

    def _ipam_of(self, record: NetworkRecord) -> Ipam:
        ipam = self._ipams.get(record.ipam_driver)
        if ipam is None:
            raise NotFound(f'plugin "{record.ipam_driver}" not found')
        return ipam

    async def _load_driver(self, name: str) -> Driver:
        """Built in, or a plugin. NotFound."""
        if name not in self._drivers:
            plugin = await self._plugins.get(name, "NetworkDriver")
            self._drivers.setdefault(name, RemoteDriver(plugin, self._namespaces))
        return self._drivers[name]

    async def _load_ipam(self, name: str) -> Ipam:
        """Built in, or a plugin. NotFound."""
        if name not in self._ipams:
            ipam = RemoteIpam(await self._plugins.get(name, "IpamDriver"))
            await ipam.start()
            self._ipams.setdefault(name, ipam)
        return self._ipams[name]

    def _on_host(self, request: SandboxRequest) -> Sandbox:
        sandbox = self._visible.of_host(request)
        self._hosted[request.container_id] = (request.name, sandbox.endpoints["host"])
        return sandbox

    def _members(self, record: NetworkRecord) -> Members:
        """(container id, name, endpoint) of all that run in the network."""
        if record.driver != "host":
            return self._sandboxes.members(record)
        return [(container, name, state) for container, (name, state) in self._hosted.items()]

    def _linkable(self, name: str) -> Linked | None:
        """Who runs under that name (or id) in the default bridge."""
        for container, live in self._sandboxes.live.items():
            state = live.endpoints.get("bridge")
            if state is not None and name in (live.request.name, container, container[:12]):
                request = live.request
                return Linked(
                    "",
                    request.name,
                    request.hostname,
                    state.ip,
                    state.ipv6,
                    request.exposed,
                    request.environment,
                )
        return None

    def _running(self, container_id: str) -> Live:
        live = self._sandboxes.live.get(container_id)
        if live is None:
            raise Conflict(f"container {container_id} is not running in a network of its own")
        return live

    def _status(self, record: NetworkRecord) -> dict[str, tuple[int, int]] | None:
        """None where a plugin keeps the books, or there are none."""
        if record.ipam_driver != "default" or record.driver in ("host", "null"):
            return None
        found: dict[str, tuple[int, int]] = {}
        for pool in record.ipam:
            if pool.pool_id:
                addresses = self._ipam.pool(pool.pool_id)
                found[pool.subnet] = (addresses.used, addresses.available)
        return found

    def _emit(
        self,
        action: str,
        network_id: str,
        *,
        record: NetworkRecord | None = None,
        **attributes: str,
    ) -> None:
        if self._on_event is None:
            return
        record = record or self._catalog.get(network_id)
        if record is not None:
            attributes |= {"name": record.name, "type": record.driver}
        self._on_event(action, network_id, attributes)

    def _sandbox(self, live: Live) -> Sandbox:
        return self._visible.sandbox(
            live.request,
            live.netns_fd,
            live.endpoints,
            live.publication.published if live.publication else (),
            live.dns.port if live.dns else 0,
        )
