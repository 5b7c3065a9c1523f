"""cgroup v1 (and hybrid): a folder in each mounted hierarchy.

Attaching is the dear part: the first write to a cgroup.procs waits for a grace period
of the kernel's (5 to 20 ms), the ones right after it do not. A single thread that moves
just itself ("0" into `tasks`) needs no such lock: so a process joins by itself where it
has the right to (`entrances`). The hybrid layout's v2 hierarchy has no such file and no
controllers either: it is joined only where somebody looks for it (systemd, runc's users).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gantry.cgroups import files, v1_set, v1_stats
from gantry.cgroups.layout import Layout, absolute, own_paths
from gantry.model.resources import Resources

if TYPE_CHECKING:
    from gantry.cgroups.stats import Stats

_FREEZE_SECONDS = 10.0
_NOWHERE: Mapping[str, str] = MappingProxyType({})
# Joined only when a limit needs them, or who asks wants to see all: a new cpuset costs ten
# times the others.
_ON_DEMAND = frozenset(("cpuset", "hugetlb", "net_cls", "net_prio", "rdma", "perf_event", "misc"))


class V1Cgroup:
    """A container's cgroup under v1. `folders`: controller → folder."""

    def __init__(self, layout: Layout, folders: dict[str, str]) -> None:
        self._layout = layout
        self._folders = folders

    unit = ""

    @classmethod
    def of_path(
        cls, layout: Layout, path: str, resources: Resources, *, hybrid: bool = False
    ) -> V1Cgroup:
        """The cgroup that `path` (a spec's cgroupsPath) means in every hierarchy needed.

        hybrid: in all of them, the v2 one as well, by which systemd sees that a unit has ended,
        and runc's users that a process is of a container.
        """
        own = {} if path.startswith("/") else own_paths()
        folders = {}
        for controller, mount_point in layout.controllers.items():
            on_demand = controller in _ON_DEMAND and not hybrid
            if on_demand and not v1_set.needs(controller, resources):
                continue
            place = absolute(path, own.get(controller, "/"))
            folders[controller] = mount_point + ("" if place == "/" else place)
        if layout.unified and (hybrid or not folders):
            place = absolute(path, own.get("", "/"))
            folders[""] = layout.unified + ("" if place == "/" else place)
        return cls(layout, folders)

    def create(self, resources: Resources) -> None:
        made: list[str] = []
        try:
            for controller, folder in self._folders.items():
                if files.make(folder):
                    made.append(folder)
                if controller == "cpuset":
                    v1_set.inherit_cpuset(folder, self._layout.controllers["cpuset"])
            v1_set.apply(self._folders, resources)
        except BaseException:
            for folder in made:
                try:
                    files.remove(folder)
                except OSError:
                    continue
            raise

    def complete(self, resources: Resources) -> None:
        """What is missing of a cgroup that systemd has made around a process."""
        self.create(resources)

    def check(self, resources: Resources) -> None:
        """Whether `set` would be refused, without setting anything: never, under v1."""

    def cpu_quota(self) -> tuple[int, int]:
        """(quota, period) in microseconds; quota -1: none."""
        folder = self._folders.get("cpu", "")
        quota, period = (
            files.read_or(folder, f"cpu.cfs_{name}_us") for name in ("quota", "period")
        )
        return int(quota or -1), int(period or 100_000)

    def attach(self, pid: int, below: Mapping[str, str] = _NOWHERE) -> None:
        text = str(pid)
        for folder in self._places(below):
            files.write(folder, "cgroup.procs", text)

    def entrances(self, below: Mapping[str, str] = _NOWHERE) -> tuple[str, ...]:
        if list(self._folders) == [""]:
            return ()
        unified = self._layout.unified
        return tuple(
            [
                f"{folder}/{'cgroup.procs' if unified and folder.startswith(unified) else 'tasks'}"
                for folder in self._places(below)
            ]
        )

    def _places(self, below: Mapping[str, str]) -> list[str]:
        folders = dict(self._folders)
        if "" in below:  # without a controller's name: in all of them
            return [files.beneath(folder, below[""]) for folder in folders.values()]
        for controller, path in below.items():
            if controller not in folders:
                raise OSError(errno.ENOENT, f"unknown controller {controller} in sub cgroup path")
            folders[controller] = files.beneath(folders[controller], path)
        return list(dict.fromkeys(folders.values()))

    def set(self, resources: Resources) -> None:
        for controller in _ON_DEMAND:
            if controller not in self._folders and v1_set.needs(controller, resources):
                self._join_late(controller)
        v1_set.apply(self._folders, resources)

    def _join_late(self, controller: str) -> None:
        """Make the folder of a controller that an update is the first to need."""
        mount_point = self._layout.controllers.get(controller)
        known = self._folders.get("memory") or self._folders.get("pids")
        if mount_point is None or known is None:
            raise OSError(errno.ENOENT, f"the {controller} cgroup controller is not mounted")
        root = self._layout.controllers["memory" if "memory" in self._folders else "pids"]
        folder = mount_point + known[len(root) :]
        files.make(folder)
        if controller == "cpuset":
            v1_set.inherit_cpuset(folder, mount_point)
        self._folders[controller] = folder
        for pid in self.pids():
            try:
                files.write(folder, "cgroup.procs", str(pid))
            except ProcessLookupError:
                continue

    def paths(self) -> dict[str, str]:
        return dict(self._folders)

    def _main(self) -> str:
        for controller in ("pids", "memory", "devices", "freezer", ""):
            if controller in self._folders:
                return self._folders[controller]
        for folder in self._folders.values():
            return folder
        raise OSError(errno.EOPNOTSUPP, "no cgroup hierarchy is mounted")

    def pids(self) -> list[int]:
        found: list[int] = []
        for folder in reversed(files.subtree(self._main())):
            found.extend(files.numbers(folder, "cgroup.procs"))
        return found

    def freeze(self) -> None:
        folder = self._freezer()
        deadline = time.monotonic() + _FREEZE_SECONDS
        pause = 0.0005
        while time.monotonic() < deadline:
            # Written again each time: a process that forks while freezing slips past it.
            files.write(folder, "freezer.state", "FROZEN")
            if files.read(folder, "freezer.state") == "FROZEN":
                return
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        files.write(folder, "freezer.state", "THAWED")
        raise TimeoutError(errno.ETIMEDOUT, "unable to freeze", folder)

    def thaw(self) -> None:
        files.write(self._freezer(), "freezer.state", "THAWED")

    def frozen(self) -> bool:
        folder = self._folders.get("freezer")
        return folder is not None and files.read_or(folder, "freezer.state") in (
            "FROZEN",
            "FREEZING",
        )

    def _freezer(self) -> str:
        folder = self._folders.get("freezer")
        if folder is None:
            raise OSError(errno.EOPNOTSUPP, "the freezer cgroup controller is not mounted")
        return folder

    def kill(self) -> bool:
        folder = self._folders.get("")
        if folder is None:
            return False
        try:
            files.write(folder, "cgroup.kill", "1")
        except OSError:
            return False
        return True

    def stats(self) -> Stats:
        return v1_stats.read(self._folders)

    def oom_kills(self) -> int:
        folder = self._folders.get("memory")
        return files.table(folder, "memory.oom_control").get("oom_kill", 0) if folder else 0

    def destroy(self) -> None:
        layout = self._layout
        roots = {*layout.controllers.values(), layout.unified}
        for folder in dict.fromkeys(self._folders.values()):
            if folder.rstrip("/") not in roots:
                files.remove(folder)
