"""What a container sees of its network: /etc/hosts, /etc/resolv.conf, ports, links."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gantry.model.errors import System
from gantry.model.network import (
    EndpointState,
    Ports,
    PublishedPort,
    Sandbox,
    SandboxRequest,
    SandboxState,
)
from gantry.network import hostside, links, resolution
from gantry.network.catalog import Catalog, user_defined
from gantry.network.links import Linked
from gantry.network.resolution import Upstream
from gantry.network.settings import NetworkSettings

Find = Callable[[str], Linked | None]
"""The running container of that name or id in the default bridge, without its alias."""


class Visible:
    """Makes `Sandbox` values."""

    def __init__(self, settings: NetworkSettings, catalog: Catalog, find: Find) -> None:
        self._settings = settings
        self._catalog = catalog
        self._find = find

    def embedded(self, request: SandboxRequest, endpoints: Mapping[str, EndpointState]) -> bool:
        """Whether the sandbox has the embedded DNS server."""
        return request.egress is not None or any(map(user_defined, endpoints))

    def resolv_conf(
        self, request: SandboxRequest, kind: str, *, ipv6: bool = False
    ) -> tuple[bytes, tuple[Upstream, ...], bool]:
        """(the file, whom the embedded server asks, whether the user set ndots)."""
        settings = self._settings
        host = resolution.read_resolv_conf(settings.resolv_conf)
        options = request.dns_options or settings.dns_opts
        conf, upstreams = resolution.resolv_conf(
            host,
            dns=request.dns or settings.dns,
            search=request.dns_search or settings.dns_search,
            options=options,
            kind=kind,
            ipv6=ipv6,
        )
        ndots = any(word.startswith("ndots:") for word in options or host.options)
        return conf, upstreams, ndots

    def linked(self, request: SandboxRequest, *, strict: bool = False) -> list[Linked]:
        """The targets of the container's legacy links that run. strict: System when one does
        not, as at a start."""
        asked = list(request.links) if request.mode in ("", "default", "bridge") else []
        for name in ("bridge", "default"):
            config = request.endpoints.get(name)
            asked += config.links if config is not None else ()
        found: list[Linked] = []
        for link in dict.fromkeys(asked):
            target, alias = links.parse(link)
            linked = self._find(target)
            if linked is None and strict:
                raise System(
                    f"Cannot link to a non running container: /{target} AS /{request.name}/{alias}"
                )
            if linked is None:
                continue
            found.append(replace(linked, alias=alias))
        return found

    def sandbox(
        self,
        request: SandboxRequest,
        netns_fd: int,
        endpoints: Mapping[str, EndpointState],
        published: Sequence[PublishedPort],
        dns_port: int,
    ) -> Sandbox:
        """The value for a container with a namespace of its own."""
        conf, _, _ = self.resolv_conf(
            request,
            "embedded" if self.embedded(request, endpoints) else "legacy",
            ipv6=any(state.ipv6 for state in endpoints.values()),
        )
        linked = self.linked(request)
        return Sandbox(
            netns_fd=netns_fd,
            hostname=request.hostname,
            endpoints=dict(endpoints),
            ports=ports(request, published),
            hosts=resolution.hosts_file(
                hostname=request.hostname,
                domainname=request.domainname,
                addresses=[a for s in endpoints.values() for a in (s.ip, s.ipv6) if a],
                extra=[
                    *self._extra_hosts(request),
                    *(line for one in linked for line in links.hosts_lines(one)),
                ],
                ipv6=request.ipv6,
            ),
            resolv_conf=conf,
            env=tuple(v for one in linked for v in links.environment(request.name, one)),
            state=SandboxState(request.mode, tuple(endpoints.values()), tuple(published), dns_port),
        )

    def of_host(self, request: SandboxRequest) -> Sandbox:
        """The value for a container in the host's namespace. Only --add-host makes its
        hosts file differ from the host's."""
        conf, _, _ = self.resolv_conf(request, "host")
        extra = self._extra_hosts(request)
        if extra:
            hosts = resolution.hosts_file(hostname=request.hostname, extra=extra)
        else:
            hosts = hostside.read(self._settings.hosts_path)
        record = self._catalog.named("host")
        endpoint = EndpointState("host", record.id if record else "", secrets.token_hex(32))
        return Sandbox(
            None,
            request.hostname,
            endpoints={"host": endpoint},
            hosts=hosts,
            resolv_conf=conf,
            state=SandboxState("host", (endpoint,)),
        )

    def _extra_hosts(self, request: SandboxRequest) -> Sequence[tuple[str, str]]:
        if not request.extra_hosts:
            return ()
        gateways: Sequence[str] = self._settings.host_gateway_ips
        record = self._catalog.named("bridge")
        if not gateways and record is not None:
            gateways = [pool.gateway for pool in record.ipam if pool.gateway]
        return resolution.extra_hosts(request.extra_hosts, gateways)


def ports(request: SandboxRequest, published: Sequence[PublishedPort]) -> Ports:
    """NetworkSettings.Ports."""
    found: Ports = {}
    for text in (*request.exposed, *request.port_bindings):
        if "/" not in text or text.endswith("/"):
            text = text.removesuffix("/") + "/tcp"
        found[text] = None
    for one in published:
        for n in range(one.count):
            key = f"{one.port + n}/{one.proto}"
            pair = (one.host_ip, str(one.host_port + n) if one.host_port else "")
            pairs = found.get(key)
            if pairs:
                pairs.append(pair)
            else:
                found[key] = [pair]
    return found
