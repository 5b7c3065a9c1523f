"""cgroup v2: one folder, controllers handed down from above, devices filtered by eBPF."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gantry.cgroups import devices, files, v2_set, v2_stats
from gantry.cgroups.layout import Layout, absolute, own_paths
from gantry.model.resources import Resources

if TYPE_CHECKING:
    from gantry.cgroups.stats import Stats

_FREEZE_SECONDS = 10.0
_NOWHERE: Mapping[str, str] = MappingProxyType({})


class V2Cgroup:
    """A container's cgroup on a unified machine."""

    def __init__(self, layout: Layout, folder: str) -> None:
        self._layout = layout
        self.folder = folder

    unit = ""

    @classmethod
    def of_path(cls, layout: Layout, path: str) -> V2Cgroup:
        """The cgroup that `path` (a spec's cgroupsPath) means."""
        own = "/" if path.startswith("/") else own_paths().get("", "/")
        return cls(layout, layout.unified + absolute(path, own))

    def create(self, resources: Resources) -> None:
        root = self._layout.unified
        made: list[str] = []
        try:
            self._make_path(root, made)
            if files.numbers(self.folder, "cgroup.procs"):
                raise OSError(errno.EBUSY, "container's cgroup is not empty", self.folder)
            v2_set.apply(self.folder, resources)
            if resources.devices:
                devices.attach(self.folder, resources.devices)
        except BaseException:
            for folder in reversed(made):
                try:
                    files.remove(folder)
                except OSError:
                    continue
            raise

    def _make_path(self, root: str, made: list[str]) -> None:
        """Make each level, and have each parent hand its controllers down."""
        here = root
        for part in self.folder[len(root) :].strip("/").split("/"):
            enable_all(here)
            here = f"{here}/{part}"
            if files.make(here):
                made.append(here)

    def complete(self, resources: Resources) -> None:
        """What is missing of a cgroup that systemd has made around a process."""
        self._make_path(self._layout.unified, [])
        self.set(resources)

    def check(self, resources: Resources) -> None:
        """OSError EBUSY: `set` would take memory away that is in use, and was told not to."""
        if resources.memory is not None:
            v2_set.check_usage(self.folder, resources.memory)

    def cpu_quota(self) -> tuple[int, int]:
        """(quota, period) in microseconds; quota -1: none."""
        quota, _, period = files.read_or(self.folder, "cpu.max", "max 100000").partition(" ")
        return -1 if quota == "max" else int(quota), int(period or 100_000)

    def entrances(self, below: Mapping[str, str] = _NOWHERE) -> tuple[str, ...]:
        return ()

    def attach(self, pid: int, below: Mapping[str, str] = _NOWHERE) -> None:
        if below:
            if "" not in below:
                raise OSError(errno.EINVAL, "a sub cgroup of cgroup v2 has no controller: prefix")
            files.write(files.beneath(self.folder, below[""]), "cgroup.procs", str(pid))
            return
        try:
            files.write(self.folder, "cgroup.procs", str(pid))
        except OSError as error:
            # A container with its own cgroup namespace may have moved everything into
            # children and handed controllers down: then the first child takes it.
            if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
                raise
            for folder in reversed(files.subtree(self.folder)[:-1]):
                try:
                    files.write(folder, "cgroup.procs", str(pid))
                    return
                except OSError:
                    continue
            raise

    def set(self, resources: Resources) -> None:
        v2_set.apply(self.folder, resources)
        if resources.devices:
            devices.attach(self.folder, resources.devices)

    def paths(self) -> dict[str, str]:
        return {"": self.folder}

    def pids(self) -> list[int]:
        found: list[int] = []
        for folder in reversed(files.subtree(self.folder)):
            try:
                found.extend(files.numbers(folder, "cgroup.procs"))
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENODEV):  # a threaded cgroup
                    raise
        return found

    def freeze(self) -> None:
        files.write(self.folder, "cgroup.freeze", "1")
        if not self._wait_frozen():
            files.write(self.folder, "cgroup.freeze", "0")
            raise TimeoutError(errno.ETIMEDOUT, "unable to freeze", self.folder)

    def _wait_frozen(self) -> bool:
        """cgroup.events tells of its changes by POLLPRI: no polling loop."""
        fd = os.open(f"{self.folder}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        deadline = time.monotonic() + _FREEZE_SECONDS
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            while True:
                text = os.pread(fd, 4096, 0)
                if b"frozen 1" in text:
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(min(left, 1.0) * 1000)
        finally:
            os.close(fd)

    def thaw(self) -> None:
        files.write(self.folder, "cgroup.freeze", "0")

    def frozen(self) -> bool:
        return files.read_or(self.folder, "cgroup.freeze") == "1"

    def kill(self) -> bool:
        try:
            files.write(self.folder, "cgroup.kill", "1")
        except OSError:
            return False
        return True

    def stats(self) -> Stats:
        return v2_stats.read(self.folder)

    def oom_kills(self) -> int:
        return files.table(self.folder, "memory.events").get("oom_kill", 0)

    def destroy(self) -> None:
        files.remove(self.folder)


def enable_all(folder: str) -> None:
    """Hand down every controller that `folder` has and does not yet hand down.

    One that cannot be (real-time threads for cpu, a domain that holds processes) is
    left: the limit that needs it will say so.
    """
    available = files.read_or(folder, "cgroup.controllers").split()
    handed = frozenset(files.read_or(folder, "cgroup.subtree_control").split())
    missing = [name for name in available if name not in handed]
    if not missing:
        return
    try:
        files.write(folder, "cgroup.subtree_control", " ".join(f"+{name}" for name in missing))
    except OSError:
        for name in missing:
            try:
                files.write(folder, "cgroup.subtree_control", f"+{name}")
            except OSError:
                continue
