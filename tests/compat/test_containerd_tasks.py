"""The task driver over a real containerd keeps the drivers' contract."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.integration.shim.shim_world import make_rootfs
from tests.support.peers import Ctr, containerd, find

from gantry.model.mount import Mount
from gantry.model.task import LogSpec, StdioSpec, TaskSpec
from gantry.tasks.containerd.driver import ContainerdTasks
from gantry.testing.tasks_contract import LogPaths, TasksContract

pytestmark = pytest.mark.skipif(not find("containerd"), reason="needs containerd")


@pytest.fixture(scope="module")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    with containerd(tmp_path_factory.mktemp("ctr")) as made:
        yield made


class ContainerdWorld:
    """Containers with all namespaces, no limits, runc and one root for all of them."""

    def __init__(self, ctr: Ctr, folder: Path) -> None:
        self.ctr = ctr
        self.exec_root = folder / "exec"
        self.rootfs = make_rootfs(folder / "rootfs")
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.prefix = f"ctrtest-{uuid.uuid4().hex[:8]}-"
        self.runtime = find("runc")
        self._paths = LogPaths(self.logs, self.prefix)

    def open(self) -> AbstractAsyncContextManager[ContainerdTasks]:
        @contextlib.asynccontextmanager
        async def opened() -> AsyncIterator[ContainerdTasks]:
            tasks = ContainerdTasks(
                self.ctr.address, self.ctr.namespace, self.exec_root, self.exec_root / "scripts"
            )
            await tasks.warm()
            try:
                yield tasks
            finally:
                await tasks.aclose()

        return opened()

    def spec(self, *args: str) -> TaskSpec:
        name, log = self._paths.next()
        kinds = ("bounding", "effective", "permitted")
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {kind: ["CAP_KILL"] for kind in kinds},
            },
            "root": {"path": "/elsewhere"},
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
                "namespaces": [
                    {"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")
                ],
                "cgroupsPath": f"/{self.prefix}/{name}",
            },
        }
        rootfs = (Mount("bind", str(self.rootfs), ("rbind", "rw")),)
        return TaskSpec(
            name,
            json.dumps(config).encode(),
            rootfs,
            StdioSpec(),
            LogSpec("json-file", log),
            runtime=self.runtime,
        )


@pytest.fixture
def world(ctr: Ctr, tmp_path: Path) -> Iterator[ContainerdWorld]:
    made = ContainerdWorld(ctr, tmp_path)
    yield made
    left = [name for name in ctr("container", "ls", "-q").out.split() if made.prefix in name]
    for name in left:
        ctr("task", "rm", "-f", name)
        ctr("container", "rm", name)
    shutil.rmtree(made.exec_root, ignore_errors=True)


class TestContainerd(TasksContract):
    """`world` is the fixture above."""
