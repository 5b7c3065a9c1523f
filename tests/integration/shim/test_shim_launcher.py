"""The launcher: a sealed copy, few modules, nothing of the daemon's, one fork a shim."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration.shim.shim_world import ShimWorld

from gantry.ipc.launcher import SHIM
from gantry.model.errors import System
from gantry.tasks import launcher as launcher_module
from gantry.tasks.driver import ShimTasks
from gantry.tasks.launch import Interpreter
from gantry.testing.tasks_contract import TasksContract

pytestmark = pytest.mark.integration

PACKAGES = ("cgroups", "ipc", "kernel", "model", "mounts", "runtime", "shim")
SINGLE = ("gantry", "gantry.oci", "gantry.oci.codec", "gantry.oci.runtime_spec")
HEAVY = {"dataclasses", "asyncio", "logging", "subprocess", "threading", "email", "http", "ssl"}


def run(world: ShimWorld, body: object) -> None:
    TasksContract.run(world, body)  # type: ignore[arg-type]  # the world's driver is ShimTasks


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_loads_the_standard_library_and_few_packages_of_ours(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        modules = set(await tasks.launcher.modules())
        ours = {name for name in modules if name.partition(".")[0] == "gantry"}
        allowed = {name for name in ours if name in SINGLE or name.split(".")[1] in PACKAGES}
        assert ours == allowed
        assert "gantry.shim.keeper" not in ours, "that is containerd's side's"
        roots = {name.partition(".")[0] for name in modules - ours}
        assert roots - {"__main__"} <= sys.stdlib_module_names | {"__future__"}
        assert not roots & HEAVY

    run(own, body)


def test_it_runs_from_memory_that_nobody_can_write(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(own.spec("sleep", "1000"), None)
        for pid in (tasks.launcher.pid, own.shim_of(task)):
            exe = f"/proc/{pid}/exe"
            assert os.readlink(exe).startswith("/memfd:gantry-launcher")
            with pytest.raises(OSError, match=r"Text file busy|Operation not permitted"):
                os.close(os.open(exe, os.O_WRONLY))
            fd = os.open(exe, os.O_RDONLY)
            with pytest.raises(OSError, match=r"Bad file|not permitted|Invalid"):
                os.write(fd, b"x")
            os.close(fd)
        await task.kill(9)
        await task.wait()
        await task.delete()

    run(own, body)


def open_files(pid: int) -> list[str]:
    """Where its fds lead to; one that is just being closed is no matter."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def test_nothing_of_the_daemon_is_in_it(own: ShimWorld, tmp_path: Path) -> None:
    inherited = os.open(tmp_path / "leak", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(inherited, True)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    os.environ["GANTRY_SECRET"] = "x"
    try:

        async def body(tasks: ShimTasks) -> None:
            task, _ = await tasks.start(own.spec("sleep", "1000"), None)
            for pid in (tasks.launcher.pid, own.shim_of(task), task.pid):
                links = open_files(pid)
                assert not any("leak" in link or str(tmp_path / "leak") in link for link in links)
                assert b"GANTRY_SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
                facts = status(pid)
                assert int(facts["SigBlk"], 16) == 0
                assert not int(facts["SigIgn"], 16) & 1 << (signal.SIGUSR1 - 1)
            facts = status(task.pid)
            # But for 32 and 33, which are glibc's own: nobody can set them by name.
            assert int(facts["SigIgn"], 16) & ~(3 << 31) == 0
            assert os.listdir(f"/proc/{task.pid}/fd") == ["0", "1", "2"]
            await task.kill(9)
            await task.wait()
            await task.delete()

        run(own, body)
    finally:
        del os.environ["GANTRY_SECRET"]
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGUSR1, before)
        os.close(inherited)


def test_it_ends_with_the_daemon_and_shims_go_on(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        task, _ = await tasks.start(own.spec("sleep", "1000"), None)
        shim, launcher = own.shim_of(task), tasks.launcher.pid
        await tasks.aclose()
        assert not os.path.exists(f"/proc/{launcher}")
        assert status(shim)["PPid"] != str(launcher)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(shim, number)
        async with own.open() as later:
            async for found in later.recover():
                assert (await found.state()).status == "running"
                await found.kill(9)
                await found.wait()
                await found.delete()

    run(own, body)


def children(tasks: ShimTasks) -> list[int]:
    """The launcher's: shims and starters, and the first processes of containers."""
    pid = tasks.launcher.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def starters(tasks: ShimTasks) -> list[int]:
    """Those that make containers, one after the other."""
    return [pid for pid in children(tasks) if status(pid)["Name"] == "gantry-starter"]


def test_many_containers_leave_no_fd_and_no_zombie(own: ShimWorld) -> None:
    async def body(tasks: ShimTasks) -> None:
        async def one() -> None:
            task, (stream,) = await tasks.start(own.spec("true"), None, [(False, True, True)])
            assert (await task.wait()).code == 0
            await stream.close()
            await task.delete()

        async def many() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(one())
            await tasks.settled()  # the next shims are there

        await many()  # there are as many starters as there will be
        makers = starters(tasks)
        places = [f"/proc/{pid}/fd" for pid in ("self", tasks.launcher.pid, *makers)]
        before = [len(os.listdir(place)) for place in places]
        await many()
        assert [len(os.listdir(place)) for place in places] == before
        deadline = asyncio.get_running_loop().time() + 5
        stay = launcher_module.SPARE + len(makers)
        while len(children(tasks)) != stay:  # the last ones are just exiting
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)

    run(own, body)


@pytest.mark.skipif(not os.path.exists("/usr/bin/strace"), reason="needs strace")
def test_what_a_start_costs(
    own: ShimWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forks, execs, syncs and messages of one container's life, counted by the kernel."""
    monkeypatch.setattr(launcher_module, "SPARE", 0)  # all of it under the trace
    trace = tmp_path / "trace"

    async def body(tasks: ShimTasks) -> None:
        calls = "clone,clone3,fork,vfork,execve,fsync,fdatasync,sync,sendmsg,sendto,recvmsg"
        while tasks.launcher.has_starters and not starters(tasks):
            await asyncio.sleep(0.01)
        traced = [tasks.launcher.pid, *starters(tasks)]
        strace = await asyncio.create_subprocess_exec(
            "strace", "-f", "-qq", "-e", f"trace={calls}", "-o", str(trace),
            *(f"-p{pid}" for pid in traced), stderr=subprocess.PIPE,
        )  # fmt: skip
        while any(status(pid)["TracerPid"] == "0" for pid in traced):
            await asyncio.sleep(0.01)
        task, _ = await tasks.start(own.spec("true"), None)
        await task.wait()
        await task.delete()
        strace.terminate()
        await strace.wait()
        assert strace.stderr is not None

    run(own, body)
    lines = [line.split(None, 1)[1] for line in trace.read_text().splitlines()]

    def count(*names: str) -> int:
        return sum(line.startswith(tuple(f"{name}(" for name in names)) for line in lines)

    assert count("fsync", "fdatasync", "sync") == 0
    assert count("execve") == 1, "only the container's own program"
    assert count("clone", "clone3", "fork", "vfork") <= 4, "shim, starter, init, helper of init"


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(System, match="is no ELF program"):
        Interpreter(str(script))
    with pytest.raises(System, match="cannot copy the interpreter"):
        Interpreter(str(tmp_path / "nosuch"))


def test_an_interpreter_that_fails_is_quoted(tmp_path: Path) -> None:
    interpreter = Interpreter("/bin/busybox")
    with pytest.raises(System, match=r"the launcher \(/\S*busybox\) did not start: \S"):
        interpreter.launch(str(tmp_path / "rehearsal"))
    interpreter.close()


@pytest.mark.skipif(not os.path.exists("/usr/bin/python3.11"), reason="needs Debian's Python 3.11")
def test_debians_interpreter_works_too(own: ShimWorld) -> None:
    async def main() -> None:
        tasks = ShimTasks(own.exec_root, python="/usr/bin/python3.11")
        await tasks.warm()
        task, _ = await tasks.start(own.spec("true"), None)
        assert (await task.wait()).code == 0
        await task.delete()
        await tasks.aclose()

    asyncio.run(main())


def test_it_is_sealed_against_nonsense(own: ShimWorld) -> None:
    """A byte it does not know ends it (its peer is not a daemon of ours)."""
    interpreter = Interpreter()
    launched = interpreter.launch(str(own.exec_root / "rehearsal"))
    launched.socket.setblocking(True)
    launched.socket.send(SHIM)  # without the fd that belongs to it
    assert launched.socket.recv(1) == b""
    assert launched.process.wait(10) == 0
    launched.close()
    interpreter.close()
    assert isinstance(launched.socket, socket.socket)
