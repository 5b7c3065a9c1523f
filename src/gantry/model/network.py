"""What a container asks of its networks, and what it got: plain values.

Vocabulary (libnetwork's): a *sandbox* is a network namespace with what is in it; an
*endpoint* is a sandbox's interface in one network; *publishing* makes a container's
port reachable by addresses of the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

HostPort: TypeAlias = tuple[str, str]
"""(host address or "", host port: "", "8080" or "8000-8010"), as in HostConfig.PortBindings."""


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One attachment as the user asked for it (EndpointSettings of the API)."""

    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()  # "container" or "container:alias"
    ipv4: str = ""
    ipv6: str = ""
    link_local: tuple[str, ...] = ()
    mac: str = ""
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    gw_priority: int = 0


@dataclass(frozen=True, slots=True)
class SandboxRequest:
    """All that `Networks.allocate` must know of a container.

    mode: HostConfig.NetworkMode: "default", "bridge", "host", "none", "container:<id>",
        or a network's name or id.
    netns_pid: pid of the first process of the container that `container:<id>` names
        (which the caller has resolved); 0 otherwise.
    endpoints: by network name or id. An empty mapping means the one network of `mode`.
    port_bindings: "80/tcp" → what to publish it as; a port with no pair gets a free one.
    exposed: "80/tcp" of the image and of --expose; published too when `publish_all`.
    mac_address: ContainerConfig.MacAddress (before API 1.44), for the network of `mode`.
    links: HostConfig.Links, "container:alias", for the network of `mode`.
    environment: the container's own, which legacy links show to others.
    egress: where it may connect to (DNS names, addresses, CIDRs); None: anywhere.
    ipv6: False when the container's sysctls switch IPv6 off.
    """

    container_id: str
    name: str
    hostname: str
    mode: str = "default"
    domainname: str = ""
    netns_pid: int = 0
    endpoints: Mapping[str, EndpointConfig] = field(default_factory=dict)
    port_bindings: Mapping[str, Sequence[HostPort]] = field(default_factory=dict)
    exposed: Sequence[str] = ()
    publish_all: bool = False
    dns: Sequence[str] = ()
    dns_search: Sequence[str] = ()
    dns_options: Sequence[str] = ()
    extra_hosts: Sequence[str] = ()  # "name:address", "name=address"; address may be host-gateway
    mac_address: str = ""
    links: Sequence[str] = ()
    environment: Sequence[str] = ()
    egress: Sequence[str] | None = None
    ipv6: bool = True


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One attachment as it is. Addresses without prefix; "" where there is none.

    interface: its name in the sandbox; host_interface: the veth's other end, "" if none.
    on_link4, on_link6: it is a way out without a gateway's address (ipvlan l3).
    """

    network: str
    network_id: str
    endpoint_id: str
    interface: str = ""
    host_interface: str = ""
    ip: str = ""
    prefix: int = 0
    gateway: str = ""
    ipv6: str = ""
    ipv6_prefix: int = 0
    ipv6_gateway: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    gw_priority: int = 0
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    config: EndpointConfig = field(default_factory=EndpointConfig)
    on_link4: bool = False
    on_link6: bool = False


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """Host ports [host_port, host_port + count) that lead to container ports as many.

    proto: "tcp", "udp" or "sctp".
    """

    proto: str
    host_ip: str
    host_port: int
    port: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class SandboxState:
    """What must be remembered to find a running container's network again.

    Strings, numbers and containers of these only: `msgspec.to_builtins` and
    `msgspec.convert(value, SandboxState)` take it to JSON and back.
    """

    mode: str = "default"
    endpoints: tuple[EndpointState, ...] = ()
    published: tuple[PublishedPort, ...] = ()
    dns_port: int = 0


Ports: TypeAlias = dict[str, list[HostPort] | None]
"""NetworkSettings.Ports: "80/tcp" → where it is published, None when only exposed."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that is ready for a container's processes.

    netns_fd: the namespace; None when the host's (or another's, see `netns_pid`).
        Owned by the network service: valid until `release`, or until `Networks.started`.
    netns_pid: join this process's namespace instead (`container:<id>`), 0 if not.
    hosts, resolv_conf: the whole contents of the two files; empty for `container:<id>`,
        which shares the other container's files, as it does its hostname.
    env: what legacy links add to the environment.
    """

    netns_fd: int | None
    hostname: str
    endpoints: Mapping[str, EndpointState] = field(default_factory=dict)
    ports: Ports = field(default_factory=dict)
    hosts: bytes = b""
    resolv_conf: bytes = b""
    netns_pid: int = 0
    env: tuple[str, ...] = ()
    state: SandboxState = field(default_factory=SandboxState)


@dataclass(frozen=True, slots=True)
class IpamPool:
    """One subnet of a network (IPAM.Config). Addresses as text, "" where not given.

    pool_id: the IPAM driver's name for the lease, "" before there is one.
    gateway_leased: the gateway's address was requested from the driver, and goes back to it.
    """

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    aux: Mapping[str, str] = field(default_factory=dict)
    pool_id: str = ""
    gateway_leased: bool = True


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """A network as it was created, with the addresses it was given: all that is stored.

    created: RFC 3339 with nanoseconds. ipam: with subnets and gateways filled in.
    """

    id: str
    name: str
    driver: str
    created: str
    scope: str = "local"
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ipam_driver: str = "default"
    ipam_options: Mapping[str, str] | None = None
    ipam: tuple[IpamPool, ...] = ()
