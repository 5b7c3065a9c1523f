"""After a restart of the daemon: what runs is found again, what ended meanwhile is worked up.

Order: records are read; the shims are asked what runs; running containers get their networks
back; ended ones take the usual way of an end; what is left of creates and removes that a
crash interrupted is swept; then restart policies have their turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable

import msgspec

from gantry.archive.removal import remove_tree
from gantry.containers import sandbox as surroundings
from gantry.containers.core import Core
from gantry.containers.exits import Exits, should_restart
from gantry.containers.record import Container, Record, State
from gantry.containers.remove import Remover
from gantry.containers.start import Starter
from gantry.containers.tasks import Task
from gantry.model.errors import GantryError
from gantry.model.network import Sandbox, SandboxState
from gantry.model.snapshot import Kind
from gantry.model.task import ExitStatus

_log = logging.getLogger(__name__)
_ID = re.compile(r"[0-9a-f]{64}")
_OF_IMAGE = re.compile(r"([0-9a-f]{64})-image-[0-9a-f]+")
_LOST = 255
"""Exit code of a container of which nothing is known but that it ran (a reboot)."""


class Recovery:
    """Runs once, before the API is served."""

    def __init__(self, core: Core, starter: Starter, exits: Exits, remover: Remover) -> None:
        self._core = core
        self._starter = starter
        self._exits = exits
        self._remover = remover
        self.on_found: Callable[[Container], None] = lambda container: None
        self.on_all: Callable[[], None] = lambda: None

    def load(self) -> None:
        """Read the records. One that cannot be read is left out, with a line in the log."""
        core = self._core
        os.makedirs(core.settings.containers, 0o710, exist_ok=True)
        os.makedirs(core.settings.rootfs, 0o755, exist_ok=True)
        for record_text, state_text in core.store.load():
            try:
                record = msgspec.json.decode(record_text, type=Record)
                state = msgspec.json.decode(state_text, type=State)
            except msgspec.DecodeError as error:
                _log.error("a container's record is damaged and left out: %s", error)
                continue
            container = Container(record, state)
            core.table.add(container)
            for mount in record.mounts:
                if mount.kind == "volume":
                    core.volumes.hold(mount.name, container.id)

    async def find(self) -> None:
        """Ask the shims; call after the network service's `start` and before its `settle`."""
        core = self._core
        core.ready.clear()
        found: dict[str, Task] = {}
        async for task in core.tasks.recover():
            found[task.container_id] = task
        # Those that share another's network come after it.
        order = sorted(
            core.table, key=lambda c: c.record.host_config.network_mode.startswith("container:")
        )
        for container in order:
            task_or_none = found.pop(container.id, None)
            if task_or_none is not None:
                await self._adopt(container, task_or_none)
            elif container.state.running:
                await self._lost(container)
        for task in found.values():
            await self._stray(task)
        for container in core.table:
            state = container.state
            finished = container.record.host_config.auto_remove and state.started_at
            if not state.running and (state.removing or finished):
                await self._remove(container)
        self._sweep()

    async def revive(self) -> None:
        """Restart policies; call when all but the listeners is up. When this returns, what was
        to run has been started, or has failed, and who links to others after them: who finds
        the daemon up finds its containers up, as with dockerd."""
        core = self._core
        core.ready.set()
        self.on_all()
        due: list[Container] = []
        for container in core.table:
            state = container.state
            if state.running or core.closing:
                continue
            if state.started_at and should_restart(
                container, state.exit_code, state.stopped_by_user
            ):
                due.append(container)
        for linked in (False, True):
            group = [c for c in due if bool(c.record.host_config.links) == linked]
            await asyncio.gather(*(self._start(container) for container in group))

    async def _start(self, container: Container) -> None:
        async with container.lock:
            if not container.state.running:
                try:
                    await self._starter.start_locked(container)
                except GantryError as error:
                    _log.error("starting container %s: %s", container.id[:12], error)

    async def _adopt(self, container: Container, task: Task) -> None:
        """A container that runs (or has just ended) under a shim."""
        core, live = self._core, container.live
        state = await task.state()
        live.task = task
        if state.exit is None:
            live.sandbox = await self._network(container, state.pid)
            for mount in container.record.mounts:
                if mount.kind == "volume":
                    core.volumes.in_use(mount.name, container.id)
        started = int(state.started_at * 1e9)
        container.change(
            running=True,
            restarting=False,
            removing=False,
            paused=state.status == "paused",
            pid=state.pid,
            started_at=_same_start(container.state.started_at, started),
        )
        core.note(container)
        if state.exit is not None:
            # Worked up before anybody is served: nobody sees it run any more.
            live.exited = asyncio.get_running_loop().create_future()
            await self._exits.ended(container, task, state.exit)
        else:
            self._exits.watch(container, task)
            self.on_found(container)

    async def _network(self, container: Container, pid: int) -> Sandbox | None:
        core = self._core
        saved = container.state.network or SandboxState(container.record.host_config.network_mode)
        mode = container.record.host_config.network_mode
        netns_pid = 0
        if mode.startswith("container:"):
            other = core.table.find(mode.partition(":")[2])
            netns_pid = other.state.pid if other else 0
        request = surroundings.network_request(core, container, netns_pid)
        try:
            return await core.networks.adopt(request, pid, saved)
        except (GantryError, OSError) as error:
            _log.error("network of container %s: %s", container.id[:12], error)
            return None

    async def _lost(self, container: Container) -> None:
        """It ran when the daemon went down, and there is no shim: the machine was rebooted."""
        container.change(running=True, pid=0)
        await self._exits.lost(container, ExitStatus(_LOST, time.time()))

    async def _stray(self, task: Task) -> None:
        """A task without record: its container was removed while the daemon died."""
        with contextlib.suppress(GantryError):
            await task.kill(9, everything=True)
            await task.wait()
        with contextlib.suppress(GantryError):
            await task.delete()

    def _sweep(self) -> None:
        """Snapshots and folders of containers that have no record."""
        core = self._core
        for info in list(core.snapshots.walk()):
            ours = info.kind is Kind.ACTIVE and _ID.fullmatch(info.name)
            if ours and core.table.by_id(info.name) is None:
                with contextlib.suppress(GantryError):
                    core.snapshots.remove(info.name)
            owner = _OF_IMAGE.fullmatch(info.name)
            holder = core.table.by_id(owner[1]) if owner else None
            if owner and (holder is None or not holder.state.running):
                with contextlib.suppress(GantryError):
                    core.snapshots.remove(info.name)
        surroundings.sweep_subpaths(core)
        known = {container.id for container in core.table}
        for name in os.listdir(core.settings.containers):
            if _ID.fullmatch(name) and name not in known:
                with contextlib.suppress(OSError):
                    remove_tree(core.folder(name))
        for container in core.table:
            if not container.state.running:
                surroundings.drop_shm(core, container.id)

    async def _remove(self, container: Container) -> None:
        async with container.lock:
            try:
                await self._remover.remove_locked(container, volumes=True)
            except GantryError as error:
                _log.error("removing container %s: %s", container.id[:12], error)


def _same_start(noted: int, told: int) -> int:
    """The noted time of the start, if the shim means the same one."""
    return noted if abs(told - noted) < 10_000_000_000 else told
