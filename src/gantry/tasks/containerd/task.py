"""A container and its processes under containerd."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from gantry.cgroups import oom
from gantry.cgroups.runc_stats import runc_stats
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import Conflict, GantryError, NotFound
from gantry.model.failures import exec_failed, exit_code_of
from gantry.model.task import ExecSpec, ExitStatus, TaskState
from gantry.tasks.containerd import metrics
from gantry.tasks.containerd.api import Api, Stdio
from gantry.tasks.containerd.keeper import Keeper, Kept, Wants
from gantry.tasks.stream import SocketStream
from gantry.tasks.task import KILLED, Exit

_log = logging.getLogger(__name__)

_SIGKILL = 9
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 2.0
"""Seconds between two questions while containerd does not answer."""


class ContainerdProcess:
    """`gantry.containers.tasks.Process`: an exec'ed process."""

    def __init__(self, api: Api, container_id: str, exec_id: str) -> None:
        self._api = api
        self._container_id = container_id
        self.exec_id = exec_id
        self.pid = 0
        self.exit = Exit()

    async def wait(self) -> ExitStatus:
        return await self.exit.wait()

    async def resize(self, rows: int, columns: int) -> None:
        await self._api.resize(self._container_id, self.exec_id, rows, columns)

    async def kill(self, signal: int) -> None:
        await self._api.kill(self._container_id, signal, self.exec_id)


class ContainerdTask:
    """`gantry.containers.tasks.Task`: containerd has the processes, a keeper their streams.

    Ends are waited for (Tasks.Wait), not listened for: an event is lost when it comes while
    containerd is started again, an answer is asked for once more. forget: called when it has
    been deleted.
    """

    def __init__(
        self,
        container_id: str,
        api: Api,
        owner: TaskOwner,
        forget: Callable[[ContainerdTask], None],
    ) -> None:
        self.container_id = container_id
        self.pid = 0
        self.started_at = 0.0
        self.exit = Exit()
        self.on_oom: Callable[[], None] | None = None
        self._api = api
        self._owner = owner
        self._forget = forget
        self._keeper: Keeper | None = None
        self._oom_files: Sequence[str] = ()
        self._oom_seen = False
        self._processes: dict[str, ContainerdProcess] = {}
        self._deleted = False

    # -- for the driver -----------------------------------------------------------------

    @property
    def keeper(self) -> Keeper:
        """Of its streams. NotFound: they are gone."""
        if self._keeper is None:
            raise NotFound("process already finished")
        return self._keeper

    @keeper.setter
    def keeper(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def running(self, pid: int, started_at: float, oom_files: Sequence[str]) -> None:
        """The first process runs (or has just ended)."""
        self.pid, self.started_at, self._oom_files = pid, started_at, oom_files
        self._owner.spawn(self._watch(), f"wait for {self.container_id[:12]}")

    def adopt(self, pid: int, kept: Kept) -> None:
        """What runs since an earlier daemon (or ended meanwhile)."""
        self.running(pid, kept.started_at or time.time(), kept.oom_files or oom.files_of(pid))
        for exec_id in kept.stdin_ended:
            self.stdin_ended(exec_id)
        for exec_id in kept.execs:
            process = ContainerdProcess(self._api, self.container_id, exec_id)
            self._processes[exec_id] = process
            self._owner.spawn(self._watch_exec(process, kept=True), f"wait for exec {exec_id[:12]}")

    def out_of_memory(self) -> None:
        """containerd says that the kernel has killed for memory."""
        self._oom_seen = True
        if self.on_oom is not None and self.exit.status is None:
            self.on_oom()

    def stdin_ended(self, exec_id: str) -> None:
        """The keeper has closed its end of a process's input: so does containerd's shim."""

        async def close() -> None:
            try:
                await self._api.close_stdin(self.container_id, exec_id)
            except GantryError:
                pass  # it has ended

        if not self._owner.closed:
            self._owner.spawn(close(), f"close stdin of {exec_id[:12] or self.container_id[:12]}")

    def ended(self, exec_id: str, status: ExitStatus) -> None:
        """A process is over, its output complete."""
        process = self._processes.pop(exec_id, None)
        if not exec_id:
            self.exit.set(status)
        elif process is not None:
            process.exit.set(status)

    def let_go(self) -> None:
        """Hear no more of it; it goes on."""
        if self._keeper is not None:
            self._keeper.let_go()
        self.exit.give_up()
        for process in self._processes.values():
            process.exit.give_up()

    # -- Task ---------------------------------------------------------------------------

    async def wait(self) -> ExitStatus:
        return await self.exit.wait()

    async def kill(self, signal: int, *, everything: bool = False) -> None:
        if self.exit.status is not None:
            raise NotFound("process already finished")
        await self._api.kill(self.container_id, signal, everything=everything)
        if signal == _SIGKILL:
            await self._thaw()

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> SocketStream:
        return await self.keeper.attach((stdin, stdout, stderr))

    async def resize(self, rows: int, columns: int) -> None:
        await self._api.resize(self.container_id, "", rows, columns)

    async def exec(
        self, spec: ExecSpec, *, attach: Wants
    ) -> tuple[ContainerdProcess, SocketStream | None]:
        # Whoever asked may go away: a process that has been prepared is started all the same.
        starting = self._owner.spawn(
            self._exec(spec, attach), f"exec {spec.exec_id[:12]}", report=False
        )
        return await asyncio.shield(starting)

    async def pause(self) -> None:
        await self._api.pause(self.container_id)

    async def resume(self) -> None:
        await self._api.resume(self.container_id)

    async def update(self, resources: bytes) -> None:
        await self._api.update(self.container_id, resources)

    async def pids(self) -> Sequence[int]:
        return await self._api.pids(self.container_id)

    async def stats(self) -> bytes:
        found = await self._api.metrics(self.container_id)
        if found is None:
            raise NotFound("process already finished")
        return msgspec.json.encode(runc_stats(metrics.parse(found)))

    async def checkpoint(self, path: str, config: bytes, *, exit: bool) -> None:
        await self._api.checkpoint(self.container_id, path, exit=exit)

    async def state(self) -> TaskState:
        status = "stopped"
        if self.exit.status is None:
            status = (await self._api.get(self.container_id)).status
        return TaskState(
            self.container_id,
            "paused" if status == "pausing" else status,
            self.pid,
            self.started_at,
            self.exit.status,
            dict.fromkeys(self._processes),
        )

    async def flush_logs(self) -> None:
        await self.keeper.flush()

    async def delete(self) -> None:
        if self._deleted:
            return
        if self.exit.status is None:
            raise Conflict(f"container {self.container_id} is running")
        self._deleted = True
        try:
            await delete(self._api, self.container_id)
            if self._keeper is not None:
                await self._keeper.delete()
        except BaseException:
            self._deleted = False
            raise
        self._forget(self)

    # -- processes ----------------------------------------------------------------------

    async def _exec(
        self, spec: ExecSpec, attach: Wants
    ) -> tuple[ContainerdProcess, SocketStream | None]:
        container_id, exec_id, terminal = self.container_id, spec.exec_id, spec.stdio.terminal
        if self.exit.status is not None:
            raise Conflict(f"container {container_id} is not running")
        kept = terminal or any(attach)  # else nobody will ever hear of its output
        stdio = Stdio()
        streams: Sequence[SocketStream] = ()
        if kept:
            wanted = [attach] if any(attach) else []
            stdio, streams = await self.keeper.exec(exec_id, spec.stdio, wanted)
        process = ContainerdProcess(self._api, container_id, exec_id)
        try:
            await self._api.exec(container_id, exec_id, spec.process, stdio, terminal=terminal)
            process.pid = await self._api.start(container_id, exec_id)
        except GantryError as error:
            for stream in streams:
                stream.close_now()
            await self._exec_failed(exec_id, kept)
            raise exec_failed(str(error), exit_code_of(str(error))) from None
        self._processes[exec_id] = process
        self._owner.spawn(self._watch_exec(process, kept=kept), f"wait for exec {exec_id[:12]}")
        return process, streams[0] if streams else None

    async def _exec_failed(self, exec_id: str, kept: bool) -> None:
        """Undo. Conflict: the container had ended, that was all."""
        if kept:
            self.keeper.drop(exec_id)
        try:
            await self._api.delete_exec(self.container_id, exec_id)
        except GantryError:
            pass  # it came not so far
        try:
            status = (await self._api.get(self.container_id)).status
        except NotFound:
            status = "stopped"
        if status == "stopped":
            raise Conflict(f"container {self.container_id} is not running")

    async def _watch(self) -> None:
        status = await self._end("")
        killed = self._oom_seen or oom.kills_in(self._oom_files) > 0
        self.keeper.ended("", status._replace(oom_killed=killed))

    async def _watch_exec(self, process: ContainerdProcess, *, kept: bool) -> None:
        status = await self._end(process.exec_id)
        if kept:
            self.keeper.ended(process.exec_id, status)
        else:
            self.ended(process.exec_id, status)
        await process.wait()
        try:
            await self._api.delete_exec(self.container_id, process.exec_id)
        except GantryError:
            pass  # gone with its container

    async def _end(self, exec_id: str) -> ExitStatus:
        """How a process ends. One whose shim was killed has gone with it."""
        pause = _FIRST_PAUSE
        while True:
            try:
                ended = await self._api.wait(self.container_id, exec_id)
                return ExitStatus(ended.code, ended.at)
            except NotFound:
                return ExitStatus(KILLED, time.time())
            except GantryError as error:
                _log.debug("waiting for %s: %s", self.container_id[:12], error)
            await asyncio.sleep(pause)
            pause = min(_LAST_PAUSE, pause * 2)

    async def _thaw(self) -> None:
        """On cgroup v1 a frozen process dies when it is thawed; on v2 it has died already."""
        try:
            if (await self._api.get(self.container_id)).status in ("paused", "pausing"):
                await self._api.resume(self.container_id)
        except GantryError:
            pass  # it is dead


async def delete(api: Api, container_id: str) -> None:
    """Remove a task that has ended, and what describes it. Conflict: it runs. Idempotent."""
    for remove in (api.delete, api.delete_container):
        try:
            await remove(container_id)
        except NotFound:
            pass
