"""From a spec's cgroupsPath to the cgroup it means on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gantry.cgroups.group import Cgroup
from gantry.cgroups.layout import detect
from gantry.cgroups.v1 import V1Cgroup
from gantry.kernel import procfs
from gantry.model.record import EMPTY
from gantry.model.resources import Resources

if TYPE_CHECKING:
    from gantry.cgroups.v2 import V2Cgroup


def plan(
    path: str,
    container_id: str,
    resources: Resources,
    *,
    systemd: bool = False,
    annotations: Mapping[str, str] = EMPTY,
    hybrid: bool = False,
    rootless: bool | None = None,
) -> Cgroup:
    """The cgroup for a new container; nothing is made yet.

    path: a spec's cgroupsPath: absolute, relative to the caller's own cgroup, or "" for
    one named after the container. systemd: as "slice:prefix:name", a unit of systemd's;
    annotations may then name properties of it ("org.systemd.property.NAME"). hybrid: on a
    hybrid machine in the hierarchy of v2 as well, which has no controllers. rootless: a
    cgroup that nobody asked for may be missing; None: if the caller is not the machine's root.
    """
    layout = detect()
    if systemd:
        from gantry.cgroups.systemd import SystemdCgroup

        return SystemdCgroup.of_path(layout, path, container_id, resources, annotations)
    place = path or f"/{container_id}"
    found: V1Cgroup | V2Cgroup
    if layout.pure:
        from gantry.cgroups.v2 import V2Cgroup

        found = V2Cgroup.of_path(layout, place)
    else:
        found = V1Cgroup.of_path(layout, place, resources, hybrid=hybrid)
    if rootless is None:
        rootless = procfs.outer_uid() != 0
    if not rootless:
        return found
    from gantry.cgroups.rootless import RootlessCgroup

    return RootlessCgroup(layout, found, explicit=bool(path))


def reopen(paths: Mapping[str, str], systemd_unit: str = "") -> Cgroup:
    """The cgroup whose folders a state.json holds."""
    layout = detect()
    if not paths:
        from gantry.cgroups.rootless import RootlessCgroup

        return RootlessCgroup(layout, None, explicit=False)
    inner: V1Cgroup | V2Cgroup
    if layout.pure:
        from gantry.cgroups.v2 import V2Cgroup

        inner = V2Cgroup(layout, paths[""])
    else:
        inner = V1Cgroup(layout, dict(paths))
    if not systemd_unit:
        return inner
    from gantry.cgroups.systemd import SystemdCgroup

    return SystemdCgroup(inner, systemd_unit, user=procfs.outer_uid() != 0)


def of_process(pid: int) -> Cgroup:
    """The cgroup that a process is in. OSError: there is no such process."""
    layout = detect()
    own = procfs.cgroups(pid)
    if layout.pure:
        from gantry.cgroups.v2 import V2Cgroup

        return V2Cgroup(layout, layout.unified + own[""])
    return V1Cgroup(
        layout,
        {name: layout.controllers[name] + path for name, path in own.items()
         if name in layout.controllers},
    )  # fmt: skip
