"""A root file system of busybox, and drivers over it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gantry.containers.tasks import Task
from gantry.model.task import LogSpec, StdioSpec, TaskSpec
from gantry.tasks.driver import ShimTasks
from gantry.testing.tasks_contract import LogPaths

BUSYBOX = "/bin/busybox"
APPLETS = ("cat", "echo", "false", "head", "seq", "sh", "sleep", "stty", "true", "yes", "kill")


def make_rootfs(folder: Path) -> Path:
    """busybox and nothing else. Skips where there is none."""
    if not os.path.exists(BUSYBOX):
        pytest.skip("needs busybox-static")
    for name in ("bin", "proc", "dev", "tmp", "etc"):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for name in APPLETS:
        (folder / "bin" / name).symlink_to("busybox")
    return folder


def configuration(args: Sequence[str], root: str | Path, cgroup: str) -> dict[str, object]:
    """config.json of a container with all namespaces and no limits."""
    capabilities = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID"]
    kinds = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(kinds, capabilities),
        },
        "root": {"path": str(root)},
        "hostname": "task",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
            "cgroupsPath": cgroup,
        },
    }


class ShimWorld:
    """Containers with all namespaces, no limits, one folder for everything."""

    def __init__(self, folder: Path, runtime: str, *, starters: bool = True) -> None:
        self.starters = starters
        self.exec_root = folder / "exec"
        self.rootfs = make_rootfs(folder / "rootfs")
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.runtime = runtime
        self.prefix = f"shimtest-{uuid.uuid4().hex[:8]}-"
        self._paths = LogPaths(self.logs, self.prefix)

    def open(self) -> AbstractAsyncContextManager[ShimTasks]:
        @contextlib.asynccontextmanager
        async def opened() -> AsyncIterator[ShimTasks]:
            tasks = ShimTasks(self.exec_root, starters=self.starters)
            await tasks.warm()
            try:
                yield tasks
            finally:
                await tasks.aclose()

        return opened()

    def spec(self, *args: str) -> TaskSpec:
        name, log = self._paths.next()
        config = configuration(args, self.rootfs, f"/{self.prefix}/{name}")
        return TaskSpec(
            name,
            json.dumps(config).encode(),
            (),
            StdioSpec(),
            LogSpec("json-file", log),
            runtime=self.runtime,
        )

    def shim_of(self, task: Task) -> int:
        """Its shim's pid (init's parent may for a moment be the starter)."""
        state = self.exec_root / "tasks" / task.container_id / "state.json"
        return int(json.loads(state.read_text())["shim"])

    def clean(self) -> None:
        """After a test, whatever it has left: end its processes, remove its cgroups."""
        for pid in cgroup_pids(self.prefix):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for folder in cgroup_folders(self.prefix):
            for child, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(child)


def cgroup_folders(name: str) -> list[str]:
    """This world's cgroups, in every hierarchy."""
    root = "/sys/fs/cgroup"
    places = [root, *(os.path.join(root, entry) for entry in os.listdir(root))]
    return [path for place in places if os.path.isdir(path := os.path.join(place, name))]


def cgroup_pids(name: str) -> set[int]:
    """Processes in this world's cgroups."""
    pids: set[int] = set()
    for folder in cgroup_folders(name):
        for child, _, files in os.walk(folder):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError), open(f"{child}/cgroup.procs") as file:
                    pids.update(map(int, file.read().split()))
    return pids
