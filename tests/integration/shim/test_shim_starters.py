"""Starters: warm, one container after the other; whoever dies or hangs, nobody else suffers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from tests.integration.shim.shim_world import ShimWorld, cgroup_pids
from tests.support.wait import eventually

from gantry.ipc.owner import TaskOwner
from gantry.kernel import pidfd, procfs
from gantry.model.errors import StartFailed
from gantry.model.mount import Mount
from gantry.tasks import starters as starters_module
from gantry.tasks.driver import ShimTasks
from gantry.testing.tasks_contract import TasksContract

pytestmark = pytest.mark.integration


def needs_starters() -> None:
    if not pidfd.tells_exit_status() or not os.path.exists("/sys/fs/cgroup/memory/tasks"):
        pytest.skip("needs Linux 6.15 and cgroup v1")


def run(world: ShimWorld, body: Callable[[ShimTasks], Coroutine[object, object, None]]) -> None:
    needs_starters()
    TasksContract.run(world, body)  # type: ignore[arg-type]  # the world's driver is ShimTasks


def parent(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[1])


def name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def makers(tasks: ShimTasks) -> list[int]:
    launcher = tasks.launcher.pid
    words = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(word) for word in words if name(int(word)) == "gantry-starter"]


async def remove(tasks: ShimTasks, world: ShimWorld, *args: str) -> int:
    task, _ = await tasks.start(world.spec(*args), None)
    code = (await task.wait()).code
    await task.delete()
    return code


def test_one_makes_one_container_after_the_other(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        for number in range(3):
            assert await remove(tasks, own, "sh", "-c", f"exit {number}") == number
        (maker,) = makers(tasks)
        task, _ = await tasks.start(own.spec("sleep", "1000"), None)
        assert makers(tasks) == [maker]
        assert parent(task.pid) == tasks.launcher.pid, "who reaps it"
        await task.kill(signal.SIGTERM)
        await task.kill(signal.SIGKILL)
        assert (await task.wait()).code == 137
        await task.delete()

    run(own, body)


def test_it_keeps_nothing_of_what_it_made(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        async def one() -> None:
            await remove(tasks, own, "true")
            with pytest.raises(StartFailed):
                await tasks.start(own.spec("nosuch"), None)

        def size() -> int:
            return int(Path(f"/proc/{maker}/statm").read_text().split()[1])

        await one()
        (maker,) = makers(tasks)
        for _ in range(70):  # a garbage collection is among them
            await one()
        eventually(lambda: len(os.listdir(f"/proc/{maker}/fd")) == 4)
        fds, before = os.listdir(f"/proc/{maker}/fd"), size()
        for _ in range(100):
            await one()
        assert makers(tasks) == [maker]
        # It closes the last ones right after its answer.
        eventually(lambda: os.listdir(f"/proc/{maker}/fd") == fds)
        assert size() - before < 64, "pages"

    run(own, body)


def test_when_it_is_killed_the_next_one_goes_on(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        lasting, _ = await tasks.start(own.spec("sh", "-c", "sleep 1000; exit 3"), None)
        for pid in makers(tasks):
            os.kill(pid, signal.SIGKILL)
        assert await remove(tasks, own, "sh", "-c", "exit 5") == 5
        await lasting.kill(signal.SIGKILL)
        assert (await lasting.wait()).code == 137
        await lasting.delete()

    run(own, body)


def test_it_is_killed_while_it_starts_containers(own: ShimWorld) -> None:
    owner = TaskOwner("starts")

    async def body(tasks: ShimTasks) -> None:
        for step in range(15):
            await remove(tasks, own, "true")
            spec = own.spec("sh", "-c", "exit 6")
            starting = owner.spawn(tasks.start(spec, None), spec.container_id, report=False)
            await asyncio.sleep(step * 0.0005)
            for pid in makers(tasks):
                os.kill(pid, signal.SIGKILL)
            task, _ = await starting  # tried again, if need be
            assert (await task.wait()).code in (6, 137)
            await task.delete()
            assert not (own.exec_root / "tasks" / spec.container_id).exists()
            assert cgroup_pids(own.prefix) == set()

    run(own, body)


def test_one_that_hangs_holds_up_nobody(own: ShimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starters_module, "PATIENCE", 0.2)
    owner = TaskOwner("starts")

    async def body(tasks: ShimTasks) -> None:
        await remove(tasks, own, "true")
        hung: set[int] = set()
        starts = []
        for _ in range(max(2, os.cpu_count() or 1)):
            while not (fresh := set(makers(tasks)) - hung):
                await asyncio.sleep(0.01)
            for pid in fresh:
                os.kill(pid, signal.SIGSTOP)
            hung |= fresh
            spec = own.spec("true")
            starts.append(owner.spawn(tasks.start(spec, None), spec.container_id, report=False))
            for _ in range(50):
                await asyncio.sleep(0)  # it has its starter
            if len(starts) < max(2, os.cpu_count() or 1):
                # The one after needs one of its own.
                other = own.spec("true")
                quick, _ = await tasks.start(other, None)
                await quick.wait()
                await quick.delete()
        assert await remove(tasks, own, "sh", "-c", "exit 7") == 7
        for pid in hung:
            os.kill(pid, signal.SIGCONT)
        for start in starts:
            task, _ = await start
            assert (await task.wait()).code == 0
            await task.delete()

    run(own, body)


def test_an_end_is_heard_of_when_nobody_reaps(own: ShimWorld) -> None:
    """The launcher is stopped, or it was killed where no other process reaps orphans."""

    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(own.spec("sh", "-c", "sleep 0.1; exit 9"), None)
        os.kill(tasks.launcher.pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            assert (await task.wait()).code == 9
        finally:
            os.kill(tasks.launcher.pid, signal.SIGCONT)
        assert time.monotonic() - began < 5
        await task.delete()

    run(own, body)


def test_it_finishes_what_it_has_begun_when_the_launcher_is_killed(own: ShimWorld) -> None:
    owner = TaskOwner("starts")

    async def body(tasks: ShimTasks) -> None:
        await remove(tasks, own, "true")
        (maker,) = makers(tasks)
        os.kill(maker, signal.SIGSTOP)
        spec = own.spec("sh", "-c", "exit 8")
        starting = owner.spawn(tasks.start(spec, None), spec.container_id, report=False)
        for _ in range(50):
            await asyncio.sleep(0)  # it has its starter
        os.kill(tasks.launcher.pid, signal.SIGKILL)
        os.kill(maker, signal.SIGCONT)
        task, _ = await starting
        assert procfs.stat(maker).state not in "ZX", "it was not tried again with another"
        assert (await task.wait()).code == 8
        await task.delete()

    run(own, body)


def test_what_it_cannot_do_a_shims_own_starter_does(own: ShimWorld) -> None:
    """Who joins another container's processes could be killed by them, and it with them."""

    async def body(tasks: ShimTasks) -> None:
        first, _ = await tasks.start(own.spec("sleep", "1000"), None)
        spec = own.spec("sh", "-c", "exit 4")
        joined = spec.spec.replace(
            b'{"type": "pid"}', f'{{"type": "pid", "path": "/proc/{first.pid}/ns/pid"}}'.encode()
        )
        assert joined != spec.spec
        task, _ = await tasks.start(spec._replace(spec=joined), None)
        assert (await task.wait()).code == 4
        await task.delete()
        await first.kill(9)
        await first.wait()
        await first.delete()

    run(own, body)


def test_a_start_that_fails_leaves_nothing(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        spec = own.spec("true")
        broken = spec._replace(rootfs=(Mount("nosuchfs", "nowhere"),))
        with pytest.raises(StartFailed, match="nosuchfs"):
            await tasks.start(broken, None)
        assert not (own.exec_root / "tasks" / spec.container_id).exists()
        assert await remove(tasks, own, "true") == 0

    run(own, body)
