"""Where this machine's cgroup hierarchies are: v1, v2, or both (hybrid)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from gantry.kernel import procfs
from gantry.kernel.procfs import MountInfo
from gantry.model.record import Record


class Layout(Record):
    """The mounted hierarchies.

    unified: mount point of the v2 hierarchy, "" when there is none.
    controllers: v1 controller → mount point; named ones as "name=systemd".
    pure: cgroup v2 and nothing else.
    """

    unified: str = ""
    controllers: dict[str, str] = {}

    @property
    def devices(self) -> bool:
        """Whether a container can be kept from devices: v1 has a hierarchy, v2 takes programs."""
        return self.pure or "devices" in self.controllers

    @property
    def pure(self) -> bool:
        return bool(self.unified) and not self.controllers


_NOT_CONTROLLERS = frozenset(
    (
        "rw", "ro", "clone_children", "release_agent", "xattr", "noprefix", "cpuset_v2_mode",
        "all", "none", "favordynmods", "nofavordynmods", "seclabel",
    )
)  # fmt: skip


def of_mounts(mounts: Iterable[MountInfo]) -> Layout:
    """The layout that a mount table shows; the first mount of a hierarchy counts."""
    unified = ""
    controllers: dict[str, str] = {}
    for mount in mounts:
        if mount.fstype == "cgroup2" and (not unified or mount.mount_point == "/sys/fs/cgroup"):
            unified = mount.mount_point
        elif mount.fstype == "cgroup":
            for word in mount.super_options:
                if word in _NOT_CONTROLLERS or word.startswith("release_agent="):
                    continue
                controllers.setdefault(word, mount.mount_point)
    return Layout(unified=unified, controllers=controllers)


_found: Layout | None = None


def detect() -> Layout:
    """This machine's layout, looked up once in a process's life."""
    global _found
    if _found is None:
        _found = of_mounts(procfs.mountinfo())
    return _found


def own_paths() -> dict[str, str]:
    """controller → this process's cgroup ("" for the unified one)."""
    return procfs.cgroups()


def absolute(path: str, own: str) -> str:
    """A spec's cgroupsPath in one hierarchy: absolute, or relative to the caller's own.

    ".." never climbs above the hierarchy's root (runc cleans it the same way).
    """
    base = "/" if path.startswith("/") else own
    inner = os.path.normpath("/" + path.lstrip("/"))
    return "/" + os.path.normpath(base + inner).lstrip("/")
