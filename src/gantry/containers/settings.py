"""What the containers' services must know of the daemon's configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gantry.cgroups.abilities import Abilities
from gantry.model.container import Ulimit
from gantry.model.errors import InvalidParameter

OWN_RUNTIME = "gantry"
_OWN_NAMES = ("gantry", "io.containerd.runc.v2", "io.containerd.runtime.v1.linux")


_OF_CONTAINERD = re.compile(r"[^./][^/]*\.[^./]+")
"""A runtime of containerd's by name: never a path, which would be executed as it is."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """An OCI runtime. path: "gantry" for our own, else an absolute path.

    type: in the place of a path, a runtime of containerd's ("io.containerd.kata.v2") with its
    options, for a daemon that has a containerd below.
    """

    path: str
    args: tuple[str, ...] = ()
    type: str = ""
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """Names as in daemon.json. apparmor: the profile of containers that name none, "" where the
    kernel enforces none at all. shutdown_timeout: seconds, -1 without end; containerd: the socket
    of the one below, "" for our own shims."""

    data_root: str
    exec_root: str
    storage_driver: str = "overlay2"
    default_runtime: str = OWN_RUNTIME
    runtimes: Mapping[str, Runtime] = field(default_factory=dict)
    systemd_cgroup: bool = False
    cgroup_parent: str = ""
    cgroup_version: int = 1
    default_ulimits: Mapping[str, Ulimit] = field(default_factory=dict)
    log_driver: str = "json-file"
    log_opts: Mapping[str, str] = field(default_factory=dict)
    init: bool = False
    init_path: str = ""
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""
    default_shm_size: int = 64 << 20
    seccomp_profile: str = ""
    no_new_privileges: bool = False
    apparmor: str = ""
    live_restore: bool = False
    shutdown_timeout: int = 15
    default_stop_timeout: int = 10
    recursive_read_only: bool = True
    abilities: Abilities = field(default_factory=Abilities)
    containerd: str = ""
    experimental: bool = False

    @property
    def containers(self) -> str:
        """The folder of the containers' own files."""
        return os.path.join(self.data_root, "containers")

    @property
    def rootfs(self) -> str:
        """An empty folder: each container's root is mounted there, in a mount namespace of its
        own, so all can use the same."""
        return os.path.join(self.exec_root, "rootfs")

    def runtime(self, name: str) -> Runtime:
        """InvalidParameter for one that is not configured."""
        if name in _OWN_NAMES:
            return Runtime(OWN_RUNTIME)
        found = self.runtimes.get(name)
        if found is None and self.containerd and _OF_CONTAINERD.fullmatch(name):
            found = Runtime("", type=name)
        if found is None:
            raise InvalidParameter(f"unknown or invalid runtime name: {name}")
        return found
