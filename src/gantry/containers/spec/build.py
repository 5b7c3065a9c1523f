"""The OCI runtime spec of one start of one container (moby daemon/oci_linux.go).

Everything that does not depend on the start is computed once a configuration and kept in
encoded form; a start adds host name, environment, user and mount sources.
"""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import UNSET

from gantry.containers.record import MountRecord, Record
from gantry.containers.settings import Settings
from gantry.containers.spec import capabilities, devices, resources
from gantry.containers.spec.security import Security, apparmor_profile
from gantry.containers.spec.users import Identity
from gantry.model.container import HostConfig
from gantry.model.errors import InvalidParameter
from gantry.model.mount import Mount

Json = dict[str, Any]

PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT: Final = "/sbin/docker-init"
VERSION: Final = "1.0.2"
"""What every runtime there is accepts; nothing newer is used."""
_NAMESPACES: Final = ("mount", "network", "uts", "pid", "ipc")


@dataclass(frozen=True, slots=True)
class Bind:
    """A mount record with the host path it comes from ("" for tmpfs).

    mount: instead of a bind of `source`, this file system itself (an image's layers).
    """

    record: MountRecord
    source: str
    mount: Mount | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """What only the start knows.

    namespaces: paths of namespaces to join, by type; "" means the host's.
    files: hosts, hostname and resolv.conf on the host, by their path inside.
    shm: a host path that stands for /dev/shm (shareable IPC), "" for one of its own.
    """

    hostname: str
    identity: Identity
    binds: Sequence[Bind]
    files: Mapping[str, str] = field(default_factory=dict)
    namespaces: Mapping[str, str] = field(default_factory=dict)
    env: Sequence[str] = ()
    shm: str = ""


def build(record: Record, settings: Settings, start: Start) -> bytes:
    """config.json. InvalidParameter for options that make no sense."""
    config, host = record.config, record.host_config
    security = Security.parse(host, settings)
    caps = capabilities.effective(host.cap_add, host.cap_drop, privileged=host.privileged)
    nodes, rules = _devices(host)
    spec: Json = {
        "ociVersion": VERSION,
        "process": {
            **process(
                record,
                settings,
                args=_args(record, settings),
                env=environment(record, start),
                cwd=config.working_dir or "/",
                identity=start.identity,
                caps=caps,
            ),
            "terminal": config.tty,
            "oomScoreAdj": host.oom_score_adj,
        },
        "root": {"path": settings.rootfs, "readonly": host.readonly_rootfs},
        "mounts": _mounts(record, settings, start, security),
        "linux": {
            "resources": resources.of(host, rules),
            "cgroupsPath": cgroups_path(record, settings),
            "namespaces": _namespaces(host, start),
            "devices": nodes,
        },
    }
    if start.namespaces.get("uts") is None:
        spec["hostname"] = start.hostname
        if config.domainname:
            spec["domainname"] = config.domainname
    if host.annotations is not UNSET and host.annotations:
        spec["annotations"] = host.annotations
    linux: Json = spec["linux"]
    sysctls = _sysctls(host, start)
    if sysctls:
        linux["sysctl"] = sysctls
    if not host.privileged:
        linux["maskedPaths"] = [*(host.masked_paths or ()), *_hot(host)]
        linux["readonlyPaths"] = host.readonly_paths or []
    filters = security.filter(caps)
    if filters is not None:
        linux["seccomp"] = filters
    propagation = _root_propagation(start.binds)
    if propagation:
        linux["rootfsPropagation"] = propagation
    if config.tty and any(host.console_size):
        rows, columns = host.console_size
        spec["process"]["consoleSize"] = {"height": rows, "width": columns}
    return msgspec.json.encode(spec)


def process(
    record: Record,
    settings: Settings,
    *,
    args: Sequence[str],
    env: Sequence[str],
    cwd: str,
    identity: Identity,
    caps: Sequence[str],
) -> Json:
    """The spec's `process` object; also of an exec'ed one."""
    host = record.host_config
    security = Security.parse(host, settings)
    held = caps
    result: Json = {
        "user": {
            "uid": identity.uid,
            "gid": identity.gid,
            "additionalGids": list(dict.fromkeys(identity.gids)),
        },
        "args": list(args),
        "env": list(env),
        "cwd": cwd,
        "capabilities": {
            "bounding": caps,
            # What is not root's loses these at the change of the user, but files with
            # capabilities may give back what is in the bounding set.
            "effective": held,
            "permitted": held,
        },
        "noNewPrivileges": security.no_new_privileges,
    }
    profile = apparmor_profile(host, settings)
    if profile:
        result["apparmorProfile"] = profile
    limits = {limit.name: limit for limit in settings.default_ulimits.values()}
    limits.update({limit.name: limit for limit in host.ulimits or ()})
    if limits:
        result["rlimits"] = [
            {
                "type": f"RLIMIT_{limit.name.upper()}",
                "hard": limit.hard % (1 << 64),
                "soft": limit.soft % (1 << 64),
            }
            for limit in limits.values()
        ]
    return result


def environment(
    record: Record, start: Start, *, tty: bool | None = None, extra: Sequence[str] = ()
) -> list[str]:
    """The process's environment: Docker's own, then links', the configuration's, `extra`.

    tty: whether this process has a terminal, None: as the container has.
    """
    env = {"PATH": PATH, "HOSTNAME": f"HOSTNAME={start.hostname}"}
    if record.config.tty if tty is None else tty:
        env["TERM"] = "TERM=xterm"
    for entry in start.env:
        env[entry.partition("=")[0]] = entry
    for entry in (*(record.config.env or ()), *extra):
        name, equals, _ = entry.partition("=")
        if equals:
            env[name] = entry
        else:
            env.pop(name, None)  # `-e NAME` without value takes it away
    if "HOME" not in env:
        env["HOME"] = f"HOME={start.identity.home or '/'}"
    return list(env.values())


def _args(record: Record, settings: Settings) -> list[str]:
    argv = [record.path, *record.args]
    return [INIT, "--", *argv] if wants_init(record.host_config, settings) else argv


def wants_init(host: HostConfig, settings: Settings) -> bool:
    """An init of ours is process 1: only in a pid namespace of the container's own."""
    if host.pid_mode not in ("", "private"):
        return False
    return settings.init if host.init is UNSET or host.init is None else bool(host.init)


def find_init(settings: Settings) -> str:
    """The host's init binary. InvalidParameter when there is none."""
    for path in (settings.init_path, "/usr/libexec/docker/docker-init", "/usr/bin/docker-init",
                 "/usr/local/bin/docker-init", "/usr/bin/tini-static", "/usr/bin/tini",
                 "/usr/bin/catatonit", "/usr/libexec/podman/catatonit"):  # fmt: skip
        if path and os.access(path, os.X_OK):
            return path
    raise InvalidParameter(
        "no init for --init: install tini (docker-init) on the host, or name one by --init-path"
    )


def cgroups_path(record: Record, settings: Settings) -> str:
    """Where the container's cgroup is, as the spec says it for either driver."""
    parent = record.host_config.cgroup_parent or settings.cgroup_parent
    if settings.systemd_cgroup:
        return f"{parent or 'system.slice'}:docker:{record.id}"
    return os.path.join(os.path.normpath("/" + (parent or "docker")), record.id)


def _devices(host: HostConfig) -> tuple[list[Json], list[Json]]:
    if host.privileged:
        nodes = devices.of_the_host()
        for mapping in host.devices or ():
            if mapping.path_on_host != mapping.path_in_container:
                nodes += devices.mapped(mapping)[0]
        return nodes, list(devices.EVERYTHING)
    nodes, rules = [], list(devices.DEFAULT_RULES)
    for mapping in host.devices or ():
        found, allowed = devices.mapped(mapping)
        nodes += found
        rules += allowed
    return nodes, rules + devices.check_rules(host.device_cgroup_rules)


def _namespaces(host: HostConfig, start: Start) -> list[Json]:
    result: list[Json] = []
    for kind in _NAMESPACES:
        path = start.namespaces.get(kind)
        if path is None:
            result.append({"type": kind})
        elif path:
            result.append({"type": kind, "path": path})
    if host.cgroupns_mode == "private":
        result.append({"type": "cgroup"})
    return result


def _sysctls(host: HostConfig, start: Start) -> dict[str, str]:
    result: dict[str, str] = {}
    if start.namespaces.get("network") is None:
        # Unprivileged ping and low ports: safe in a network namespace of one's own.
        result["net.ipv4.ping_group_range"] = "0 2147483647"
        result["net.ipv4.ip_unprivileged_port_start"] = "0"
    if host.sysctls is not UNSET and host.sysctls:
        result.update(host.sysctls)
    return result


@functools.cache
def _thermal() -> tuple[str, ...]:
    return tuple(sorted(glob.glob("/sys/devices/system/cpu/cpu*/thermal_throttle")))


def _hot(host: HostConfig) -> tuple[str, ...]:
    """Docker also hides how hot each CPU is (a side channel), unless nothing is masked."""
    return _thermal() if host.masked_paths else ()


_PROC: Final[Json] = {
    "destination": "/proc",
    "type": "proc",
    "source": "proc",
    "options": ["nosuid", "noexec", "nodev"],
}
_DEV: Final[Json] = {
    "destination": "/dev",
    "type": "tmpfs",
    "source": "tmpfs",
    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
}
_PTS: Final[Json] = {
    "destination": "/dev/pts",
    "type": "devpts",
    "source": "devpts",
    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
}
_SYS: Final = ["nosuid", "noexec", "nodev"]
_MQUEUE: Final[Json] = {
    "destination": "/dev/mqueue",
    "type": "mqueue",
    "source": "mqueue",
    "options": ["nosuid", "noexec", "nodev"],
}


def _mounts(record: Record, settings: Settings, start: Start, security: Security) -> list[Json]:
    host = record.host_config
    taken = {bind.record.destination for bind in start.binds}
    sys_options = _SYS if host.privileged else [*_SYS, "ro"]
    cgroup_options = [*_SYS] if security.writable_cgroups else ["ro", *_SYS]
    standard = [
        _PROC,
        _DEV,
        _PTS,
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": sys_options},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": cgroup_options,
        },
        _MQUEUE,
    ]
    if host.ipc_mode != "none":
        standard.append(_shm(host, start))
    whole_dev = "/dev" in taken
    mounts = [
        mount
        for mount in standard
        if mount["destination"] not in taken
        and not (whole_dev and mount["destination"].startswith("/dev/"))
    ]
    own = [
        (
            destination,
            {
                "destination": destination,
                "type": "bind",
                "source": source,
                "options": ["rbind", "rprivate", *(["ro"] if host.readonly_rootfs else [])],
            },
        )
        for destination, source in start.files.items()
        if destination not in taken
    ]
    own += [(bind.record.destination, _bind(bind, settings)) for bind in start.binds]
    # Parents before children: what is mounted later lies on top.
    own.sort(key=lambda pair: pair[0].count("/"))
    mounts += [mount for _, mount in own]
    if wants_init(host, settings):
        mounts.append(
            {
                "destination": INIT,
                "type": "bind",
                "source": find_init(settings),
                "options": ["bind", "ro"],
            }
        )
    return mounts


def _shm(host: HostConfig, start: Start) -> Json:
    if start.shm:
        return {
            "destination": "/dev/shm",
            "type": "bind",
            "source": start.shm,
            "options": ["rbind", "rprivate"],
        }
    return {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": [*_SYS, "mode=1777", f"size={host.shm_size}"],
    }


def _bind(bind: Bind, settings: Settings) -> Json:
    record = bind.record
    if record.kind == "tmpfs":
        words = ["noexec", "nosuid", "nodev", "rprivate"]
        for word in record.options.split(",") if record.options else ():
            opposite = word.removeprefix("no") if word.startswith("no") else f"no{word}"
            words = [w for w in words if w not in (word, opposite)]
            words.append(word)
        return {
            "destination": record.destination,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": words,
        }
    if bind.mount is not None and bind.mount.type != "bind":
        options = [*bind.mount.options, "rprivate"]
        if "ro" not in options:
            options.append("ro")
        return {
            "destination": record.destination,
            "type": bind.mount.type,
            "source": bind.mount.source,
            "options": options,
        }
    options = ["bind" if record.non_recursive else "rbind"]
    if record.kind == "image":
        return {
            "destination": record.destination,
            "type": "bind",
            "source": bind.source,
            "options": ["rbind", "ro", "rprivate"],
        }
    if not record.writable:
        deep = settings.recursive_read_only and record.read_only != "non-recursive"
        options.append("rro" if deep else "ro")
    options.append(record.propagation or "rprivate")
    return {
        "destination": record.destination,
        "type": "bind",
        "source": bind.source,
        "options": options,
    }


def _root_propagation(binds: Sequence[Bind]) -> str:
    """The rootfs must let through what its mounts are to share."""
    found = {bind.record.propagation for bind in binds}
    if found & {"shared", "rshared"}:
        return "shared"
    return "rslave" if found & {"slave", "rslave"} else ""
