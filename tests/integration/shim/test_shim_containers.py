"""What the shim sees of real containers: OOM, namespaces, leftovers, large output."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.integration.shim.shim_world import ShimWorld, cgroup_pids

from gantry.logs.query import LogQuery
from gantry.logs.reader import LogReader
from gantry.model.errors import StartFailed
from gantry.model.mount import Mount
from gantry.model.task import ExitStatus, StdioSpec, TaskSpec
from gantry.tasks.driver import ShimTasks
from gantry.testing.tasks_contract import (
    BOTH,
    TasksContract,
    demux,
    exec_spec,
    log_of,
    read_all,
    read_until,
)

pytestmark = pytest.mark.integration


def run(world: ShimWorld, body: object) -> None:
    TasksContract.run(world, body)  # type: ignore[arg-type]  # the world's driver is ShimTasks


def changed(spec: TaskSpec, **linux: object) -> TaskSpec:
    """With other members of config.json's linux."""
    config = json.loads(spec.spec)
    config["linux"] |= linux
    return spec._replace(spec=json.dumps(config).encode())


async def ended(tasks: ShimTasks, spec: TaskSpec) -> ExitStatus:
    task, _ = await tasks.start(spec, None)
    status = await task.wait()
    await task.delete()
    return status


def test_a_container_without_memory_is_oom_killed(world: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        limit = {"memory": {"limit": 12 << 20, "swap": 12 << 20}}
        spec = changed(world.spec("sh", "-c", "x=$(yes | head -c 50000000)"), resources=limit)
        status = await ended(tasks, spec)
        assert status.code != 0
        assert status.oom_killed
        assert not (await ended(tasks, changed(world.spec("true"), resources=limit))).oom_killed

    run(world, body)


def test_a_kill_for_memory_is_told_while_it_runs(world: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        limit = {"memory": {"limit": 12 << 20, "swap": 12 << 20}}
        # init waits for its child and lives on.
        hog = "sh -c 'x=$(yes | head -c 50000000)'; sleep 1000"
        spec = changed(world.spec("sh", "-c", f"sleep 0.3; {hog}"), resources=limit)
        task, _ = await tasks.start(spec, None)
        told = asyncio.Event()
        task.on_oom = told.set
        await asyncio.wait_for(told.wait(), 30)
        assert task.exit.status is None
        await task.kill(9)
        assert (await task.wait()).oom_killed
        await task.delete()

    run(world, body)


def test_it_joins_the_network_namespace_it_is_given(world: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        holder = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
        try:
            own = os.stat("/proc/self/ns/net").st_ino
            while os.stat(path := f"/proc/{holder.pid}/ns/net").st_ino == own:
                await asyncio.sleep(0.005)
            netns = os.open(path, os.O_RDONLY)
            task, _ = await tasks.start(world.spec("sleep", "1000"), netns)
            assert os.stat(f"/proc/{task.pid}/ns/net").st_ino == os.fstat(netns).st_ino
            os.close(netns)
            await task.kill(9)
            await task.wait()
            await task.delete()
        finally:
            holder.kill()
            holder.wait()

    run(world, body)


def test_the_root_is_mounted_for_the_container_alone(world: ShimWorld, tmp_path: Path) -> None:
    async def body(tasks: ShimTasks) -> None:
        mounted = tmp_path / "mounted"
        for name in ("upper", "work"):
            (tmp_path / name).mkdir()
        mounted.mkdir()
        options = (
            f"lowerdir={world.rootfs}",
            f"upperdir={tmp_path}/upper",
            f"workdir={tmp_path}/work",
        )
        spec = world.spec("sh", "-c", "echo made > /tmp/made; cat")
        config = json.loads(spec.spec)
        config["root"]["path"] = str(mounted)
        spec = spec._replace(
            spec=json.dumps(config).encode(),
            rootfs=(Mount("overlay", "overlay", options),),
            stdio=StdioSpec(open_stdin=True),
        )
        task, _ = await tasks.start(spec, None)
        assert str(mounted) not in Path("/proc/self/mountinfo").read_text()
        assert str(mounted) not in Path(f"/proc/{world.shim_of(task)}/mountinfo").read_text()
        process, stream = await task.exec(exec_spec("e", "cat", "/tmp/made"), attach=BOTH)
        assert stream is not None
        await process.wait()
        assert demux(await read_all(stream))[1] == b"made\n"
        await task.kill(9)
        await task.wait()
        await task.delete()
        assert (tmp_path / "upper/tmp/made").read_text() == "made\n"

    run(world, body)


def test_without_a_pid_namespace_nothing_outlives_init(world: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        spaces = [{"type": kind} for kind in ("ipc", "uts", "mount", "network")]
        spec = changed(
            world.spec("sh", "-c", "sleep 1000 & sleep 1000 & exit 3"), namespaces=spaces
        )
        task, (stream,) = await tasks.start(spec, None, [BOTH])
        assert (await task.wait()).code == 3
        assert await read_all(stream) == b""
        await task.delete()
        assert cgroup_pids(world.prefix) == set()

    run(world, body)


def test_an_exec_that_leaves_a_child_with_its_output_ends(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(own.spec("sleep", "1000"), None)
        script = exec_spec("e", "sh", "-c", "echo said; sleep 1000 & exit 5")
        process, stream = await task.exec(script, attach=BOTH)
        assert stream is not None
        assert (await process.wait()).code == 5
        assert demux(await read_all(stream))[1] == b"said\n"
        await task.kill(9)
        await task.wait()
        await task.delete()

    run(own, body)


@pytest.mark.parametrize("driver", ["json-file", "local", "none"])
def test_half_a_million_lines(own: ShimWorld, driver: str) -> None:
    async def body(tasks: ShimTasks) -> None:
        spec = own.spec("seq", "500000")
        spec = spec._replace(log=spec.log._replace(driver=driver))
        assert (await ended(tasks, spec)).code == 0
        query = LogQuery(raw=True)
        got = b"".join([piece async for piece in LogReader(spec.log.path, driver).read(query)])
        lines = b"".join(b"%d\n" % number for number in range(1, 500001))
        assert got == (b"" if driver == "none" else lines)

    run(own, body)


def test_output_is_not_held_up_by_a_client_that_does_not_read(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        task, (stream,) = await tasks.start(own.spec("seq", "2000000"), None, [BOTH])
        assert (await task.wait()).code == 0, "it ended while nobody read"
        await task.delete()
        data = demux(await read_all(stream))[1]
        assert data.startswith(b"1\n2\n")
        assert data.endswith(b"\n2000000\n")
        assert data.count(b"\n") == 2000000

    run(own, body)


def test_rotation_with_compression(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        spec = own.spec("sh", "-c", "for i in 1 2 3 4 5; do seq 3000; sleep 0.05; done")
        log = spec.log._replace(max_size=300_000, max_file=20, compress=True)
        assert (await ended(tasks, spec._replace(log=log))).code == 0
        while list(own.logs.glob("*.tmp")):
            await asyncio.sleep(0.01)  # compression goes on after the container's end
        assert list(own.logs.glob("*.gz"))
        assert await log_of(spec) == b"".join(b"%d\n" % n for n in range(1, 3001)) * 5

    run(own, body)


def test_a_terminal_has_its_size_from_the_start_and_changes(world: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        stdio = StdioSpec(terminal=True, open_stdin=True, rows=24, columns=80)
        spec = world.spec("sh", "-c", "stty size; read x; stty size")
        config = json.loads(spec.spec)
        config["process"]["terminal"] = True
        spec = spec._replace(spec=json.dumps(config).encode(), stdio=stdio)
        task, (stream,) = await tasks.start(spec, None, [(True, True, True)])
        assert b"24 80" in await read_until(stream, b"\n")
        await task.resize(40, 132)
        await stream.write(b"\n")
        assert b"40 132" in await read_all(stream)
        await task.wait()
        await task.delete()

    run(world, body)


def test_figures_and_limits(world: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(world.spec("sleep", "1000"), None)
        figures = json.loads(await task.stats())
        assert figures["memory"]["usage"]["usage"] > 0
        assert figures["pids"]["current"] >= 1
        assert figures["cpu"]["usage"]["total"] > 0
        await task.update(
            json.dumps({"memory": {"limit": 50 << 20}, "pids": {"limit": 33}}).encode()
        )
        figures = json.loads(await task.stats())
        assert figures["memory"]["usage"]["limit"] == 50 << 20
        assert figures["pids"]["limit"] == 33
        await task.kill(9)
        await task.wait()
        await task.delete()

    run(world, body)


def test_a_paused_container_can_be_killed(world: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(world.spec("sleep", "1000"), None)
        await task.pause()
        await task.kill(9)
        assert (await task.wait()).code == 137
        await task.delete()

    run(world, body)


def test_who_stops_every_exec_does_not_stop_the_shim(own: ShimWorld) -> None:
    """Root in a container sees a process that is about to join, before it has executed."""
    stopper = """while :; do for p in /proc/[0-9]*; do
        p=${p#/proc/}; [ $p = 1 ] || kill -STOP $p
    done; done"""

    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(own.spec("sh", "-c", stopper), None)
        async with asyncio.timeout(60):
            for number in range(6):
                try:
                    await task.exec(exec_spec(f"e{number}", "true"), attach=(False, False, False))
                except StartFailed:
                    continue  # it was caught before it began
            await task.kill(9)
            assert (await task.wait()).code == 137
        await task.delete()

    run(own, body)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_program_that_never_starts_holds_up_nobody(own: ShimWorld, *, terminal: bool) -> None:
    """A lease on a program's file lets execve wait as long as its holder likes (here this
    test, elsewhere root in the container): the shim must go on, and end it when told."""
    program = own.rootfs / "bin/slow"
    shutil.copy(own.rootfs / "bin/busybox", program)
    before = signal.signal(signal.SIGIO, lambda *_: None)  # the kernel asks for the lease
    lease = os.open(program, os.O_RDWR)
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(own.spec("sleep", "1000"), None)
        async with asyncio.timeout(10):
            stdio = StdioSpec(terminal=terminal)
            process, _ = await task.exec(exec_spec("e", "slow", stdio=stdio), attach=BOTH)
            os.kill(process.pid, signal.SIGSTOP)
            assert (await task.state()).status == "running"
            await task.kill(9)
            assert (await process.wait()).code == 137
            assert (await task.wait()).code == 137
        await task.delete()

    try:
        run(own, body)
    finally:
        os.close(lease)
        signal.signal(signal.SIGIO, before)
