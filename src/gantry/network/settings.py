"""The daemon's options about networks, with dockerd's names and defaults."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_POOLS: tuple[tuple[str, int], ...] = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Names follow daemon.json, with underscores.

    bridge: the default bridge's name, "" for docker0 (gantry0 where a docker0 is not
        ours), "none" for no default network. table: our nftables table, "" for "gantry"
        (or, beside another gantryd, one named after the bridge).
    managed: whether the engine chose the default bridge's name.
    owner: what tells this engine's devices from another gantryd's.
    default_address_pools: (base, prefix length of each network cut from it).
    audit_dir: where egress policies' audit logs are written, "": they are not.
    run_dir: for notes that hold until the machine starts anew, "": none are made.
    plugin_dirs: where plugins' sockets are, then where their files are.
    pool_size: sandboxes made ahead for the default bridge.
    firewall_poll: seconds between looks whether another tool changed the packet filter.
    timeout_dns: seconds that the embedded server waits for each server it asks.
    """

    bridge: str = ""
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    mtu: int = 0
    icc: bool = True
    ip: str = "0.0.0.0"
    ip_forward: bool = True
    ip_forward_no_drop: bool = False
    ip_masq: bool = True
    allow_direct_routing: bool = False
    bridge_accept_fwmark: str = ""
    iptables: bool = True
    ip6tables: bool = True
    ipv6: bool = False
    userland_proxy: bool = True
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    host_gateway_ips: tuple[str, ...] = ()
    default_address_pools: tuple[tuple[str, int], ...] = DEFAULT_POOLS
    default_network_opts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    firewall_backend: str = ""
    table: str = ""
    owner: str = ""
    managed: bool = True
    pool_size: int = 6
    timeout_dns: float = 4.0
    firewall_poll: float = 2.0
    audit_dir: str = ""
    run_dir: str = ""
    resolv_conf: str = ""
    hosts_path: str = "/etc/hosts"
    plugin_dirs: tuple[str, ...] = (
        "/run/docker/plugins",
        "/etc/docker/plugins",
        "/usr/lib/docker/plugins",
    )
