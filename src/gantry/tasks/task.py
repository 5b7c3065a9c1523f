"""A container and its processes, seen through the socket to its shim."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from signal import SIGKILL

from gantry.ipc import wire
from gantry.ipc.aio import Disconnected, Requester
from gantry.ipc.frames import Message
from gantry.model.errors import NotFound, Unavailable
from gantry.model.task import ExecSpec, ExitStatus, TaskState
from gantry.tasks import stuck
from gantry.tasks.stream import SocketStream

KILLED = 137
PATIENCE = 2.0
"""Seconds that a shim may take to answer before one looks what keeps it, again and again."""
LAST_PATIENCE = 15.0
"""Seconds that it may take to kill its container before it is killed itself."""

_log = logging.getLogger(__name__)


class Exit:
    """An exit status to come, for any number of waiters."""

    def __init__(self) -> None:
        self._future: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    @property
    def status(self) -> ExitStatus | None:
        """The status when it is known."""
        if not self._future.done() or self._future.exception() is not None:
            return None
        return self._future.result()

    def set(self, status: ExitStatus) -> None:
        """Known now. The first one counts."""
        if not self._future.done():
            self._future.set_result(status)

    def give_up(self) -> None:
        """Nobody will hear of it any more: waiters get Unavailable."""
        if not self._future.done():
            self._future.set_exception(Unavailable("the engine let go of the container"))
            self._future.exception()  # seen, should nobody wait

    async def wait(self) -> ExitStatus:
        """The status; a cancelled waiter cancels nobody else's."""
        return await asyncio.shield(self._future)


class ShimProcess:
    """`gantry.containers.tasks.Process`: an exec'ed process."""

    def __init__(self, task: ShimTask, exec_id: str, pid: int) -> None:
        self._task = task
        self._exec_id = exec_id
        self.pid = pid
        self.exit = Exit()

    async def wait(self) -> ExitStatus:
        return await self.exit.wait()

    async def resize(self, rows: int, columns: int) -> None:
        await self._task.call("resize", exec=self._exec_id, rows=rows, columns=columns)

    async def kill(self, signal: int) -> None:
        await self._task.call("kill", exec=self._exec_id, signal=signal)


class ShimTask:
    """`gantry.containers.tasks.Task` by one shim.

    When the connection ends without a word about init's end, the shim was killed: `lost`
    is called with this task, to kill what is left (and then to call `ended`).
    """

    def __init__(self, container_id: str, lost: Callable[[ShimTask], None]) -> None:
        self.container_id = container_id
        self.pid = 0
        self.started_at = 0.0
        self.exit = Exit()
        self.on_oom: Callable[[], None] | None = None
        self._lost = lost
        self._shim = 0
        self._requester: Requester | None = None
        self._processes: dict[str, ShimProcess] = {}
        self._early: dict[str, ExitStatus] = {}
        self._leaving = False
        self._deleted = False

    # -- the connection, for the driver -------------------------------------------------

    def connect(self, requester: Requester) -> None:
        """Talk through `requester`, which calls `on_event` and `on_close`."""
        self._requester = requester

    @property
    def requester(self) -> Requester:
        """The connection. NotFound: there is none."""
        if self._requester is None:
            raise NotFound("process already finished")
        return self._requester

    def on_event(self, message: Message) -> None:
        """An event from the shim."""
        if message.head.get("event") == "oom":
            message.close()
            if self.on_oom is not None and self.exit.status is None:
                self.on_oom()
            return
        status = wire.exit_from_wire(message.head.get("exit"))
        name = message.text("exec", "")
        if message.head.get("event") != "exit" or status is None:
            message.close()
        elif not name:
            self.exit.set(status)
        elif name in self._processes:
            self._processes.pop(name).exit.set(status)
        else:
            self._early[name] = status

    def on_close(self) -> None:
        """The shim is gone, or we let go of it."""
        if self._leaving:
            self.exit.give_up()
            for process in self._processes.values():
                process.exit.give_up()
        elif not self._deleted and self.pid:
            self._lost(self)

    def ended(self, status: ExitStatus) -> None:
        """The shim is gone and all that it had: report `status` for what has none yet."""
        for process in self._processes.values():
            process.exit.set(ExitStatus(KILLED, status.at))
        self._processes.clear()
        self.exit.set(status)

    def running(self, pid: int, started_at: float, *, shim: int = 0) -> None:
        """Init runs. shim: the shim's pid; 0: it does not say, and is init's parent."""
        self.pid = pid
        self._shim = shim
        self.started_at = started_at

    def adopt(self, state: TaskState) -> None:
        """What a shim that was found again says of itself."""
        self.running(state.pid, state.started_at, shim=state.shim)
        if state.exit is not None:
            self.exit.set(state.exit)

    def let_go(self) -> None:
        """Close the connection; the shim goes on."""
        self._leaving = True
        if self._requester is not None:
            self._requester.close()

    async def call(self, op: str, body: bytes = b"", /, **fields: object) -> Message:
        """One request to the shim. NotFound: it is gone; else what it raised."""
        if self._requester is None or self._requester.closed:
            raise NotFound("process already finished")
        loop = asyncio.get_running_loop()
        watch: asyncio.TimerHandle

        def look() -> None:
            nonlocal watch
            self._free()
            watch = loop.call_later(PATIENCE, look)

        watch = loop.call_later(PATIENCE, look)
        try:
            reply = await self._requester.request(op, body, **fields)
        except Disconnected:
            raise NotFound("process already finished") from None
        finally:
            watch.cancel()
        return wire.raise_error(reply)

    def _free(self) -> None:
        """The shim does not answer: maybe the container has stopped it (stuck.py)."""
        if self.pid and stuck.free(self._shim_pid()):
            _log.warning("%s: ended an exec that was stopped on its way", self.container_id[:12])

    def _end(self) -> None:
        """The shim does not even kill: its end is its container's (see `_lost`)."""
        if self.pid and stuck.end(self._shim_pid()):
            _log.warning("%s: its shim hung, and was killed", self.container_id[:12])

    def _shim_pid(self) -> int:
        return self._shim or stuck.parent_of(self.pid)

    # -- Task ---------------------------------------------------------------------------

    async def wait(self) -> ExitStatus:
        return await self.exit.wait()

    async def kill(self, signal: int, *, everything: bool = False) -> None:
        last = asyncio.get_running_loop().call_later(LAST_PATIENCE, self._end)
        if signal != SIGKILL:
            last.cancel()
        try:
            await self.call("kill", signal=signal, all=everything)
        finally:
            last.cancel()

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> SocketStream:
        reply = await self.call("attach", wants=[stdin, stdout, stderr])
        return SocketStream(reply.fds[0])

    async def resize(self, rows: int, columns: int) -> None:
        await self.call("resize", rows=rows, columns=columns)

    async def exec(
        self, spec: ExecSpec, *, attach: tuple[bool, bool, bool]
    ) -> tuple[ShimProcess, SocketStream | None]:
        wanted = [list(attach)] if any(attach) else []
        reply = await self.call("exec", spec.process, attachments=wanted, **wire.exec_to_wire(spec))
        process = ShimProcess(self, spec.exec_id, reply.number("pid"))
        stream = SocketStream(reply.fds[0]) if reply.fds else None
        early = self._early.pop(spec.exec_id, None)
        if early is not None:
            process.exit.set(early)
        elif self._requester is None or self._requester.closed:
            process.exit.set(ExitStatus(KILLED, time.time()))
        else:
            self._processes[spec.exec_id] = process
        return process, stream

    async def pause(self) -> None:
        await self.call("pause")

    async def resume(self) -> None:
        await self.call("resume")

    async def update(self, resources: bytes) -> None:
        await self.call("update", resources)

    async def pids(self) -> Sequence[int]:
        pids = (await self.call("pids")).head.get("pids")
        return [int(pid) for pid in pids] if isinstance(pids, list) else []

    async def stats(self) -> bytes:
        return (await self.call("stats")).body

    async def checkpoint(self, path: str, config: bytes, *, exit: bool) -> None:
        await self.call("checkpoint", config, path=path, exit=exit)

    async def state(self) -> TaskState:
        if self._requester is None or self._requester.closed:
            return TaskState(
                self.container_id, "stopped", self.pid, self.started_at, self.exit.status
            )
        return wire.state_from_wire(await self.call("state"))

    async def flush_logs(self) -> None:
        try:
            await self.call("flush")
        except NotFound:
            pass  # the shim is gone, and what it has read is in the file

    async def delete(self) -> None:
        if self._deleted:
            return
        self._deleted = True
        try:
            await self.call("delete")
        except NotFound:
            pass  # a dead shim's remains were removed when its end was noticed
        except BaseException:
            self._deleted = False
            raise
        self.let_go()


def parse_exit(text: bytes) -> ExitStatus | None:
    """A shim's exit.json; None for anything else."""
    try:
        document = json.loads(text)
        return ExitStatus(
            int(document["code"]), float(document["at"]), bool(document["oom_killed"])
        )
    except (ValueError, KeyError, TypeError):
        return None
