"""Who supervises containers: our own launcher and shims, or a real containerd (--containerd)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from gantry.containers.settings import Settings
from gantry.containers.tasks import Tasks


class Supervisor(Tasks, Protocol):
    """A task driver as the engine brings it up."""

    @property
    def version(self) -> tuple[str, str]:
        """Version and revision of the containerd below, when it is up; empty without one."""

    async def warm(self) -> None:
        """Have all ready that a start needs; to be called first. Unavailable, System."""


def supervisor(settings: Settings, namespace: str) -> Supervisor:
    """namespace: containerd's, for containers."""
    exec_root = Path(settings.exec_root)
    if settings.containerd:
        from gantry.tasks.containerd.driver import ContainerdTasks

        scripts = Path(os.path.join(settings.data_root, "runtimes"))
        return ContainerdTasks(settings.containerd, namespace, exec_root, scripts)
    from gantry.tasks.driver import ShimTasks

    return ShimTasks(exec_root)
