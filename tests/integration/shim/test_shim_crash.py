"""kill -9 of anybody at any time: nothing is lost, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.integration.shim.shim_world import ShimWorld, cgroup_folders, cgroup_pids

from gantry.containers.tasks import Task, Tasks
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import NotFound
from gantry.model.task import StdioSpec, TaskSpec
from gantry.tasks.driver import ShimTasks
from gantry.tasks.launcher import SPARE, NewShim
from gantry.testing.tasks_contract import (
    BOTH,
    KILL,
    TasksContract,
    demux,
    exec_spec,
    log_of,
    read_all,
    read_until,
    recovered,
)

pytestmark = pytest.mark.integration

# Another daemon: starts what it is told to, and says so, or dies at once.
DAEMON = """
import asyncio, json, os, sys
from pathlib import Path
from gantry.model.task import LogSpec, StdioSpec, TaskSpec
from gantry.tasks.driver import ShimTasks

async def main():
    asked = json.loads(sys.argv[1])
    asked["log"], asked["stdio"] = LogSpec(*asked["log"]), StdioSpec(*asked["stdio"])
    spec = TaskSpec(**{**asked, "spec": asked["spec"].encode(), "rootfs": ()})
    tasks = ShimTasks(Path(sys.argv[2]))
    await tasks.warm()
    print("warm", flush=True)
    sys.stdin.readline()
    start = asyncio.ensure_future(tasks.start(spec, None))
    if len(sys.argv) > 3:
        await asyncio.sleep(float(sys.argv[3]))
        os.kill(os.getpid(), 9)
    await start
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Daemon:
    """A daemon in a process of its own."""

    def __init__(self, world: ShimWorld, spec: TaskSpec, *args: str) -> None:
        asked = json.dumps(
            {
                **spec._asdict(),
                "spec": spec.spec.decode(),
                "log": [*spec.log[:-1], {}],
                "runtime_options": {},
            }
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, asked, str(world.exec_root), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.expect("warm")

    def expect(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.reap()

    def reap(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.wait(10)


def run(world: ShimWorld, body: Callable[[ShimTasks], object]) -> None:
    TasksContract.run(world, body)  # type: ignore[arg-type]  # the world's driver is ShimTasks


async def nothing_left(world: ShimWorld, task: Task) -> None:
    """Folder and cgroup (and so its processes) are gone."""
    assert not (world.exec_root / "tasks" / task.container_id).exists()
    assert not (world.exec_root / "runtime" / task.container_id).exists()
    for folder in cgroup_folders(world.prefix):
        assert not os.path.exists(os.path.join(folder, task.container_id))


def test_a_container_outlives_the_daemon_and_is_found_again(own: ShimWorld) -> None:
    spec = own.spec("sh", "-c", "echo early; while ! [ -e /tmp/go ]; do sleep 0.02; done; "
                    "echo late; exit 9")  # fmt: skip
    daemon = Daemon(own, spec)
    daemon.go()
    daemon.expect("started")
    daemon.kill()
    (own.rootfs / "tmp/go").touch()

    async def body(tasks: Tasks) -> None:
        task = (await recovered(tasks))[spec.container_id]
        assert (await task.wait()).code == 9
        assert await log_of(spec) == b"early\nlate\n"
        await task.delete()
        await nothing_left(own, task)

    run(own, body)


def test_streams_and_execs_work_again_after_the_daemon(own: ShimWorld) -> None:
    spec = own.spec("cat")._replace(stdio=StdioSpec(open_stdin=True))
    daemon = Daemon(own, spec)
    daemon.go()
    daemon.expect("started")
    daemon.kill()

    async def body(tasks: Tasks) -> None:
        task = (await recovered(tasks))[spec.container_id]
        stream = await task.attach(stdin=True, stdout=True, stderr=True)
        await stream.write(b"again\n")
        await read_until(stream, b"again\n")
        process, output = await task.exec(exec_spec("e", "echo", "hi"), attach=BOTH)
        assert output is not None
        assert demux(await read_all(output))[1] == b"hi\n"
        assert (await process.wait()).code == 0
        await task.kill(KILL)
        await task.wait()
        await task.delete()

    run(own, body)


@pytest.mark.parametrize("moment", [0.0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02])
def test_a_daemon_that_dies_while_it_starts_a_container(own: ShimWorld, moment: float) -> None:
    spec = own.spec("sleep", "1000")
    daemon = Daemon(own, spec, str(moment))
    daemon.go()
    daemon.reap()

    async def body(tasks: Tasks) -> None:
        for task in (await recovered(tasks)).values():
            assert task.container_id == spec.container_id
            state = await task.state()
            if state.status == "running":
                assert set(await task.pids()) == {task.pid}
                await task.kill(KILL)
            assert (await task.wait()).code == 137
            await task.delete()
            await nothing_left(own, task)
        assert cgroup_pids(own.prefix) == set()

    run(own, body)


def test_the_next_start_works_when_the_launcher_was_killed(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        first, _ = await tasks.start(own.spec("sleep", "1000"), None)
        pid = tasks.launcher.pid
        os.kill(pid, signal.SIGKILL)
        others = [(await tasks.start(own.spec("sleep", "1000"), None))[0] for _ in range(SPARE + 1)]
        assert tasks.launcher.pid not in (0, pid)
        assert (await first.state()).status == "running"
        for task in (first, *others):
            await task.kill(KILL)
            assert (await task.wait()).code == 137
            await task.delete()

    run(own, body)


def test_the_launcher_dies_again_and_again_under_load(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        async def one() -> None:
            task, _ = await tasks.start(own.spec("true"), None)
            assert (await task.wait()).code == 0
            await task.delete()
            await nothing_left(own, task)

        async def killer() -> None:
            for _ in range(3):
                await asyncio.sleep(0.03)
                if tasks.launcher.pid:
                    os.kill(tasks.launcher.pid, signal.SIGKILL)

        async with asyncio.TaskGroup() as group:
            group.create_task(killer())
            for _ in range(12):
                group.create_task(one())

    run(own, body)


def test_a_container_dies_with_its_shim(world: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        script = "sleep 1000 & sleep 1000 & sleep 1000"
        task, (stream,) = await tasks.start(world.spec("sh", "-c", script), None, [BOTH])
        process, _ = await task.exec(exec_spec("e", "sleep", "1000"), attach=BOTH)
        os.kill(world.shim_of(task), signal.SIGKILL)
        assert (await task.wait()).code == 137
        assert (await process.wait()).code == 137
        assert await read_all(stream) == b""
        with pytest.raises(NotFound):
            await task.kill(KILL)
        await task.delete()
        await nothing_left(world, task)

    run(world, body)


def test_a_shim_that_died_while_no_daemon_was_there(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        killed, _ = await tasks.start(own.spec("sleep", "1000"), None)
        ended, _ = await tasks.start(own.spec("sh", "-c", "exit 4"), None)
        await ended.wait()
        kept = own.exec_root / "tasks" / ended.container_id / "exit.json"
        shims = [own.shim_of(killed), own.shim_of(ended)]
        await tasks.aclose()
        while not kept.exists():  # written when nobody is there any more
            await asyncio.sleep(0.001)
        for pid in shims:
            os.kill(pid, signal.SIGKILL)
        async with own.open() as later:
            found = await recovered(later)
            assert (await found[killed.container_id].wait()).code == 137
            assert (await found[ended.container_id].wait()).code == 4, "kept in exit.json"
            for task in found.values():
                await task.delete()
                await nothing_left(own, task)
            assert await recovered(later) == {}

    run(own, body)


def test_who_cleans_may_be_killed_too(own: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(own.spec("sleep", "1000"), None)
        fork, killed = tasks.launcher.fork, 0

        async def doomed() -> NewShim:
            nonlocal killed
            found = await fork()
            if killed < 2:
                killed += 1
                found.control.shutdown(socket.SHUT_RDWR)
            return found

        monkeypatch.setattr(tasks.launcher, "fork", doomed)
        os.kill(own.shim_of(task), signal.SIGKILL)
        assert (await task.wait()).code == 137
        await task.delete()
        assert killed == 2
        await nothing_left(own, task)

    run(own, body)


def test_a_shim_that_is_killed_while_it_starts(own: ShimWorld) -> None:
    """At any moment: the start fails and leaves nothing, or has succeeded."""

    owner = TaskOwner("starts")

    async def body(tasks: ShimTasks) -> None:
        for step in range(12):
            spec = own.spec("sleep", "1000")
            folder = own.exec_root / "tasks" / spec.container_id
            starting = owner.spawn(tasks.start(spec, None), spec.container_id, report=False)
            while not starting.done():
                with contextlib.suppress(OSError, ValueError, KeyError):
                    pid = json.loads((folder / "state.json").read_text())["shim"]
                    await asyncio.sleep(step * 0.001)
                    os.kill(pid, signal.SIGKILL)
                    break
                await asyncio.sleep(0)
            with contextlib.suppress(Exception):
                task, _ = await starting
                with contextlib.suppress(NotFound):
                    await task.kill(KILL)
                assert (await task.wait()).code == 137
                await task.delete()
            assert not folder.exists()
            assert cgroup_pids(own.prefix) == set()

    run(own, body)


def test_a_start_that_is_given_up_is_undone(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        for delay in (0.0, 0.002, 0.006, 0.012):
            spec = own.spec("sleep", "1000")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    task, _ = await tasks.start(spec, None)
                await task.kill(KILL)
                await task.wait()
                await task.delete()
            await tasks.settled()
            assert not (own.exec_root / "tasks" / spec.container_id).exists()
            assert cgroup_pids(own.prefix) == set()

    run(own, body)


def test_a_shim_that_nobody_can_find_any_more_goes_away(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(own.spec("true"), None)
        await task.wait()
        pidfd = os.pidfd_open(own.shim_of(task))
        await tasks.aclose()
        shutil.rmtree(own.exec_root)
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(pidfd, gone.set)
        await gone.wait()
        loop.remove_reader(pidfd)
        os.close(pidfd)

    run(own, body)
