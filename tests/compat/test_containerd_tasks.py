"""The task driver over a real containerd keeps the drivers' contract."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.integration.shim.shim_world import configuration, make_rootfs
from tests.support.peers import Ctr, containerd, find

from gantry.containers.tasks import Task, Tasks
from gantry.model.errors import Unavailable
from gantry.model.mount import Mount
from gantry.model.task import LogSpec, StdioSpec, TaskSpec
from gantry.tasks.containerd import driver
from gantry.tasks.containerd.driver import ContainerdTasks
from gantry.testing.tasks_contract import (
    BOTH,
    KILL,
    LogPaths,
    TasksContract,
    demux,
    exec_spec,
    log_of,
    read_all,
    running,
)

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
            try:
                await tasks.warm()
                yield tasks
            finally:
                await tasks.aclose()

        return opened()

    def spec(self, *args: str) -> TaskSpec:
        name, log = self._paths.next()
        config = configuration(args, "/elsewhere", f"/{self.prefix}/{name}")
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

    def test_many_at_once_lose_nothing(self, world: ContainerdWorld) -> None:
        async def body(tasks: Tasks) -> None:
            async def one(number: int) -> None:
                spec = world.spec("sh", "-c", f"echo out {number}; echo err >&2; exit {number}")
                task, (stream,) = await tasks.start(spec, None, [BOTH])
                assert (await task.wait()).code == number
                output = {1: f"out {number}\n".encode(), 2: b"err\n"}
                assert demux(await read_all(stream)) == output
                assert sorted((await log_of(spec)).splitlines()) == [b"err", output[1].strip()]
                await task.delete()

            async def execs(task: Task) -> None:
                async def one(number: int) -> None:
                    spec = exec_spec(f"e{number}", "sh", "-c", f"echo {number}; exit {number}")
                    process, stream = await task.exec(spec, attach=BOTH)
                    assert stream is not None
                    assert demux(await read_all(stream))[1] == f"{number}\n".encode()
                    assert (await process.wait()).code == number

                await asyncio.gather(*map(one, range(8)))

            async with running(tasks, world.spec("sleep", "1000")) as task:
                await asyncio.gather(execs(task), *map(one, range(12)))
            assert os.listdir(world.exec_root / "containerd") == []

        self.run(world, body)

    @pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.06, 0.1])
    def test_a_start_that_nobody_waits_for(self, world: ContainerdWorld, delay: float) -> None:
        async def body(tasks: Tasks) -> None:
            with contextlib.suppress(TimeoutError):
                starting = tasks.start(world.spec("sleep", "1000"), None, [BOTH])
                task, _ = await asyncio.wait_for(starting, delay)
                await task.kill(KILL)
                await task.wait()
                await task.delete()
            folder = world.exec_root / "containerd"
            while os.listdir(folder) or world.prefix in world.ctr("container", "ls").out:
                await asyncio.sleep(0.01)

        self.run(world, body)

    def test_no_containerd(self, world: ContainerdWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(driver, "PATIENCE", 0.0)
        world.ctr = Ctr("/nosuch.sock", world.rootfs, "none")

        async def body(_tasks: Tasks) -> None:
            raise AssertionError("it cannot come up")

        with pytest.raises(Unavailable, match=r"cannot connect to containerd at /nosuch\.sock: "):
            self.run(world, body)
