"""A container's cgroup as a scope of systemd's, for machines where systemd owns them all.

systemd makes the scope around the container's first process and keeps its limits over a
reload; everything that it does not know (and all of statistics, freezing, devices) is done
on the files, by the plain driver of the machine's version.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gantry.cgroups import systemd_annotations, systemd_properties
from gantry.cgroups.dbus import Variant
from gantry.cgroups.layout import Layout
from gantry.cgroups.stats import Stats
from gantry.cgroups.systemd_manager import Manager, Property
from gantry.cgroups.v1 import V1Cgroup
from gantry.cgroups.v2 import V2Cgroup
from gantry.kernel.procfs import outer_uid
from gantry.model.resources import Resources

_NOWHERE: Mapping[str, str] = MappingProxyType({})


def parse_path(path: str, container_id: str, default_slice: str) -> tuple[str, str]:
    """(slice, unit) of a cgroupsPath in systemd's form, "slice:prefix:name".

    A name that ends in ".slice" is the unit itself. OSError EINVAL: it has another form.
    """
    if not path:
        path = f":runc:{container_id}"
    parts = path.split(":")
    if len(parts) != 3:
        raise OSError(
            errno.EINVAL,
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
            f'got "{path}" instead',
        )
    slice_name, prefix, name = parts
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope"
    return slice_name or default_slice, unit


def expand_slice(name: str) -> str:
    """Where a slice is: "a-b.slice" → "/a.slice/a-b.slice"; "-.slice" is the root."""
    if name == "-.slice":
        return "/"
    stem = name.removesuffix(".slice")
    if not name.endswith(".slice") or not stem or "/" in stem or "" in stem.split("-"):
        raise OSError(errno.EINVAL, f"invalid slice name: {name}")
    words = stem.split("-")
    return "".join(f"/{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))


class SystemdCgroup:
    """The unit, and the plain driver for what is inside it.

    user: the unit belongs to the user's own systemd. properties: more of the unit's.
    """

    def __init__(
        self,
        inner: V1Cgroup | V2Cgroup,
        unit: str,
        *,
        user: bool,
        slice_name: str = "",
        properties: Sequence[Property] = (),
    ) -> None:
        self._inner = inner
        self._slice = slice_name
        self._user = user
        self._properties = properties
        self._resources = Resources()
        self._started = True  # one that is only removed may be there
        self.unit = unit

    @classmethod
    def of_path(
        cls,
        layout: Layout,
        path: str,
        container_id: str,
        resources: Resources,
        annotations: Mapping[str, str] = _NOWHERE,
    ) -> SystemdCgroup:
        """The unit that a cgroupsPath means; nothing is made yet."""
        user = outer_uid() != 0
        slice_name, unit = parse_path(path, container_id, "user.slice" if user else "system.slice")
        place = f"{expand_slice(slice_name).rstrip('/')}/{unit}"
        if user and not layout.pure:
            raise OSError(
                errno.EOPNOTSUPP, "systemd hands cgroups to plain users on cgroup v2 only"
            )
        if user:
            # The user's systemd has a cgroup of its own, and everything of its is below.
            with Manager(user=True) as manager:
                place = manager.property("ControlGroup").rstrip("/") + place
        inner: V1Cgroup | V2Cgroup
        if layout.pure:
            inner = V2Cgroup.of_path(layout, place)
        else:
            inner = V1Cgroup.of_path(layout, place, resources, hybrid=True)
        return cls(
            inner, unit, user=user, slice_name=slice_name,
            properties=systemd_annotations.properties(annotations),
        )  # fmt: skip

    @property
    def _unified(self) -> bool:
        return isinstance(self._inner, V2Cgroup)

    def create(self, resources: Resources) -> None:
        """Only noted: a scope cannot be without a process."""
        # Device filters are root's to make.
        self._resources = resources.replace(devices=()) if self._user else resources
        self._started = False

    def attach(self, pid: int, below: Mapping[str, str] = _NOWHERE) -> None:
        if not self._started:
            self._start(pid)
            self._inner.complete(_rounded(self._resources))
            self._started = True
        try:
            self._inner.attach(pid, below)
        except PermissionError:
            # A user may not move a process from beside his systemd's cgroup: it may itself.
            with Manager(user=self._user) as manager:
                manager.attach(self.unit, f"/{below.get('', '').strip('/')}", pid)

    def entrances(self, below: Mapping[str, str] = _NOWHERE) -> tuple[str, ...]:
        return () if self._slice else self._inner.entrances(below)

    def _start(self, pid: int) -> None:
        flags = [
            "MemoryAccounting",
            "CPUAccounting",
            "IOAccounting" if self._unified else "BlockIOAccounting",
            "TasksAccounting",
        ]
        properties: list[Property] = [
            ("Description", Variant("s", f"gantry container {self.unit}")),
            ("PIDs", Variant("au", [pid])),
            *((name, Variant("b", True)) for name in flags),
            ("DefaultDependencies", Variant("b", False)),
        ]
        if self.unit.endswith(".slice"):
            properties.append(("Wants", Variant("as", [self._slice])))
        else:
            properties.append(("Slice", Variant("s", self._slice)))
            properties.append(("Delegate", Variant("b", True)))
        with Manager(user=self._user) as manager:
            if not self._user:
                properties += systemd_properties.devices(self._resources.devices)
            if self._unified:
                properties += systemd_properties.oom_policy(self._resources, manager.version)
            properties += systemd_properties.limits(
                self._resources, unified=self._unified, version=manager.version
            )
            manager.start(self.unit, [*properties, *self._properties])

    def set(self, resources: Resources) -> None:
        self._inner.check(resources)
        resources = self._complete(resources)
        with Manager(user=self._user) as manager:
            changed = systemd_properties.limits(
                resources, unified=self._unified, version=manager.version
            )
            if changed:
                manager.change(self.unit, changed)
        self._inner.set(_rounded(resources))

    def _complete(self, resources: Resources) -> Resources:
        """systemd counts a quota for a second: it takes quota and period to know it."""
        cpu = resources.cpu
        if cpu is None or bool(cpu.quota) == bool(cpu.period):
            return resources
        quota, period = self._inner.cpu_quota()
        cpu = cpu.replace(quota=cpu.quota or quota, period=cpu.period or period)
        return resources.replace(cpu=cpu)

    def destroy(self) -> None:
        if self._started:
            try:
                with Manager(user=self._user) as manager:
                    manager.stop(self.unit)
            except OSError:
                pass  # gone with its last process, or systemd is: what counts is below
        self._inner.destroy()

    def paths(self) -> dict[str, str]:
        return self._inner.paths()

    def pids(self) -> list[int]:
        return self._inner.pids()

    def freeze(self) -> None:
        self._inner.freeze()

    def thaw(self) -> None:
        self._inner.thaw()

    def frozen(self) -> bool:
        return self._inner.frozen()

    def kill(self) -> bool:
        return self._inner.kill()

    def stats(self) -> Stats:
        return self._inner.stats()

    def oom_kills(self) -> int:
        return self._inner.oom_kills()


def _rounded(resources: Resources) -> Resources:
    """The quota as systemd writes it: the file says the same, whoever wrote last."""
    cpu = resources.cpu
    if cpu is None or not cpu.quota or cpu.quota < 0:
        return resources
    quota = systemd_properties.rounded_quota(cpu.quota, cpu.period)
    return resources.replace(cpu=cpu.replace(quota=quota))
