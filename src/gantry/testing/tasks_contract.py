"""What every task driver does: one suite for the real one and the fake.

class TestFake(TasksContract):
    @pytest.fixture
    def world(self) -> World: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from gantry.containers.tasks import Stream, Task, Tasks
from gantry.logs.query import LogQuery
from gantry.logs.reader import LogReader
from gantry.model.errors import Conflict, NotFound, StartFailed
from gantry.model.task import ExecSpec, ExitStatus, StdioSpec, TaskSpec

KILL = 9
PIPE = StdioSpec(open_stdin=True, stdin_once=True)
BOTH = (False, True, True)
ALL = (True, True, True)

Body = Callable[[Tasks], Coroutine[object, object, None]]


class World(Protocol):
    """Where a driver's containers run; they have busybox's echo, cat, sleep, sh, true."""

    def open(self) -> AbstractAsyncContextManager[Tasks]:
        """A driver, for as long as the context; one opened later finds an earlier one's tasks."""

    def spec(self, *args: str) -> TaskSpec:
        """A container that runs `args`, with a new id and json-file log."""


def exec_spec(name: str, *args: str, stdio: StdioSpec | None = None) -> ExecSpec:
    """A process to exec, as root with busybox's PATH."""
    process = {
        "args": args,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "terminal": bool(stdio and stdio.terminal),
    }
    return ExecSpec(name, json.dumps(process).encode(), stdio or StdioSpec())


def demux(data: bytes) -> dict[int, bytes]:
    """Docker's frames taken apart, by stream."""
    found: dict[int, bytes] = {1: b"", 2: b""}
    while data:
        size = int.from_bytes(data[4:8], "big")
        assert data[1:4] == bytes(3)
        assert len(data) >= 8 + size, "a frame is cut off"
        found[data[0]] += data[8 : 8 + size]
        data = data[8 + size :]
    return found


async def read_all(stream: Stream) -> bytes:
    """Everything up to the end."""
    pieces = []
    while data := await stream.read():
        pieces.append(data)
    return b"".join(pieces)


async def read_until(stream: Stream, text: bytes) -> bytes:
    """What comes up to and with `text`."""
    data = b""
    while text not in data:
        more = await stream.read()
        assert more, f"ended without {text!r}: {data!r}"
        data += more
    return data


async def log_of(spec: TaskSpec) -> bytes:
    """The log, without times, raw."""
    pieces = LogReader(spec.log.path, spec.log.driver).read(LogQuery(raw=True))
    return b"".join([piece async for piece in pieces])


@contextlib.asynccontextmanager
async def running(tasks: Tasks, spec: TaskSpec) -> AsyncIterator[Task]:
    """A task that is killed and deleted in the end."""
    task, _ = await tasks.start(spec, None)
    try:
        yield task
    finally:
        with contextlib.suppress(NotFound):
            await task.kill(KILL)
        await task.wait()
        await task.delete()


async def recovered(tasks: Tasks) -> dict[str, Task]:
    """What `recover` finds, by id."""
    return {task.container_id: task async for task in tasks.recover()}


class TasksContract:
    """Subclasses have a fixture `world`."""

    @staticmethod
    def run(world: World, body: Body) -> None:
        """Run `body` with a driver; a minute is plenty."""

        async def main() -> None:
            async with asyncio.timeout(60), world.open() as tasks:
                await body(tasks)

        asyncio.run(main())

    def test_a_container_runs_to_its_end(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            spec = world.spec("echo", "hello")
            task, (stream,) = await tasks.start(spec, None, [BOTH])
            assert task.container_id == spec.container_id
            assert task.pid > 0
            assert (await task.wait()).code == 0
            assert demux(await read_all(stream)) == {1: b"hello\n", 2: b""}
            assert await log_of(spec) == b"hello\n"
            await task.delete()
            assert await recovered(tasks) == {}

        self.run(world, body)

    @pytest.mark.parametrize("code", [0, 1, 3, 255])
    def test_exit_codes(self, world: World, code: int) -> None:
        async def body(tasks: Tasks) -> None:
            task, _ = await tasks.start(world.spec("sh", "-c", f"exit {code}"), None)
            status = await task.wait()
            assert status.code == code
            assert status.at >= task.started_at
            assert not status.oom_killed
            await task.delete()

        self.run(world, body)

    def test_a_signal_counts_from_128(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            async with running(tasks, world.spec("sleep", "1000")) as task:
                await task.kill(KILL)
                assert (await task.wait()).code == 137
                with pytest.raises(NotFound):
                    await task.kill(KILL)

        self.run(world, body)

    def test_stdout_and_stderr_are_apart(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            spec = world.spec("sh", "-c", "echo out;echo err >&2")
            wants = [BOTH, (False, True, False), (False, False, True)]
            task, streams = await tasks.start(spec, None, wants)
            await task.wait()
            both, out, err = [demux(await read_all(stream)) for stream in streams]
            assert both == {1: b"out\n", 2: b"err\n"}
            assert out == {1: b"out\n", 2: b""}
            assert err == {1: b"", 2: b"err\n"}
            await task.delete()

        self.run(world, body)

    def test_what_cannot_be_found_fails_as_docker_says_it(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            with pytest.raises(StartFailed) as failed:
                await tasks.start(world.spec("nosuch"), None, [BOTH])
            assert failed.value.exit_code == 127
            text = str(failed.value)
            assert text.startswith(
                "failed to create task for container: failed to create shim task: "
                "OCI runtime create failed: runc create failed: "
                "unable to start container process: "
            )
            assert text.endswith('exec: "nosuch": executable file not found in $PATH: unknown')
            assert await recovered(tasks) == {}

        self.run(world, body)

    def test_stdin_once_ends_with_the_client(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            spec = world.spec("cat")._replace(stdio=PIPE)
            task, (stream,) = await tasks.start(spec, None, [ALL])
            await stream.write(b"some ")
            await stream.write(b"input\n")
            await stream.close_stdin()
            assert (await task.wait()).code == 0
            assert demux(await read_all(stream))[1] == b"some input\n"
            await task.delete()

        self.run(world, body)

    def test_stdin_that_is_kept_open_serves_one_client_after_the_other(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            spec = world.spec("cat")._replace(stdio=StdioSpec(open_stdin=True))
            async with running(tasks, spec) as task:
                for word in (b"one\n", b"two\n"):
                    stream = await task.attach(stdin=True, stdout=True, stderr=True)
                    await stream.write(word)
                    await read_until(stream, word)
                    await stream.close()

        self.run(world, body)

    def test_a_later_client_gets_what_comes_later(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            spec = world.spec("sh", "-c", "echo first;read x;echo second")._replace(stdio=PIPE)
            task, (stream,) = await tasks.start(spec, None, [ALL])
            await read_until(stream, b"first\n")
            late = await task.attach(stdin=False, stdout=True, stderr=True)
            await stream.write(b"go\n")
            assert demux(await read_all(late))[1] == b"second\n"
            await task.wait()
            assert await log_of(spec) == b"first\nsecond\n"
            after = await task.attach(stdin=False, stdout=True, stderr=True)
            assert await read_all(after) == b""
            await task.delete()

        self.run(world, body)

    def test_a_terminal_is_raw(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            stdio = StdioSpec(terminal=True, open_stdin=True, rows=24, columns=80)
            spec = world.spec("sh", "-c", "echo hi;sleep 1000")._replace(stdio=stdio)
            config = json.loads(spec.spec)
            config["process"]["terminal"] = True
            spec = spec._replace(spec=json.dumps(config).encode())
            task, (stream,) = await tasks.start(spec, None, [ALL])
            assert await read_until(stream, b"\n") == b"hi\r\n"
            await task.resize(40, 100)
            await task.kill(KILL)
            assert (await task.wait()).code == 137
            assert await read_all(stream) == b""
            assert await log_of(spec) == b"hi\r\n"
            await task.delete()

        self.run(world, body)

    def test_wait_has_any_number_of_waiters(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            async with running(tasks, world.spec("sleep", "1000")) as task:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(task.wait(), 0.01)
                waiters = asyncio.gather(task.wait(), task.wait())
                await task.kill(KILL)
                first, second = await waiters
                assert first == second == await task.wait()

        self.run(world, body)

    def test_exec(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            async with running(tasks, world.spec("sleep", "1000")) as task:
                spec = exec_spec("e1", "sh", "-c", "echo out;echo err >&2;exit 7")
                process, stream = await task.exec(spec, attach=BOTH)
                assert stream is not None
                assert process.pid not in (0, task.pid)
                assert (await process.wait()).code == 7
                assert demux(await read_all(stream)) == {1: b"out\n", 2: b"err\n"}
                detached, nothing = await task.exec(
                    exec_spec("e2", "true"), attach=(False, False, False)
                )
                assert nothing is None
                assert (await detached.wait()).code == 0

        self.run(world, body)

    def test_exec_reads_and_is_killed(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            async with running(tasks, world.spec("sleep", "1000")) as task:
                process, stream = await task.exec(exec_spec("e1", "cat", stdio=PIPE), attach=ALL)
                assert stream is not None
                await stream.write(b"through\n")
                await read_until(stream, b"through\n")
                await stream.close_stdin()
                assert (await process.wait()).code == 0

                sleeper, _ = await task.exec(
                    exec_spec("e2", "sleep", "1000"), attach=(False, False, False)
                )
                assert set(await task.pids()) == {task.pid, sleeper.pid}
                await sleeper.kill(KILL)
                assert (await sleeper.wait()).code == 137
                with pytest.raises(NotFound):
                    await sleeper.kill(KILL)

        self.run(world, body)

    def test_exec_that_fails(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            async with running(tasks, world.spec("sleep", "1000")) as task:
                with pytest.raises(StartFailed) as failed:
                    await task.exec(exec_spec("e1", "nosuch"), attach=BOTH)
                assert failed.value.exit_code == 127
                assert str(failed.value) == (
                    "OCI runtime exec failed: exec failed: unable to start container process: "
                    'exec: "nosuch": executable file not found in $PATH: unknown'
                )
                again, _ = await task.exec(exec_spec("e1", "true"), attach=BOTH)
                assert (await again.wait()).code == 0
                await task.kill(KILL)
                await task.wait()
                with pytest.raises(Conflict):
                    await task.exec(exec_spec("e2", "true"), attach=BOTH)

        self.run(world, body)

    def test_state_and_delete(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            async with running(tasks, world.spec("sleep", "1000")) as task:
                state = await task.state()
                assert (state.status, state.pid, state.exit) == ("running", task.pid, None)
                with pytest.raises(Conflict):
                    await task.delete()
                await task.kill(KILL)
                status = await task.wait()
                state = await task.state()
                assert (state.status, state.exit) == ("stopped", status)
                await task.delete()
                await task.delete()

        self.run(world, body)

    def test_pause_holds_and_resume_goes_on(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            async with running(tasks, world.spec("sleep", "1000")) as task:
                await task.pause()
                assert (await task.state()).status == "paused"
                await task.resume()
                assert (await task.state()).status == "running"

        self.run(world, body)

    def test_figures_are_json(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            async with running(tasks, world.spec("sleep", "1000")) as task:
                assert isinstance(json.loads(await task.stats()), dict)

        self.run(world, body)

    def test_a_later_driver_finds_what_runs_and_what_has_ended(self, world: World) -> None:
        async def body(tasks: Tasks) -> None:
            alive, _ = await tasks.start(world.spec("sleep", "1000"), None)
            ended, _ = await tasks.start(world.spec("sh", "-c", "exit 5"), None)
            status: ExitStatus = await ended.wait()
            async with world.open() as later:
                found = await recovered(later)
                assert set(found) == {alive.container_id, ended.container_id}
                again, over = found[alive.container_id], found[ended.container_id]
                assert (again.pid, again.started_at) == (alive.pid, alive.started_at)
                assert await over.wait() == status
                await over.delete()
                process, _ = await again.exec(exec_spec("e", "true"), attach=BOTH)
                assert (await process.wait()).code == 0
                await again.kill(KILL)
                assert (await again.wait()).code == (await alive.wait()).code == 137
                await again.delete()
                assert await recovered(later) == {}

        self.run(world, body)


class LogPaths:
    """Names and log files of a world's containers. folder: where logs are."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder = folder
        self._prefix = prefix
        self._count = 0

    def next(self) -> tuple[str, str]:
        """A new container id and its log's path."""
        self._count += 1
        name = f"{self._prefix}{self._count}"
        return name, str(self._folder / f"{name}-json.log")
