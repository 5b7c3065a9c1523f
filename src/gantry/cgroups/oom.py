"""How often the kernel has killed for memory, by the files that count it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from gantry.kernel import procfs


def files_of(pid: int) -> list[str]:
    """Files whose oom_kill counter is that of the cgroup `pid` is in (v2 and v1)."""
    folders: dict[str, str] = {}
    for line in procfs.read_if_there(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folders[""] = f"/sys/fs/cgroup{path}"
        elif "memory" in controllers.split(","):
            folders["memory"] = f"/sys/fs/cgroup/memory{path}"
    return files_in(folders)


def files_in(folders: Mapping[str, str]) -> list[str]:
    """The same for cgroups that are known: controller ("" for the unified one) → folder."""
    found = [
        f"{folders[kind]}/{name}"
        for kind, name in (("", "memory.events"), ("memory", "memory.oom_control"))
        if kind in folders
    ]
    return [path for path in found if os.path.exists(path)]


def kills_in(files: Sequence[str]) -> int:
    """The sum of the `oom_kill` counters."""
    total = 0
    for path in files:
        for line in procfs.read_if_there(path).splitlines():
            if line.startswith("oom_kill "):
                total += int(line.split()[1])
    return total
