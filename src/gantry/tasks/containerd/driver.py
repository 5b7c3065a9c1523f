"""The task driver over containerd: `gantry.containers.tasks.Tasks` by its gRPC API.

The way of a start: a keeper makes the process's pipes (`gantry.shim.keeper`); containerd is
told of a container (spec, runtime), makes its first process in the mounts it is given, with
those pipes, and starts it. All of it is known by containers with our label: a later daemon
lists them, and finds their keepers by their folders.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from gantry.cgroups import oom
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import Conflict, GantryError, NotFound, StartFailed
from gantry.model.failures import create_failed, exit_code_of
from gantry.model.task import ExitStatus, TaskSpec
from gantry.tasks import starting
from gantry.tasks.containerd.api import Api
from gantry.tasks.containerd.connection import Connection
from gantry.tasks.containerd.keeper import Keeper, Wants
from gantry.tasks.containerd.runtimes import Runtimes
from gantry.tasks.containerd.task import ContainerdTask, delete
from gantry.tasks.launch import KEEPERS
from gantry.tasks.launcher import Launcher
from gantry.tasks.stream import SocketStream
from gantry.tasks.task import KILLED

_log = logging.getLogger(__name__)

LABEL: Final = "io.gantry.exec-root"
"""On our containers; its value says which engine's they are."""
ROOT: Final = "rootfs"
"""Where, in the folder that containerd makes for it, a container's root is mounted."""
PATIENCE = 15.0
"""Seconds that containerd may take to come up."""
_SIGKILL: Final = 9
_LISTEN_PAUSE: Final = 1.0


class ContainerdTasks:
    """address: containerd's socket. exec_root: `containerd/<id>/` folders are there.

    scripts: a folder for wrapper scripts of runtimes with arguments (programs may be executed
    there). python: the interpreter that keepers run on, None for the present one's.
    """

    def __init__(
        self,
        address: str,
        namespace: str,
        exec_root: Path,
        scripts: Path,
        *,
        python: str | None = None,
    ) -> None:
        self._exec_root = str(exec_root)
        self._folder = Path(exec_root) / "containerd"
        self._connection = Connection(address, namespace)
        self._api = Api(self._connection)
        self._runtimes = Runtimes(f"{exec_root}/runc", str(scripts))
        self._launcher = Launcher(python, str(Path(exec_root) / "rehearsal"), KEEPERS)
        self._owner = TaskOwner("containerd")
        self._tasks: dict[str, ContainerdTask] = {}
        self.version: tuple[str, str] = ("", "")

    async def warm(self) -> None:
        """Have all that a start needs. Unavailable: there is no containerd at that address."""
        self._folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        await self._launcher.warm()
        self.version = await self._connection.version(PATIENCE)
        await self._launcher.refill()
        self._owner.spawn(self._listen(), "events")

    @property
    def launcher(self) -> Launcher:
        return self._launcher

    async def start(
        self,
        spec: TaskSpec,
        netns: int | None,
        attachments: Sequence[Wants] = (),
    ) -> tuple[ContainerdTask, Sequence[SocketStream]]:
        own = None if netns is None else os.dup(netns)
        start = self._start(spec, own, attachments)
        return await starting.whole(self._owner, start, spec.container_id[:12])

    async def recover(self) -> AsyncIterator[ContainerdTask]:
        names = set(await self._api.container_ids(LABEL, self._exec_root))
        for name in sorted(names):
            task = await self._found(name)
            if task is not None:
                yield task
        for name in sorted(set(os.listdir(self._folder)) - names):
            await self._task(name).keeper.delete()

    async def aclose(self) -> None:
        for task in self._tasks.values():
            task.let_go()
        self._tasks.clear()
        await self._owner.aclose()
        self._connection.close()
        self._launcher.close()

    # -- starting -----------------------------------------------------------------------

    async def _start(
        self, spec: TaskSpec, netns: int | None, attachments: Sequence[Wants]
    ) -> tuple[ContainerdTask, Sequence[SocketStream]]:
        try:
            return await self._start_with(spec, netns, attachments)
        except StartFailed:
            raise
        except GantryError as error:
            raise create_failed(str(error), exit_code_of(str(error))) from None
        finally:
            if netns is not None:
                os.close(netns)
            if not self._owner.closed:
                self._owner.spawn(self._launcher.refill(), "refill")

    async def _start_with(
        self, spec: TaskSpec, netns: int | None, attachments: Sequence[Wants]
    ) -> tuple[ContainerdTask, Sequence[SocketStream]]:
        name = spec.container_id
        runtime, options = self._runtimes.of(spec)
        config = adapted(spec, None if netns is None else f"/proc/{os.getpid()}/fd/{netns}")
        task = self._task(name)
        async with AsyncExitStack() as undo:
            stdio, streams = await task.keeper.keep(spec, attachments)
            undo.push_async_callback(task.keeper.delete)
            for stream in streams:
                undo.callback(stream.close_now)
            undo.push_async_callback(self._end, name)
            labels = {LABEL: self._exec_root}
            try:
                await self._api.create_container(name, labels, runtime, options, config)
            except Conflict:  # of a start that a crash interrupted
                await self._end(name)
                await self._api.create_container(name, labels, runtime, options, config)
            pid = await self._api.create(
                name,
                spec.rootfs,
                stdio,
                terminal=spec.stdio.terminal,
                options=options if spec.restore else None,
            )
            oom_files, started_at = oom.files_of(pid), time.time()
            await self._api.start(name)
            undo.pop_all()
        self._tasks[name] = task
        task.keeper.started(started_at, oom_files)
        task.running(pid, started_at, oom_files)
        return task, streams

    async def _end(self, name: str) -> None:
        """Kill and remove whatever containerd has of that name."""
        try:
            await self._api.kill(name, _SIGKILL, everything=True)
            await self._api.wait(name)
        except GantryError:
            pass  # there is no task, or it has ended
        await delete(self._api, name)

    def _task(self, name: str) -> ContainerdTask:
        task = ContainerdTask(name, self._api, self._owner, self._forget)
        task.keeper = Keeper(
            self._folder / name, self._launcher, self._owner, task.ended, task.stdin_ended
        )
        return task

    def _forget(self, task: ContainerdTask) -> None:
        if self._tasks.get(task.container_id) is task:
            del self._tasks[task.container_id]

    # -- finding again ------------------------------------------------------------------

    async def _found(self, name: str) -> ContainerdTask | None:
        """The task of a container of ours; None: nothing is known but that it ran once."""
        task = self._task(name)
        kept = await task.keeper.find()
        try:
            process = await self._api.get(name)
        except NotFound:
            process = None
        if kept is not None and process is not None and process.status != "created":
            self._tasks[name] = task
            task.adopt(process.pid, kept)
            if process.status == "stopped":
                await task.wait()
            return task
        # Its shim was killed, or the daemon died in the middle of a start, or it is a boot.
        await self._end(name)
        await task.keeper.delete()
        if kept is None:
            return None
        task.exit.set(ExitStatus(KILLED, time.time()))
        return task

    async def _listen(self) -> None:
        """Hear of kills for memory. One that is missed shows in the exit status all the same."""
        told = False
        while True:
            try:
                async for name in self._api.out_of_memory():
                    if name in self._tasks:
                        self._tasks[name].out_of_memory()
            except GantryError as error:
                _log.log(logging.DEBUG if told else logging.WARNING, "containerd: %s", error)
                told = True
            await asyncio.sleep(_LISTEN_PAUSE)
            told = told and not await self._is_back()

    async def _is_back(self) -> bool:
        """Whether containerd answers (again)."""
        try:
            version, _ = await self._connection.version()
        except GantryError:
            return False
        _log.info("containerd %s is back", version)
        return True


def adapted(spec: TaskSpec, netns: str | None) -> bytes:
    """A task's config.json for containerd: its root is what containerd mounts for it, its
    network the namespace at `netns`."""
    config = msgspec.json.decode(spec.spec)
    if spec.rootfs:
        config["root"]["path"] = ROOT
    if netns is not None:
        namespaces = config["linux"]["namespaces"]
        others = [entry for entry in namespaces if entry["type"] != "network"]
        config["linux"]["namespaces"] = [*others, {"type": "network", "path": netns}]
    return msgspec.json.encode(config)
