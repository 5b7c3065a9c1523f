"""A task driver in memory, and the programs its containers run.

Passes the contract suite of the real one. A container's program is the first word of the
OCI process's args; `programs` adds to or replaces the built-in ones::

    async def server(process: FakeProcess) -> int:
        process.write(1, b"ready\\n")
        await process.killed.wait()
        return 0

    tasks = FakeTasks(programs={"server": server})

Output goes to the real log writer, so log readers work on it.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from itertools import count

from gantry.ipc.owner import TaskOwner
from gantry.model.errors import Conflict, NotFound, StartFailed
from gantry.model.task import ExecSpec, ExitStatus, StdioSpec, TaskSpec, TaskState
from gantry.shim.logfile import Log, NoLog, open_log

Program = Callable[["FakeProcess"], Awaitable[int]]


class FakeStream:
    """`gantry.containers.tasks.Stream` over queues."""

    def __init__(self, process: FakeProcess, wants: tuple[bool, bool, bool]) -> None:
        self.stdin, self.stdout, self.stderr = wants
        self._process = process
        self._output: asyncio.Queue[bytes] = asyncio.Queue()
        self._ended = False
        self._closed = False

    async def read(self) -> bytes:
        if self._ended:
            return b""
        data = await self._output.get()
        self._ended = not data
        return data

    async def write(self, data: bytes) -> None:
        if self._closed:
            raise BrokenPipeError("the stream is closed")
        if self.stdin:
            self._process.feed(data)

    async def close_stdin(self) -> None:
        if self.stdin and self._process.stdio.stdin_once:
            self._process.feed(b"")

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._output.put_nowait(b"")
            self._process.detach(self)

    def deliver(self, data: bytes) -> None:
        """What the client reads next, b"" for the end."""
        if not self._closed:
            self._output.put_nowait(data)


class FakeProcess:
    """A process, init or exec'ed: `gantry.containers.tasks.Process`, and a program's world."""

    def __init__(self, pid: int, args: Sequence[str], stdio: StdioSpec, log: Log) -> None:
        self.pid = pid
        self.args = tuple(args)
        self.stdio = stdio
        self.killed = asyncio.Event()
        self.signals: list[int] = []
        self.size = (stdio.rows, stdio.columns)
        self.exit: ExitStatus | None = None
        self._log = log
        self._streams: list[FakeStream] = []
        self._input: asyncio.Queue[bytes] = asyncio.Queue()
        self._input_ended = not stdio.open_stdin
        self._done = asyncio.Event()

    # -- for programs -------------------------------------------------------------------

    def write(self, stream: int, data: bytes) -> None:
        """To stdout (1) or stderr (2)."""
        if self.stdio.terminal:
            stream, data = 1, data.replace(b"\n", b"\r\n")
        self._log.write(stream, data)
        frame = data
        if not self.stdio.terminal:
            frame = bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data
        for client in self._streams:
            if client.stdout if stream == 1 else client.stderr:
                client.deliver(frame)

    async def read(self) -> bytes:
        """From stdin; b"" at its end."""
        if self._input_ended:
            return b""
        data = await self._input.get()
        self._input_ended = not data
        return data

    # -- Process ------------------------------------------------------------------------

    async def wait(self) -> ExitStatus:
        await self._done.wait()
        assert self.exit is not None
        return self.exit

    async def resize(self, rows: int, columns: int) -> None:
        self._must_run()
        self.size = (rows, columns)

    async def kill(self, signal: int) -> None:
        self._must_run()
        self.signals.append(signal)
        self.killed.set()

    # -- for streams and the task -------------------------------------------------------

    def attach(self, wants: tuple[bool, bool, bool]) -> FakeStream:
        """A further client."""
        client = FakeStream(self, (wants[0] and self.stdio.open_stdin, wants[1], wants[2]))
        if self.exit is not None:
            client.deliver(b"")
        else:
            self._streams.append(client)
        return client

    def detach(self, client: FakeStream) -> None:
        """A client went away."""
        if client in self._streams:
            self._streams.remove(client)
            if client.stdin and self.stdio.stdin_once:
                self.feed(b"")

    def feed(self, data: bytes) -> None:
        """Input from a client."""
        self._input.put_nowait(data)

    async def run(self, program: Program) -> None:
        """Run to the end: the program's, or a signal's."""
        work = asyncio.ensure_future(program(self))  # noqa: TID251  # ended below, always
        kill = asyncio.ensure_future(self.killed.wait())  # noqa: TID251
        try:
            await asyncio.wait((work, kill), return_when=asyncio.FIRST_COMPLETED)
            code = work.result() if work.done() else 128 + self.signals[0]
        finally:
            work.cancel()
            kill.cancel()
        self.end(code)

    def end(self, code: int) -> None:
        """Ended with `code`."""
        if self.exit is None:
            self.exit = ExitStatus(code, time.time())
            self._log.finish()
            for client in self._streams:
                client.deliver(b"")
            self._done.set()

    def _must_run(self) -> None:
        if self.exit is not None:
            raise NotFound("process already finished")


class FakeTask:
    """`gantry.containers.tasks.Task`. spec, updates and netns are there to be looked at."""

    def __init__(
        self, driver: FakeTasks, spec: TaskSpec, netns: int | None, init: FakeProcess
    ) -> None:
        self.container_id = spec.container_id
        self.spec = spec
        self.netns = netns
        self.init = init
        self.pid = init.pid
        self.started_at = time.time()
        self.paused = False
        self.updates: list[bytes] = []
        self.checkpoints: list[str] = []
        self.execs: dict[str, FakeProcess] = {}
        self.on_oom: Callable[[], None] | None = None
        self._driver = driver

    async def wait(self) -> ExitStatus:
        return await self.init.wait()

    async def kill(self, signal: int, *, everything: bool = False) -> None:
        await self.init.kill(signal)

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> FakeStream:
        return self.init.attach((stdin, stdout, stderr))

    async def resize(self, rows: int, columns: int) -> None:
        await self.init.resize(rows, columns)

    async def exec(
        self, spec: ExecSpec, *, attach: tuple[bool, bool, bool]
    ) -> tuple[FakeProcess, FakeStream | None]:
        if self.init.exit is not None:
            raise Conflict(f"container {self.container_id} is not running")
        args = json.loads(spec.process)["args"]
        process, program = self._driver.make(
            args, spec.stdio, NoLog(), "OCI runtime exec failed: exec failed"
        )
        self.execs[spec.exec_id] = process
        stream = process.attach(attach) if any(attach) else None
        self._driver.run(process, program)
        return process, stream

    async def pause(self) -> None:
        self.paused = True

    async def resume(self) -> None:
        self.paused = False

    async def update(self, resources: bytes) -> None:
        self.updates.append(resources)

    async def pids(self) -> Sequence[int]:
        running = [self.init, *self.execs.values()]
        return [process.pid for process in running if process.exit is None]

    async def stats(self) -> bytes:
        return b"{}"

    async def checkpoint(self, path: str, config: bytes, *, exit: bool) -> None:
        self.checkpoints.append(path)
        if exit:
            await self.init.kill(9)

    async def state(self) -> TaskState:
        status = "paused" if self.paused else "running"
        return TaskState(
            container_id=self.container_id,
            status="stopped" if self.init.exit else status,
            pid=self.pid,
            started_at=self.started_at,
            exit=self.init.exit,
            execs={name: process.exit for name, process in self.execs.items()},
        )

    async def flush_logs(self) -> None:
        pass

    async def delete(self) -> None:
        if self.init.exit is None:
            raise Conflict(f"container {self.container_id} is running")
        self._driver.running.pop(self.container_id, None)


class FakeTasks:
    """`gantry.containers.tasks.Tasks`. running: what `recover` finds, by container id."""

    def __init__(self, programs: Mapping[str, Program] | None = None) -> None:
        self.programs: dict[str, Program] = {**PROGRAMS, **(programs or {})}
        self.running: dict[str, FakeTask] = {}
        self.started: list[TaskSpec] = []
        self._pids = count(1000)
        self._owner = TaskOwner("fake tasks")

    async def warm(self) -> None:
        pass

    async def start(
        self,
        spec: TaskSpec,
        netns: int | None,
        attachments: Sequence[tuple[bool, bool, bool]] = (),
    ) -> tuple[FakeTask, Sequence[FakeStream]]:
        self.started.append(spec)
        args = json.loads(spec.spec)["process"]["args"]
        text = (
            "failed to create task for container: failed to create shim task: "
            "OCI runtime create failed: runc create failed"
        )
        log = open_log(spec.log)
        process, program = self.make(args, spec.stdio, log, text)
        task = FakeTask(self, spec, netns, process)
        self.running[spec.container_id] = task
        streams = [process.attach(wants) for wants in attachments]
        self.run(process, program)
        return task, streams

    async def recover(self) -> AsyncIterator[FakeTask]:
        for task in list(self.running.values()):
            yield task

    async def aclose(self) -> None:
        await self._owner.aclose()

    def make(
        self, args: Sequence[str], stdio: StdioSpec, log: Log, failed: str
    ) -> tuple[FakeProcess, Program]:
        """A process and what it will run. StartFailed as Docker says it."""
        program = self.programs.get(args[0])
        if program is None:
            raise StartFailed(
                f'{failed}: unable to start container process: exec: "{args[0]}": '
                "executable file not found in $PATH: unknown",
                127,
            )
        return FakeProcess(next(self._pids), args, stdio, log), program

    def run(self, process: FakeProcess, program: Program) -> None:
        """Let it run."""
        self._owner.spawn(process.run(program), " ".join(process.args))


async def _echo(process: FakeProcess) -> int:
    process.write(1, " ".join(process.args[1:]).encode() + b"\n")
    return 0


async def _cat(process: FakeProcess) -> int:
    while data := await process.read():
        process.write(1, data)
    return 0


async def _sleep(process: FakeProcess) -> int:
    await asyncio.sleep(float(process.args[1]) if process.args[1:] else 1e6)
    return 0


async def _true(_process: FakeProcess) -> int:
    return 0


async def _false(_process: FakeProcess) -> int:
    return 1


async def _sh(process: FakeProcess) -> int:
    """`sh -c` of echo (also >&2), read, sleep, cat and exit, joined by semicolons."""
    if process.args[1:2] != ("-c",):
        return await _cat(process)
    for command in process.args[2].split(";"):
        words = shlex.split(command)
        stream = 2 if ">&2" in words else 1
        words = [word for word in words if word != ">&2"]
        match words:
            case ["exit", code]:
                return int(code)
            case ["echo", *text]:
                process.write(stream, " ".join(text).encode() + b"\n")
            case ["read", *_]:
                await process.read()
            case ["sleep", seconds]:
                await asyncio.sleep(float(seconds))
            case ["cat"]:
                await _cat(process)
    return 0


PROGRAMS: Mapping[str, Program] = {
    "cat": _cat,
    "echo": _echo,
    "false": _false,
    "sh": _sh,
    "sleep": _sleep,
    "true": _true,
}
