"""From a spec's cgroupsPath to the cgroup it means on this machine."""

from __future__ import annotations

from collections.abc import Mapping

from gantry.cgroups.group import Cgroup
from gantry.cgroups.layout import detect
from gantry.cgroups.v1 import V1Cgroup
from gantry.model.resources import Resources


def plan(path: str, container_id: str, resources: Resources, *, systemd: bool = False) -> Cgroup:
    """The cgroup for a new container; nothing is made yet.

    path: a spec's cgroupsPath: absolute, relative to the caller's own cgroup, or "" for
    one named after the container.
    """
    layout = detect()
    place = path or f"/{container_id}"
    if layout.pure:
        from gantry.cgroups.v2 import V2Cgroup

        return V2Cgroup.of_path(layout, place)
    return V1Cgroup.of_path(layout, place, resources)


def reopen(paths: Mapping[str, str], systemd_unit: str = "") -> Cgroup:
    """The cgroup whose folders a state.json holds."""
    layout = detect()
    if layout.pure:
        from gantry.cgroups.v2 import V2Cgroup

        return V2Cgroup(layout, paths[""])
    return V1Cgroup(layout, dict(paths))
