"""The network service: the one object that containers and routes talk to.

Order at the daemon's start: `start` (devices, table; what an earlier daemon left goes on
working), `adopt` for every container that still runs, `settle` (what nobody adopted is
swept, sandboxes are made ahead), and from then on `allocate` and `release`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from gantry.ipc.owner import TaskOwner
from gantry.model.errors import Conflict, GantryError, InvalidParameter, NotFound, System
from gantry.model.network import (
    EndpointConfig,
    EndpointState,
    IpamPool,
    NetworkRecord,
    Ports,
    PublishedPort,
    Sandbox,
    SandboxRequest,
    SandboxState,
)
from gantry.network import bridge, coexist, interfaces, netlink, netns, resolution
from gantry.network.bridge import BridgeNetwork
from gantry.network.firewall import Firewall
from gantry.network.netns import Namespaces
from gantry.network.nft import NftFirewall, physical_interfaces
from gantry.network.ports import NetworkStore
from gantry.network.publish import HostPorts, port_requests
from gantry.network.publishing import Publication, Publisher, again
from gantry.network.settings import NetworkSettings

_log = logging.getLogger(__name__)

_REAP_DELAY = 0.5  # seconds that a dead namespace gets to go by itself


@dataclass(slots=True)
class _Live:
    """A running container's share: handles, in memory only."""

    request: SandboxRequest
    netns_fd: int = -1
    endpoints: dict[str, EndpointState] = field(default_factory=dict)
    publication: Publication | None = None


class Networks:
    """See the module."""

    def __init__(
        self,
        settings: NetworkSettings,
        store: NetworkStore,
        *,
        firewall: Firewall | None = None,
    ) -> None:
        """firewall: another backend than the one that the settings name (tests)."""
        self._settings = settings
        self._store = store
        self._owner = TaskOwner("network")
        self._namespaces = Namespaces()
        self._firewall = firewall
        if firewall is None and settings.iptables:
            self._firewall = NftFirewall(settings.table)
        ports = HostPorts(drop=not settings.userland_proxy)
        self._publisher = Publisher(
            self._firewall, ports, self._owner, proxy=settings.userland_proxy
        )
        self._default: BridgeNetwork | None = None
        self._live: dict[str, _Live] = {}
        self._dying: list[EndpointState] = []
        self._reaping: asyncio.Task[None] | None = None

    # --- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the default bridge and the packet filter. System when the kernel refuses."""
        if self._settings.ip_forward:
            self._forward()
        try:
            if self._firewall is not None:
                await self._firewall.start()
            if self._settings.bridge != "none":
                await self._start_default()
        except OSError as error:
            raise System(f"cannot start networking: {error}") from error

    async def settle(self) -> None:
        """Call once, after all `adopt`s. Sweeps what is left of containers that are gone."""
        if self._firewall is not None:
            await self._firewall.settle()
        if self._default is not None:
            await self._sweep()
            self._default.start_pool(self._settings.pool_size, self._owner)

    async def aclose(self) -> None:
        """Let go of everything. Running containers keep their network; sandboxes that were
        made ahead vanish."""
        if self._default is not None and self._default.sandboxes is not None:
            await self._default.sandboxes.close()
        await self._reap(0)
        await self._owner.aclose()
        for live in self._live.values():
            if live.publication is not None:
                self._publisher.let_go(live.publication)
            if live.netns_fd >= 0:
                os.close(live.netns_fd)
        self._live.clear()
        if self._firewall is not None:
            await self._firewall.close()
        await asyncio.get_running_loop().run_in_executor(None, self._namespaces.close)

    async def remove_all(self) -> None:
        """Take the default bridge and our table off the machine (uninstall, tests)."""
        if self._default is not None:
            await self._default.down()
        if self._firewall is not None:
            await self._firewall.close(remove=True)

    async def check_firewall(self) -> bool:
        """False when another tool had flushed our table, which is now as it was."""
        return self._firewall is None or await self._firewall.check()

    @property
    def default_bridge(self) -> str:
        """Its device's name, "" when there is none."""
        return self._default.bridge if self._default is not None else ""

    async def ready(self) -> None:
        """Wait until the sandboxes made ahead are there (tests, benchmarks)."""
        if self._default is not None and self._default.sandboxes is not None:
            await self._default.sandboxes.filled()

    # --- sandboxes -------------------------------------------------------------------

    async def allocate(self, request: SandboxRequest) -> Sandbox:
        """A container's network, ready for its first process.

        From the pool, without published ports: no request to the kernel at all. On any
        error nothing is left. NotFound: no such network. Conflict: it has one already.
        System: no addresses, a port in use, with Docker's texts.
        """
        if request.container_id in self._live:
            raise Conflict(f"container {request.container_id} already has a network sandbox")
        mode = request.mode or "default"
        if mode == "host":
            return self._host_sandbox(request)
        if mode.startswith("container:"):
            state = SandboxState(mode)
            return Sandbox(None, "", netns_pid=request.netns_pid, state=state)
        live = _Live(request)
        self._live[request.container_id] = live
        try:
            if mode == "none":
                namespaces = self._namespaces
                live.netns_fd = await namespaces.run_for_fd(
                    lambda: interfaces.new_sandbox(namespaces, None)
                )
                return self._sandbox(live)
            return await self._bridged(live, mode)
        except OSError as error:
            await self.release(request.container_id)
            raise System(f"failed to set up container networking: {error}") from error
        except BaseException:
            await self.release(request.container_id)
            raise

    async def release(self, container_id: str) -> None:
        """Withdraw ports, give addresses back. Idempotent; also of an `allocate` that failed."""
        live = self._live.pop(container_id, None)
        if live is None:
            return
        if live.publication is not None:
            await self._publisher.withdraw(live.publication)
        if live.netns_fd >= 0:
            os.close(live.netns_fd)
        self._dying += live.endpoints.values()
        if self._dying and (self._reaping is None or self._reaping.done()):
            with contextlib.suppress(RuntimeError):  # closing down
                self._reaping = self._owner.spawn(self._reap(_REAP_DELAY), "reap")

    async def adopt(self, request: SandboxRequest, pid: int, saved: SandboxState) -> Sandbox:
        """Take a container that ran through a restart of the daemon back into the books.

        pid: its first process. Addresses and ports are claimed as `saved` says; a port
        that somebody else took meanwhile is logged and stays translated.
        """
        mode = request.mode or "default"
        if mode == "host":
            return self._host_sandbox(request)
        if mode.startswith("container:"):
            return Sandbox(None, "", netns_pid=request.netns_pid, state=saved)
        live = _Live(request)
        live.netns_fd = netns.open_of(pid)
        live.endpoints = {endpoint.network: endpoint for endpoint in saved.endpoints}
        self._live[request.container_id] = live
        for endpoint in saved.endpoints:
            if self._default is not None and endpoint.network_id == self._default.record.id:
                self._default.claim(endpoint.ip, endpoint.ipv6)
        if saved.published:
            first = saved.endpoints[0]
            try:
                live.publication = await self._publisher.publish(
                    again(saved.published), first.ip, first.ipv6
                )
            except GantryError as error:
                _log.error("container %s: %s", request.container_id[:12], error)
        return self._sandbox(live)

    # --- parts -----------------------------------------------------------------------

    async def _bridged(self, live: _Live, mode: str) -> Sandbox:
        request = live.request
        network = self._default
        if mode not in ("default", "bridge") or network is None:
            raise NotFound(f"network {mode} not found")
        asked = request.endpoints.get(mode) or request.endpoints.get("bridge") or EndpointConfig()
        if asked.ipv4 or asked.ipv6:
            raise InvalidParameter(
                "user specified IP address is supported only when connecting to networks"
                " with user configured subnets"
            )
        prepared = await network.take()
        live.netns_fd = prepared.netns_fd
        mac = asked.mac or request.mac_address
        endpoint = EndpointState(
            network="bridge",
            network_id=network.record.id,
            endpoint_id=secrets.token_hex(32),
            interface=prepared.interface.name,
            host_interface=prepared.interface.host_name,
            ip=prepared.ip,
            prefix=int(prepared.interface.ipv4.partition("/")[2] or 0),
            gateway=network.gateway4,
            ipv6=prepared.ipv6,
            ipv6_prefix=int(prepared.interface.ipv6.partition("/")[2] or 0),
            ipv6_gateway=network.gateway6 if prepared.ipv6 else "",
            mac=mac or prepared.interface.mac,
            aliases=asked.aliases,
            gw_priority=asked.gw_priority,
            driver_opts=asked.driver_opts,
            config=asked,
        )
        live.endpoints[endpoint.network] = endpoint
        if mac:
            await self._namespaces.run(lambda: self._set_mac(live.netns_fd, mac))
        await self._publish(live, endpoint)
        return self._sandbox(live)

    async def _publish(self, live: _Live, endpoint: EndpointState) -> None:
        request = live.request
        if not request.port_bindings and not request.publish_all:
            return
        requests = port_requests(
            request.port_bindings,
            request.exposed,
            publish_all=request.publish_all,
            default_ip=self._settings.ip,
            ipv6=bool(endpoint.ipv6) or self._settings.userland_proxy,
        )
        try:
            live.publication = await self._publisher.publish(requests, endpoint.ip, endpoint.ipv6)
        except (System, OSError) as error:
            raise System(
                "failed to set up container networking: driver failed programming external"
                f" connectivity on endpoint {request.name} ({endpoint.endpoint_id}): {error}"
            ) from error

    def _set_mac(self, fd: int, mac: str) -> None:
        def change() -> None:
            with netlink.Socket() as inside:
                # A MAC of a veth may change while it is up; its routes stay.
                inside.do(netlink.set_link(2, mac=mac))

        self._namespaces.inside(fd, change)

    def _sandbox(self, live: _Live) -> Sandbox:
        request = live.request
        published = live.publication.published if live.publication else ()
        endpoints = live.endpoints
        addresses = [a for e in endpoints.values() for a in (e.ip, e.ipv6) if a]
        conf, _ = resolution.resolv_conf(
            resolution.read_resolv_conf(self._settings.resolv_conf),
            dns=request.dns or self._settings.dns,
            search=request.dns_search or self._settings.dns_search,
            options=request.dns_options or self._settings.dns_opts,
            ipv6=any(e.ipv6 for e in endpoints.values()),
        )
        return Sandbox(
            netns_fd=live.netns_fd,
            hostname=request.hostname,
            endpoints=endpoints,
            ports=_ports(request, published),
            hosts=resolution.hosts_file(
                hostname=request.hostname,
                domainname=request.domainname,
                addresses=addresses,
                extra=resolution.extra_hosts(request.extra_hosts, self._host_gateways()),
            ),
            resolv_conf=conf,
            state=SandboxState(request.mode, tuple(endpoints.values()), tuple(published)),
        )

    def _host_sandbox(self, request: SandboxRequest) -> Sandbox:
        conf, _ = resolution.resolv_conf(
            resolution.read_resolv_conf(self._settings.resolv_conf),
            dns=request.dns or self._settings.dns,
            search=request.dns_search or self._settings.dns_search,
            options=request.dns_options or self._settings.dns_opts,
            kind="host",
        )
        extra = resolution.extra_hosts(request.extra_hosts, self._host_gateways())
        if extra:
            hosts = resolution.hosts_file(hostname=request.hostname, extra=extra)
        else:
            try:
                with open(self._settings.hosts_path, "rb") as file:
                    hosts = file.read()
            except OSError:
                hosts = b""
        endpoint = EndpointState("host", "", secrets.token_hex(32), config=EndpointConfig())
        return Sandbox(
            None,
            request.hostname,
            endpoints={"host": endpoint},
            hosts=hosts,
            resolv_conf=conf,
            state=SandboxState("host", (endpoint,)),
        )

    def _host_gateways(self) -> Sequence[str]:
        if self._settings.host_gateway_ips:
            return self._settings.host_gateway_ips
        if self._default is None:
            return ()
        return [g for g in (self._default.gateway4, self._default.gateway6) if g]

    async def _start_default(self) -> None:
        settings, namespaces = self._settings, self._namespaces

        def plan() -> tuple[str, str, str]:
            name = bridge.choose_bridge_name(namespaces, settings.bridge)
            if settings.bip:
                return (name, *bridge.split_interface(settings.bip))
            existing = bridge.existing_address(namespaces, name)
            if existing:
                return (name, *bridge.split_interface(existing))
            subnet = bridge.free_subnet(namespaces, settings.default_address_pools, [])
            return name, bridge.first_host(subnet), subnet

        name, gateway, subnet = await namespaces.run(plan)
        known = next((r for r in self._store.load() if r.name == "bridge"), None)
        pool = IpamPool(subnet, settings.fixed_cidr, settings.default_gateway or gateway)
        record = NetworkRecord(
            id=known.id if known else secrets.token_hex(32),
            name="bridge",
            driver="bridge",
            created=known.created if known else _now(),
            ipam=(pool,),
            options={
                "com.docker.network.bridge.default_bridge": "true",
                "com.docker.network.bridge.enable_icc": str(settings.icc).lower(),
                "com.docker.network.bridge.enable_ip_masquerade": str(settings.ip_masq).lower(),
                "com.docker.network.bridge.host_binding_ipv4": settings.ip,
                "com.docker.network.bridge.name": name,
                "com.docker.network.driver.mtu": str(settings.mtu or 1500),
            },
        )
        network = BridgeNetwork(record, name, namespaces, mtu=settings.mtu)
        if network.record != known:
            await self._store.save(record)
        await network.up()
        if self._firewall is not None:
            rules = network.rules(masquerade=settings.ip_masq, icc=settings.icc)
            await self._firewall.add_bridge(rules)
            await asyncio.get_running_loop().run_in_executor(None, coexist.allow, name)
        self._default = network

    def _forward(self) -> None:
        """Switch forwarding on. Docker then drops what is forwarded between other
        interfaces; we drop it only between those that are real devices, so that virtual
        machines, VPNs and a real dockerd beside us go on working."""
        if interfaces.read_sysctl("net.ipv4.ip_forward") == "1":
            return
        interfaces.write_sysctl("net.ipv4.ip_forward", "1", required=True)
        if not self._settings.ip_forward_no_drop and isinstance(self._firewall, NftFirewall):
            self._firewall.keep_apart(physical_interfaces())

    async def _sweep(self) -> None:
        """Remove veths in our bridges that belong to no container we know."""
        known = {e.host_interface for live in self._live.values() for e in live.endpoints.values()}
        default = self._default
        assert default is not None

        def sweep() -> None:
            host = self._namespaces.host
            stale = [
                link.index
                for link in netlink.links(host)
                if link.master == default.index and link.name not in known
            ]
            host.batch(netlink.delete_link(index) for index in stale)

        await self._namespaces.run(sweep)

    def _batch(self, messages: Sequence[netlink.Message]) -> None:
        self._namespaces.host.batch(messages)

    async def _reap(self, delay: float) -> None:
        """Addresses become free when their interface is surely gone: a namespace dies with
        its last process, in the background; one that somebody else holds loses its link."""
        await asyncio.sleep(delay)
        while self._dying:
            dying, self._dying = self._dying, []
            names = [e.host_interface for e in dying if e.host_interface]
            gone = [netlink.delete_link(name=name) for name in names]
            await self._namespaces.run(partial(self._batch, gone))
            for endpoint in dying:
                if self._default is not None and endpoint.network_id == self._default.record.id:
                    self._default.release(endpoint.ip, endpoint.ipv6)


def _ports(request: SandboxRequest, published: Sequence[PublishedPort]) -> Ports:
    ports: Ports = {}
    for text in (*request.exposed, *request.port_bindings):
        number, _, proto = text.partition("/")
        ports[f"{number}/{proto or 'tcp'}"] = None
    for one in published:
        for n in range(one.count):
            key = f"{one.port + n}/{one.proto}"
            pairs = ports.get(key) or []
            pairs.append((one.host_ip, str(one.host_port + n)))
            ports[key] = pairs
    return ports


def _now() -> str:
    now = datetime.now(UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond:06d}000Z"
