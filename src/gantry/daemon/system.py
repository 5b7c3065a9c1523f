"""`docker info`, `docker version`, system df and events: what the engine says of itself.

Nothing is decided here: facts of the machine and of the services are put into the
shapes of moby's `SystemInfo` and `SystemVersion`.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

import gantry
from gantry.api.backend import Filters, Json
from gantry.cgroups import abilities
from gantry.daemon.options import Options

API: Final = "1.55"
ENGINE_VERSION: Final = "29.7.0"
"""The Docker Engine whose behaviour is mirrored; clients compare this number."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Counts(Protocol):
    """What containers there are."""

    def counts(self) -> Mapping[str, int]:
        """{"running", "paused", "stopped"}."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while the daemon runs. containerd: version and revision of the one
    below, empty without one."""

    engine_id: str
    data_root: str
    driver: str
    driver_status: Callable[[], Sequence[tuple[str, str]]]
    image_count: Callable[[], int]
    listeners: Callable[[], int]
    runtimes: Mapping[str, str]
    default_runtime: str
    cgroup_driver: str
    cgroup_version: int
    security_options: Sequence[str]
    init_binary: str
    firewall: str
    registries: Json
    min_api: str
    containerd: tuple[str, str] = ("", "")


class System:
    """SystemBackend's plain half; events and disk usage are the services'."""

    def __init__(
        self,
        options: Options,
        facts: Facts,
        counts: Counts,
        events: Callable[[str, str, Filters], AsyncIterator[Json]],
        disk_usage: Callable[[Sequence[str]], Awaitable[Json]],
        auth: Callable[[Json], Awaitable[Json]],
    ) -> None:
        self._options = options
        self._facts = facts
        self._counts = counts
        self._events = events
        self._disk_usage = disk_usage
        self._auth = auth

    @property
    def engine_id(self) -> str:
        return self._facts.engine_id

    def reload(self, options: Options, default_runtime: str, registries: Json) -> None:
        """The daemon's configuration has changed."""
        self._options = options
        self._facts = replace(self._facts, default_runtime=default_runtime, registries=registries)

    def version(self) -> Json:
        kernel = os.uname()
        built = datetime.fromtimestamp(os.stat(gantry.__file__).st_mtime, UTC)
        details = {
            "ApiVersion": API,
            "Arch": arch(),
            "BuildTime": built.isoformat(timespec="seconds"),
            "Experimental": str(self._options.flag("experimental")).lower(),
            "GitCommit": gantry.__version__,
            "GoVersion": f"python{platform.python_version()}",
            "KernelVersion": kernel.release,
            "MinAPIVersion": self._facts.min_api,
            "Os": "linux",
        }
        return {
            "Platform": {"Name": f"gantry {gantry.__version__}"},
            "Components": [
                {"Name": "Engine", "Version": ENGINE_VERSION, "Details": details},
                *self._containerd_component(),
                {
                    "Name": "gantry-runc",
                    "Version": gantry.__version__,
                    "Details": {"GitCommit": gantry.__version__},
                },
            ],
            "Version": ENGINE_VERSION,
            "ApiVersion": API,
            "MinAPIVersion": self._facts.min_api,
            "GitCommit": gantry.__version__,
            "GoVersion": details["GoVersion"],
            "Os": "linux",
            "Arch": arch(),
            "KernelVersion": kernel.release,
            "BuildTime": details["BuildTime"],
            **({"Experimental": True} if self._options.flag("experimental") else {}),
        }

    def info(self) -> Json:
        facts, options = self._facts, self._options
        counts = self._counts.counts()
        can = abilities.detect()
        name, version = _operating_system()
        return {
            "ID": facts.engine_id,
            "Containers": sum(counts.values()),
            "ContainersRunning": counts["running"],
            "ContainersPaused": counts["paused"],
            "ContainersStopped": counts["stopped"],
            "Images": facts.image_count(),
            "Driver": facts.driver,
            "DriverStatus": [list(pair) for pair in facts.driver_status()],
            "SystemStatus": None,
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
                "Authorization": None,
                "Log": ["fluentd", "gelf", "journald", "json-file", "local", "syslog"],
            },
            "MemoryLimit": can.memory,
            "SwapLimit": can.swap,
            "CpuCfsPeriod": can.quota,
            "CpuCfsQuota": can.quota,
            "CPUShares": can.shares,
            "CPUSet": can.cpuset,
            "PidsLimit": can.pids,
            "IPv4Forwarding": _is_on("/proc/sys/net/ipv4/ip_forward"),
            "Debug": options.flag("debug"),
            "NFd": len(os.listdir("/proc/self/fd")),
            "OomKillDisable": can.oom_kill_disable,
            "NGoroutines": len(asyncio.all_tasks()) + len(os.listdir("/proc/self/task")),
            "SystemTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "LoggingDriver": options.text("log-driver"),
            "CgroupDriver": facts.cgroup_driver,
            "CgroupVersion": str(facts.cgroup_version),
            "NEventsListener": facts.listeners(),
            "KernelVersion": os.uname().release,
            "OperatingSystem": name,
            "OSVersion": version,
            "OSType": "linux",
            "Architecture": os.uname().machine,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": facts.registries,
            "NCPU": len(os.sched_getaffinity(0)),
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "GenericResources": None,
            "DockerRootDir": facts.data_root,
            "HttpProxy": options.text("http-proxy"),
            "HttpsProxy": options.text("https-proxy"),
            "NoProxy": options.text("no-proxy"),
            "Name": socket.gethostname(),
            "Labels": list(options.words("labels")),
            "ExperimentalBuild": options.flag("experimental"),
            "ServerVersion": ENGINE_VERSION,
            "Runtimes": {key: {"path": path} for key, path in facts.runtimes.items()},
            "DefaultRuntime": facts.default_runtime,
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": options.flag("live-restore"),
            "Isolation": "",
            "InitBinary": facts.init_binary,
            **self._containerd(),
            "RuncCommit": {"ID": gantry.__version__, "Expected": gantry.__version__},
            "InitCommit": {"ID": "", "Expected": ""},
            "SecurityOptions": list(facts.security_options),
            "FirewallBackend": {"Driver": facts.firewall},
            "DefaultAddressPools": [
                {"Base": str(pool.get("base")), "Size": pool.get("size")}
                for pool in options.items("default-address-pools")
                if isinstance(pool, dict)
            ],
            "CDISpecDirs": _cdi_folders(options),
            "Warnings": [*_exposed(options), *_warnings(can, facts.cgroup_version)] or None,
        }

    def _containerd_component(self) -> list[Json]:
        version, revision = self._facts.containerd
        if not version:
            return []
        return [{"Name": "containerd", "Version": version, "Details": {"GitCommit": revision}}]

    def _containerd(self) -> Json:
        """Whom `info` calls containerd: the one below, or our own tasks."""
        version, revision = self._facts.containerd
        commit = revision or version or gantry.__version__
        found: Json = {"ContainerdCommit": {"ID": commit, "Expected": commit}}
        options = self._options
        if options.text("containerd"):
            found["Containerd"] = {
                "Address": options.text("containerd"),
                "Namespaces": {
                    "Containers": options.text("containerd-namespace"),
                    "Plugins": options.text("containerd-plugins-namespace"),
                },
            }
        return found

    def events(self, *, since: str, until: str, filters: Filters) -> AsyncIterator[Json]:
        return self._events(since, until, filters)

    async def disk_usage(self, types: Sequence[str], *, verbose: bool) -> Json:
        return await self._disk_usage(types)

    async def auth(self, body: Json) -> Json:
        return await self._auth(body)


def arch() -> str:
    """Go's name of this machine's architecture."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def _cdi_folders(options: Options) -> list[str]:
    if options.mapping("features").get("cdi", True) in (False, "false"):
        return []
    return [word for word in options.words("cdi-spec-dirs") if word]


def _operating_system() -> tuple[str, str]:
    fields: dict[str, str] = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8") as file:
                for line in file:
                    key, _, value = line.strip().partition("=")
                    fields[key] = value.strip("\"'")
            break
        except OSError:
            continue
    return fields.get("PRETTY_NAME", "Linux"), fields.get("VERSION_ID", "")


def _is_on(path: str) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() != "0"
    except OSError:
        return False


def _exposed(options: Options) -> list[str]:
    """What moby says of an API that everybody on the network may use (daemon/info.go)."""
    found = []
    for host in options.words("hosts"):
        kind, _, address = host.rpartition("://")
        if (kind or ("unix" if host.startswith("/") else "tcp")) != "tcp":
            continue
        if options.flag("tlsverify"):
            continue
        secured = options.flag("tls")
        what = "without TLS client verification" if secured else "without encryption"
        found.append(
            f"[DEPRECATION NOTICE]: API is accessible on http{'s' if secured else ''}://{address}"
            f" {what}.\n         Access to the remote API is equivalent to root access on the host."
            " Refer\n         to the 'Docker daemon attack surface' section in the documentation"
            " for\n         more information:"
            " https://docs.docker.com/go/attack-surface/\nIn future versions this will be a hard"
            " failure preventing the daemon from starting! Learn more at:"
            " https://docs.docker.com/go/api-security/"
        )
    return found


def _warnings(can: abilities.Abilities, version: int) -> list[str]:
    """What cannot be limited here (moby daemon/info_unix.go)."""
    known = [
        (can.memory, "memory limit"),
        (can.swap, "swap limit"),
        (can.oom_kill_disable or version == 2, "oom kill disable"),
        (can.quota, "cpu cfs quota"),
        (can.quota, "cpu cfs period"),
        (can.shares, "cpu shares"),
        (can.cpuset, "cpuset"),
        (can.pids, "pids limit"),
    ]
    return [f"WARNING: No {name} support" for there, name in known if not there]
