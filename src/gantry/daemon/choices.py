"""Concrete choices: what the options of the daemon mean to the services below."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping

from gantry.api.app import MAX_VERSION, MIN_VERSION
from gantry.cgroups import abilities, layout
from gantry.containers.settings import OWN_RUNTIME, Runtime, Settings
from gantry.daemon import apparmor
from gantry.daemon.options import Options
from gantry.model.container import Ulimit
from gantry.model.errors import InvalidParameter
from gantry.network.settings import DEFAULT_POOLS, NetworkSettings
from gantry.registry.settings import Proxies, RegistrySettings, parse_settings

RUNC_SHIM = "io.containerd.runc.v2"
_INITS = ("/usr/libexec/docker/docker-init", "/usr/bin/docker-init", "/usr/bin/tini-static")


def container_settings(options: Options) -> Settings:
    """What the containers' services must know. InvalidParameter."""
    init = options.text("init-path") or next((p for p in _INITS if os.path.exists(p)), "")
    containerd = options.text("containerd")
    runtimes = {
        name: _runtime(name, value, containerd)
        for name, value in options.mapping("runtimes").items()
    }
    for name in ("runc", "crun"):
        found = _which(name)
        if found:
            runtimes.setdefault(name, Runtime(found))
    log_opts = {key: str(value) for key, value in options.mapping("log-opts").items()}
    pure = layout.detect().pure
    default_runtime = options.text("default-runtime")
    settings = Settings(
        data_root=os.path.abspath(options.text("data-root")),
        exec_root=os.path.abspath(options.text("exec-root")),
        storage_driver=options.text("storage-driver") or "overlay2",
        default_runtime=default_runtime,
        runtimes=runtimes,
        systemd_cgroup="native.cgroupdriver=systemd" in options.words("exec-opts"),
        cgroup_parent=options.text("cgroup-parent"),
        cgroup_version=2 if pure else 1,
        default_ulimits={
            name: _ulimit(name, value) for name, value in options.mapping("default-ulimits").items()
        },
        log_driver=options.text("log-driver"),
        log_opts=log_opts,
        init=options.flag("init"),
        init_path=init,
        default_ipc_mode=options.text("default-ipc-mode"),
        default_cgroupns_mode=options.text("default-cgroupns-mode"),
        default_shm_size=options.number("default-shm-size"),
        seccomp_profile=options.text("seccomp-profile"),
        no_new_privileges=options.flag("no-new-privileges"),
        apparmor=apparmor.default_profile(),
        live_restore=options.flag("live-restore"),
        shutdown_timeout=options.number("shutdown-timeout"),
        default_stop_timeout=options.number("default-stop-timeout"),
        abilities=abilities.detect(),
        containerd=containerd,
        experimental=options.flag("experimental"),
    )
    settings.runtime(default_runtime)
    return settings


def _runtime(name: str, value: object, containerd: str) -> Runtime:
    """One entry of `runtimes` (moby daemon/runtime_unix.go has the texts)."""
    if name in (OWN_RUNTIME, RUNC_SHIM):
        raise InvalidParameter(f"runtime name '{name}' is reserved")
    entry = value if isinstance(value, dict) else {}
    path, kind = str(entry.get("path") or ""), str(entry.get("runtimeType") or "")
    arguments = tuple(str(word) for word in entry.get("runtimeArgs") or ())
    options = entry.get("options") or {}
    if not path and not kind:
        raise InvalidParameter(f"runtime {name}: either a runtimeType or a path must be configured")
    if path and kind:
        raise InvalidParameter(
            f"runtime {name}: cannot configure both path and runtimeType for the same runtime"
        )
    if path:
        if options:
            raise InvalidParameter(f"runtime {name}: options cannot be used with a path runtime")
        return Runtime(path if path.startswith("/") else _which(path) or path, arguments)
    if arguments:
        raise InvalidParameter(f"runtime {name}: args cannot be used with a runtimeType runtime")
    if not isinstance(options, dict):
        raise InvalidParameter(f"runtime {name}: options must be an object")
    if containerd:
        return Runtime("", type=kind, options=options)
    return _without_containerd(name, kind, options)


def _without_containerd(name: str, kind: str, options: Mapping[str, object]) -> Runtime:
    """What containerd's runc shim would call, our own shim calls, too."""
    if kind != RUNC_SHIM:
        raise InvalidParameter(f"runtime {name}: {kind} needs a containerd (--containerd)")
    program = str(options.get("BinaryName") or "runc")
    return Runtime(program if program.startswith("/") else _which(program) or program)


def _which(name: str) -> str:

    return shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin") or ""


def _ulimit(name: str, value: object) -> Ulimit:
    if isinstance(value, dict):
        soft, hard = value.get("Soft", -1), value.get("Hard", -1)
        if isinstance(soft, int) and isinstance(hard, int):
            return Ulimit(name=str(value.get("Name", name)), soft=soft, hard=hard)
    raise InvalidParameter(f"invalid default ulimit {name}")


def network_settings(options: Options) -> NetworkSettings:
    """What the network service must know."""
    pools: tuple[tuple[str, int], ...] = tuple(
        (str(pool.get("base", "")), int(pool.get("size", 0)))
        for pool in options.items("default-address-pools")
        if isinstance(pool, dict)
    )
    return NetworkSettings(
        bridge=options.text("bridge"),
        bip=options.text("bip"),
        bip6=options.text("bip6"),
        fixed_cidr=options.text("fixed-cidr"),
        fixed_cidr_v6=options.text("fixed-cidr-v6"),
        default_gateway=options.text("default-gateway"),
        default_gateway_v6=options.text("default-gateway-v6"),
        mtu=options.number("mtu"),
        icc=options.flag("icc"),
        ip=options.text("ip"),
        ip_forward=options.flag("ip-forward"),
        ip_forward_no_drop=options.flag("ip-forward-no-drop"),
        ip_masq=options.flag("ip-masq"),
        allow_direct_routing=options.flag("allow-direct-routing"),
        bridge_accept_fwmark=options.text("bridge-accept-fwmark"),
        iptables=options.flag("iptables"),
        ip6tables=options.flag("ip6tables"),
        ipv6=options.flag("ipv6"),
        userland_proxy=options.flag("userland-proxy"),
        dns=options.words("dns"),
        dns_opts=options.words("dns-opts"),
        dns_search=options.words("dns-search"),
        host_gateway_ips=options.words("host-gateway-ips"),
        default_address_pools=pools or DEFAULT_POOLS,
        default_network_opts=tuple(
            (driver, tuple((str(key), str(value)) for key, value in table.items()))
            for driver, table in options.mapping("default-network-opts").items()
            if isinstance(table, dict)
        ),
        firewall_backend=options.text("firewall-backend"),
        resolv_conf=os.environ.get("DOCKER_TEST_RESOLV_CONF_PATH", "")  # as dockerd's
        or options.text("resolv-conf"),
    )


def registry_settings(options: Options) -> RegistrySettings:
    """What the registry client must know. InvalidParameter."""
    proxies = Proxies(
        http=options.text("http-proxy"),
        https=options.text("https-proxy"),
        no_proxy=options.text("no-proxy"),
    )
    return parse_settings(
        mirrors=options.words("registry-mirrors"),
        insecure=options.words("insecure-registries"),
        nondistributable=options.words("allow-nondistributable-artifacts"),
        proxies=proxies,
        max_downloads=options.number("max-concurrent-downloads"),
        max_uploads=options.number("max-concurrent-uploads"),
        max_attempts=options.number("max-download-attempts"),
    )


def min_api_version(options: Options) -> int:
    """The minor number of the oldest API version to serve; the environment has the last word, as
    with dockerd (daemon/command/daemon.go). InvalidParameter."""
    of_environment = os.environ.get("DOCKER_MIN_API_VERSION", "")
    text = of_environment or options.text("min-api-version")
    if not text:
        return MIN_VERSION
    wrong = ""
    major, _, minor = text.partition(".")
    if text[:1] in "vV":
        wrong = 'API version must be provided without "v" prefix'
    elif not (major.isdecimal() and minor.isdecimal() and len(text) <= 16):
        wrong = f"not an API version: {text}"
    elif (int(major), int(minor)) < (1, MIN_VERSION):
        wrong = f"minimum supported API version is 1.{MIN_VERSION}: {text}"
    elif (int(major), int(minor)) > (1, MAX_VERSION):
        wrong = f"maximum supported API version is 1.{MAX_VERSION}: {text}"
    if wrong:
        name = "DOCKER_MIN_API_VERSION" if of_environment else "min-api-version"
        raise InvalidParameter(f"invalid {name}: {wrong}")
    return int(minor)


def reload_attributes(options: Options, settings: Settings) -> dict[str, str]:
    """What the reload event says of the options that can change (moby daemon/reload.go)."""

    def words(key: str) -> str:
        return json.dumps(list(options.words(key)), separators=(",", ":"))

    def flag(key: str) -> str:
        return "true" if options.flag(key) else "false"

    runtimes = {OWN_RUNTIME: "gantry-runc"}
    runtimes.update({name: r.path or r.type for name, r in settings.runtimes.items()})
    return {
        "debug": flag("debug"),
        "default-ipc-mode": settings.default_ipc_mode,
        "default-runtime": settings.default_runtime,
        "default-shm-size": str(settings.default_shm_size),
        "insecure-registries": words("insecure-registries"),
        "labels": words("labels"),
        "live-restore": flag("live-restore"),
        "max-concurrent-downloads": str(options.number("max-concurrent-downloads")),
        "max-concurrent-uploads": str(options.number("max-concurrent-uploads")),
        "max-download-attempts": str(options.number("max-download-attempts")),
        "name": os.uname().nodename,
        "registry-mirrors": words("registry-mirrors"),
        "runtimes": " ".join(f"{name}:{path}" for name, path in sorted(runtimes.items())),
        "shutdown-timeout": str(settings.shutdown_timeout),
    }
