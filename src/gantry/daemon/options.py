"""Every option of the daemon: one table for flags, daemon.json and `--help`.

Names are dockerd's: the key in daemon.json, the flag, the short flag. A list's key is
plural where its flag is not ("hosts" and -H). Values are plain JSON values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Value = str | int | bool | list[object] | dict[str, object]
Kind = Literal["text", "flag", "number", "size", "list", "map"]

_ZERO: Final[Mapping[Kind, Value]] = {
    "text": "",
    "flag": False,
    "number": 0,
    "size": 0,
    "list": [],
    "map": {},
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option. flag "" : only in the file. key "": only a flag."""

    key: str
    flag: str
    kind: Kind
    help: str
    default: Value | None = None
    short: str = ""

    @property
    def initial(self) -> Value:
        """What it is when nobody says anything."""
        return _ZERO[self.kind] if self.default is None else self.default


def _option(
    key: str,
    kind: Kind,
    help: str,
    default: Value | None = None,
    *,
    short: str = "",
    flag: str | None = None,
) -> Option:
    return Option(key, key if flag is None else flag, kind, help, default, short)


OPTIONS: Final[tuple[Option, ...]] = (
    # where it is
    _option("hosts", "list", "Address to listen on (several allowed)", flag="host", short="H"),
    _option("data-root", "text", "Folder of the persistent state", "/var/lib/gantry"),
    _option("exec-root", "text", "Folder of the run-time state", "/run/gantry"),
    _option("pidfile", "text", "File for the daemon's process id", "/run/gantry.pid", short="p"),
    _option("group", "text", "Group that owns the unix socket", "docker", short="G"),
    # what it says
    _option("debug", "flag", "Log at debug level", short="D"),
    _option("log-level", "text", "debug, info, warn, error or fatal", "info", short="l"),
    _option("log-format", "text", "text or json", "text"),
    # TLS
    _option("tls", "flag", "Use TLS; implied by --tlsverify"),
    _option("tlsverify", "flag", "Use TLS and demand a client certificate"),
    _option("tlscacert", "text", "Trust clients signed by this CA", "/root/.docker/ca.pem"),
    _option("tlscert", "text", "The server's certificate", "/root/.docker/cert.pem"),
    _option("tlskey", "text", "The server's key", "/root/.docker/key.pem"),
    # storage and images
    _option("storage-driver", "text", "Storage driver to use", short="s"),
    _option("storage-opts", "list", "Storage driver options", flag="storage-opt"),
    _option("registry-mirrors", "list", "Preferred mirrors of Docker Hub", flag="registry-mirror"),
    _option(
        "insecure-registries",
        "list",
        "Registries (name or CIDR) to speak plain HTTP with",
        flag="insecure-registry",
    ),
    _option(
        "allow-nondistributable-artifacts",
        "list",
        "Registries that foreign layers are pushed to as well",
        flag="allow-nondistributable-artifact",
    ),
    _option("max-concurrent-downloads", "number", "Layers pulled at once", 3),
    _option("max-concurrent-uploads", "number", "Layers pushed at once", 5),
    _option("max-download-attempts", "number", "Tries of one download", 5),
    # running containers
    _option("default-runtime", "text", "OCI runtime of containers that name none", "gantry"),
    _option("runtimes", "map", "Additional OCI runtimes (NAME=PATH)", flag="add-runtime"),
    _option("exec-opts", "list", "native.cgroupdriver=cgroupfs|systemd", flag="exec-opt"),
    _option("cgroup-parent", "text", "Parent cgroup of all containers"),
    _option("default-cgroupns-mode", "text", "host or private"),
    _option("default-ipc-mode", "text", "private or shareable", "private"),
    _option("default-shm-size", "size", "Size of /dev/shm in containers", 64 << 20),
    _option("default-ulimits", "map", "Default ulimits (NAME=SOFT[:HARD])", flag="default-ulimit"),
    _option("init", "flag", "Run an init in every container"),
    _option("init-path", "text", "Path of that init"),
    _option("seccomp-profile", "text", "Seccomp profile: builtin, unconfined or a file"),
    _option("no-new-privileges", "flag", "Set no-new-privileges on every container"),
    _option("selinux-enabled", "flag", "Enable SELinux support"),
    _option("live-restore", "flag", "Leave containers running when the daemon stops"),
    _option("default-stop-timeout", "number", "Seconds a container gets to stop", 10),
    _option("shutdown-timeout", "number", "Seconds containers get to stop at shutdown", 15),
    _option("log-driver", "text", "Default driver of container logs", "json-file"),
    _option("log-opts", "map", "Default options of the log driver", flag="log-opt"),
    _option("oom-score-adjust", "number", "oom_score_adj of the daemon", 0),
    # who supervises them, if not our own shims
    _option("containerd", "text", "Socket of a containerd to run containers with"),
    _option("containerd-namespace", "text", "Its namespace for containers", "moby"),
    # networks
    _option("bridge", "text", "Bridge of the default network; none disables it", short="b"),
    _option("bip", "text", "IPv4 address (CIDR) of the default bridge"),
    _option("bip6", "text", "IPv6 address (CIDR) of the default bridge"),
    _option("fixed-cidr", "text", "IPv4 subnet for the default bridge's containers"),
    _option("fixed-cidr-v6", "text", "IPv6 subnet for the default bridge's containers"),
    _option("default-gateway", "text", "IPv4 gateway of containers on the default bridge"),
    _option("default-gateway-v6", "text", "IPv6 gateway of containers on the default bridge"),
    _option("default-address-pools", "list", "base=CIDR,size=N", flag="default-address-pool"),
    _option("default-network-opts", "map", "DRIVER=KEY=VALUE", flag="default-network-opt"),
    _option("mtu", "number", "MTU of the default bridge", 0),
    _option("icc", "flag", "Containers of the default bridge may talk to each other", True),
    _option("ip", "text", "Host address that ports are published on", "0.0.0.0"),
    _option("ip-forward", "flag", "Turn on IP forwarding", True),
    _option("ip-forward-no-drop", "flag", "Leave the forward policy as it is"),
    _option("allow-direct-routing", "flag", "Published ports are reachable by routing, too"),
    _option("bridge-accept-fwmark", "text", "Packets with this mark (N or N/MASK) are let in"),
    _option("ip-masq", "flag", "Masquerade traffic that leaves the bridge", True),
    _option("iptables", "flag", "Set up the packet filter", True),
    _option("ip6tables", "flag", "Set up the IPv6 packet filter", True),
    _option("firewall-backend", "text", "nftables, iptables, iptables-nft or -legacy", "nftables"),
    _option("ipv6", "flag", "IPv6 on the default bridge"),
    _option("userland-proxy", "flag", "Publish on loopback by a proxy where NAT can't", True),
    _option("userland-proxy-path", "text", "Ignored: the proxy is in the daemon"),
    _option("dns", "list", "DNS server of containers"),
    _option("dns-opts", "list", "DNS options of containers", flag="dns-opt"),
    _option("dns-search", "list", "DNS search domains of containers"),
    _option("host-gateway-ips", "list", "What host-gateway means", flag="host-gateway-ip"),
    _option("network-control-plane-mtu", "number", "Ignored: there is no overlay", 1500),
    _option("network-diagnostic-port", "number", "Ignored", 0),
    _option("swarm-default-advertise-addr", "text", "Ignored: there is no swarm"),
    _option("resolv-conf", "text", "The host's resolv.conf", flag=""),
    # the rest
    _option("min-api-version", "text", "Oldest API version that is served", flag=""),
    _option("labels", "list", "key=value labels of this engine", flag="label"),
    _option("experimental", "flag", "Enable experimental features"),
    _option("features", "map", "Features to turn on (NAME=true)", flag="feature"),
    _option("http-proxy", "text", "Proxy for http://"),
    _option("https-proxy", "text", "Proxy for https://"),
    _option("no-proxy", "text", "Hosts reached without the proxy"),
    _option(
        "cdi-spec-dirs",
        "list",
        "Folders of CDI specifications",
        ["/etc/cdi", "/var/run/cdi"],
        flag="cdi-spec-dir",
    ),
    # of dockerd's surroundings: taken, so that its unit files and scripts work, without effect
    _option("containerd-plugins-namespace", "text", "Without effect", "plugins.moby"),
    _option("cri-containerd", "flag", "Without effect"),
    _option("metrics-addr", "text", "Without effect"),
    _option("raw-logs", "flag", "Without effect: logs have no colours"),
    _option("node-generic-resources", "list", "Without effect", flag="node-generic-resource"),
    _option("api-cors-header", "text", "Without effect: no page of another site gets an answer"),
    _option("builder", "map", "Without effect: there is no builder", flag=""),
    _option("nri-opts", "map", "Without effect"),
    _option("default-init", "text", "Without effect", flag=""),
    _option("containerd-plugin-namespace", "text", "Without effect", flag=""),
    _option("swarm-raft-heartbeat-tick", "number", "Without effect", flag=""),
    _option("swarm-raft-election-tick", "number", "Without effect", flag=""),
    # known, so that what says nothing is taken; what asks for something is refused by name
    _option("authorization-plugins", "list", "Not supported yet", flag="authorization-plugin"),
    _option("userns-remap", "text", "Not supported yet"),
    _option("rootless", "flag", "Not supported yet"),
    _option("cpu-rt-period", "number", "Not supported yet", 0),
    _option("cpu-rt-runtime", "number", "Not supported yet", 0),
)

BY_KEY: Final[Mapping[str, Option]] = {option.key: option for option in OPTIONS}


class Options:
    """The daemon's configuration: what flags and file say, defaults for the rest."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)

    def given(self, key: str) -> bool:
        """Somebody said so; it is not just the default."""
        return key in self._values

    def _get(self, key: str) -> Value:
        value = self._values.get(key)
        return BY_KEY[key].initial if value is None else value

    def text(self, key: str) -> str:
        return str(self._get(key))

    def flag(self, key: str) -> bool:
        return bool(self._get(key))

    def number(self, key: str) -> int:
        value = self._get(key)
        assert isinstance(value, int)
        return value

    def words(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(str(item) for item in self.items(key))

    def items(self, key: str) -> list[object]:
        value = self._get(key)
        assert isinstance(value, list)
        return value

    def mapping(self, key: str) -> dict[str, object]:
        value = self._get(key)
        assert isinstance(value, dict)
        return value
