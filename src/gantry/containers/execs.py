"""Exec: further processes in a running container."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gantry.containers import keys
from gantry.containers.core import Core
from gantry.containers.identity import Identities
from gantry.containers.names import new_id
from gantry.containers.record import Container
from gantry.containers.spec import capabilities
from gantry.containers.spec.build import Bind, Start, environment, process
from gantry.containers.tasks import Process, Stream, Task
from gantry.model.container import ExecCreate
from gantry.model.errors import (
    Conflict,
    InvalidParameter,
    NotFound,
    StartFailed,
    System,
    Unavailable,
)
from gantry.model.task import ExecSpec, StdioSpec

Json = dict[str, Any]

_CODE_PATIENCE = 2.0

_READY = 10.0
"""Seconds that a resize waits for the process to be there, as moby does."""
_KEEP = 300.0
"""Seconds that an ended exec can still be inspected (moby cleans every five minutes)."""


@dataclass(eq=False)
class Exec:
    """One exec: as asked for, and what became of it."""

    id: str
    container: Container
    request: ExecCreate
    process: Process | None = None
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is there, or when it failed to start."""

    @property
    def argv(self) -> list[str]:
        return list(self.request.cmd or ())


class _UntilEnd:
    """A stream whose end comes when the exit code is known, for clients ask for it then."""

    def __init__(self, inner: Stream, one: Exec) -> None:
        self._inner = inner
        self._one = one

    async def read(self) -> bytes:
        data = await self._inner.read()
        if not data and not (isinstance(self._inner, keys.KeyStream) and self._inner.detached):
            # A process that closed its output may go on for long: then there is no code yet.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CODE_PATIENCE):
                    await self._one.done.wait()
        return data

    async def write(self, data: bytes) -> None:
        await self._inner.write(data)

    async def close_stdin(self) -> None:
        await self._inner.close_stdin()

    async def close(self) -> None:
        await self._inner.close()


class Execs:
    """`gantry.api.backend.ExecBackend`."""

    def __init__(self, core: Core, identities: Identities) -> None:
        self._core = core
        self._identities = identities
        self._all: dict[str, Exec] = {}

    async def create(self, container: str, request: ExecCreate) -> str:
        """Conflict when the container does not run or is paused."""
        found = self._core.table.get(container)
        self._check(found, container)
        if not request.cmd:
            raise InvalidParameter("No exec command specified")
        if request.detach_keys:
            try:
                keys.parse(request.detach_keys)
            except InvalidParameter:
                raise InvalidParameter(
                    f"Invalid escape keys ({request.detach_keys}) provided"
                ) from None
        for entry in request.env or ():
            if not entry or entry.startswith("="):
                raise InvalidParameter(f"invalid environment variable: {entry}")
        made = Exec(new_id(), found, request)
        self._all[made.id] = made
        found.live.execs[made.id] = made
        self._event(made, "exec_create")
        return made.id

    async def start(
        self, exec_id: str, *, detach: bool, tty: bool | None, console_size: Sequence[int] | None
    ) -> Stream | None:
        """The stream, None when detached. Conflict, StartFailed."""
        one = self._get(exec_id)
        if one.exit_code is not None or (one.started and not one.running):
            raise Conflict(f"exec command {one.id} has already run")
        if one.running or one.started:
            raise Conflict(f"exec command {one.id} is already running")
        container, request = one.container, one.request
        task = self._check(container)
        one.started = True
        size = console_size or request.console_size or (0, 0)
        stdio = StdioSpec(
            terminal=request.tty,
            open_stdin=request.attach_stdin and not detach,
            stdin_once=True,
            rows=size[0] if len(size) == 2 else 0,
            columns=size[1] if len(size) == 2 else 0,
        )
        wants = (request.attach_stdin, request.attach_stdout, request.attach_stderr)
        try:
            spec = ExecSpec(one.id, await self._process(one), stdio, request.privileged)
            self._event(one, "exec_start")
            one.process, stream = await task.exec(
                spec, attach=(False, False, False) if detach else wants
            )
        except StartFailed as error:
            self._end(one, error.exit_code)
            raise
        except BaseException:
            self._end(one, 126)
            raise
        one.running, one.pid = True, one.process.pid
        one.ready.set()
        self._core.owner.spawn(self._watch(one, one.process), f"exec {one.id[:12]}")
        if stream is None:
            return None
        if request.tty and request.attach_stdin:
            stream = keys.KeyStream(stream, keys.parse(request.detach_keys))
        return _UntilEnd(stream, one)

    def tty(self, exec_id: str) -> bool:
        return self._get(exec_id).request.tty

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        one = self._get(exec_id)
        # A client resizes as soon as it has its connection, which is before the process is there.
        try:
            async with asyncio.timeout(_READY):
                await one.ready.wait()
        except TimeoutError:
            raise System("timeout waiting for exec session ready") from None
        if not one.container.state.running:
            raise Conflict(f"container {one.container.id} is not running")
        if one.process is None:
            raise InvalidParameter("exec process is not started")
        await one.process.resize(rows, columns)
        self._core.event(one.container, "resize", {"height": str(rows), "width": str(columns)})

    def inspect(self, exec_id: str) -> Json:
        one = self._get(exec_id)
        request = one.request
        return {
            "ID": one.id,
            "Running": one.running,
            "ExitCode": one.exit_code,
            "ProcessConfig": {
                "tty": request.tty,
                "entrypoint": one.argv[0],
                "arguments": one.argv[1:],
                "privileged": request.privileged,
                "user": request.user,
            },
            "OpenStdin": request.attach_stdin,
            "OpenStderr": request.attach_stderr,
            "OpenStdout": request.attach_stdout,
            "CanRemove": one.exit_code is not None,
            "ContainerID": one.container.id,
            "DetachKeys": request.detach_keys,
            "Pid": one.pid,
        }

    async def run(self, container: Container, request: ExecCreate) -> tuple[Exec, Stream | None]:
        """Create and start at once, for health checks."""
        made = Exec(new_id(), container, request)
        self._all[made.id] = made
        container.live.execs[made.id] = made
        self._event(made, "exec_create")
        stream = await self.start(made.id, detach=False, tty=None, console_size=None)
        return made, stream

    def forget(self, container: Container) -> None:
        """At its end: what was never started can't be any more."""
        for made in list(container.live.execs.values()):
            if not made.started:
                del container.live.execs[made.id]
                self._all.pop(made.id, None)

    def _get(self, exec_id: str) -> Exec:
        found = self._all.get(exec_id)
        if found is None:
            matches = [e for i, e in self._all.items() if exec_id and i.startswith(exec_id)]
            if len(matches) != 1:
                raise NotFound(f"No such exec instance: {exec_id}")
            found = matches[0]
        if self._core.table.by_id(found.container.id) is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return found

    def _check(self, container: Container, name: str = "") -> Task:
        state, task = container.state, container.live.task
        if state.restarting:
            raise Conflict(
                f"Container {container.id} is restarting, wait until the container is running"
            )
        if not state.running or task is None:
            raise Conflict(f"container {container.id} is not running")
        if state.paused:
            raise Conflict(
                f"Container {name or container.id} is paused, unpause the container before exec"
            )
        return task

    async def _process(self, one: Exec) -> bytes:
        container, request = one.container, one.request
        record, settings = container.record, self._core.settings
        host = record.host_config
        identity = await self._identities.of(container, request.user or record.config.user)
        caps = capabilities.effective(
            host.cap_add, host.cap_drop, privileged=host.privileged or request.privileged
        )
        sandbox = container.live.sandbox
        binds: list[Bind] = []
        start = Start(
            hostname=record.config.hostname,
            identity=identity,
            binds=binds,
            env=sandbox.env if sandbox else (),
        )
        env = environment(record, start, tty=request.tty, extra=request.env or ())
        made = process(
            record,
            settings,
            args=one.argv,
            env=env,
            cwd=request.working_dir or record.config.working_dir or "/",
            identity=identity,
            caps=caps,
        )
        return msgspec.json.encode({**made, "terminal": request.tty})

    async def _watch(self, one: Exec, running: Process) -> None:
        try:
            status = await running.wait()
        except Unavailable:
            return
        self._end(one, status.code)

    def _end(self, one: Exec, code: int) -> None:
        if one.exit_code is not None:
            return
        one.exit_code, one.running = code, False
        one.container.live.execs.pop(one.id, None)
        one.done.set()
        one.ready.set()
        self._core.event(one.container, "exec_die", {"execID": one.id, "exitCode": str(code)})
        asyncio.get_running_loop().call_later(_KEEP, self._all.pop, one.id, None)

    def _event(self, one: Exec, action: str) -> None:
        command = " ".join(one.argv)
        self._core.event(one.container, f"{action}: {command}", {"execID": one.id})
