"""Ends: what happens when a container's process is gone, and whether it is started again.

Order at an end: the state is changed and whoever waits for it is told; then, under the
container's lock, the network and the task go, and the restart policy or AutoRemove has its
turn. The state is noted without fsync: what really runs is asked of the shims anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from gantry.containers import sandbox as surroundings
from gantry.containers.core import Core
from gantry.containers.record import Container
from gantry.containers.start import Starter
from gantry.containers.tasks import Task
from gantry.model.errors import GantryError, Unavailable
from gantry.model.task import ExitStatus

_log = logging.getLogger(__name__)

BACKOFF: Final = 0.1
"""Seconds before the first restart; doubled each time (moby restartmanager)."""
BACKOFF_MAX: Final = 60.0
STEADY: Final = 10.0
"""A run of this many seconds starts the doubling anew."""


class Remove(Protocol):
    """What removes a container whose lock is held. deleted: its record's deletion, under way."""

    def __call__(
        self, container: Container, deleted: Awaitable[None] | None = None
    ) -> Awaitable[None]: ...


class Exits:
    """Watches every task to its end."""

    def __init__(self, core: Core, starter: Starter, remove: Remove) -> None:
        self._core = core
        self._starter = starter
        self._remove = remove
        self.on_end: Callable[[Container], None] = lambda container: None

    def watch(self, container: Container, task: Task) -> None:
        """Called at every start (and for what is found running)."""
        container.live.exited = asyncio.get_running_loop().create_future()
        task.on_oom = lambda: self._out_of_memory(container)
        self._core.owner.spawn(self._watch(container, task), f"end of {container.id[:12]}")

    def _out_of_memory(self, container: Container) -> None:
        container.change(oom_killed=True)
        self._core.event(container, "oom")

    def failed(self, container: Container) -> None:
        """A start failed: what is to be removed at its end has come to it."""
        if container.record.host_config.auto_remove:
            self._core.owner.spawn(self._remove_failed(container), f"remove {container.id[:12]}")

    async def _remove_failed(self, container: Container) -> None:
        async with container.lock:
            if not container.state.running:
                await self._remove(container)

    async def _watch(self, container: Container, task: Task) -> None:
        try:
            status = await task.wait()
        except Unavailable:
            return  # the daemon lets go of its tasks: the next one will hear of the end
        await self.ended(container, task, status)

    async def lost(self, container: Container, status: ExitStatus) -> None:
        """Work up the end of a run that nobody saw."""
        await self.ended(container, None, status)

    async def ended(self, container: Container, task: Task | None, status: ExitStatus) -> None:
        """Work up the end of one run."""
        core, live = self._core, container.live
        exited = live.exited
        finished = int(status.at * 1e9)
        oom_unheard = status.oom_killed and not container.state.oom_killed
        ran = max(0.0, (finished - container.state.started_at) / 1e9)
        by_user = live.manual_stop
        again = not core.closing and self._wanted(container, status.code, by_user)
        container.change(
            running=again,
            restarting=again,
            paused=False,
            pid=0,
            exit_code=status.code,
            oom_killed=status.oom_killed or container.state.oom_killed,
            finished_at=finished,
            stopped_by_user=by_user,
            network=None,
            ended_at_shutdown=core.closing,
            restart_count=container.state.restart_count + again,
        )
        live.task = live.sandbox = None
        live.manual_stop = False
        self.on_end(container)
        container.resolve(live.next_exit)
        container.resolve(live.not_running)  # moby: a pause before a restart answers them too
        if oom_unheard:
            core.event(container, "oom")
        lasted = {"execDuration": str(int(ran)), "exitCode": str(status.code)}
        core.event(container, "die", lasted)
        # Whoever starts, stops or removes it next waits for this lock.
        async with container.lock:
            goes = not again and self._goes(container)
            deleted = None
            if goes:
                container.change(removing=True)
                deletion = core.store.delete(container.id)
                deleted = core.owner.spawn(deletion, f"delete {container.id}", report=False)
            end = self._forget(container, task, noted=not goes)
            forgotten = core.owner.spawn(end, f"forget {container.id}")
            await asyncio.sleep(0)  # what the disk and the shim do meanwhile has begun
            await surroundings.dissolve(core, container)
            await forgotten
            if exited is not None and not exited.done():
                exited.set_result(None)
            if again:
                self._restart_later(container, ran)
            elif goes:
                await self._remove(container, deleted)

    def _goes(self, container: Container) -> bool:
        """Whether its end is its removal: nobody else is at it, nobody starts it again."""
        return (
            container.record.host_config.auto_remove
            and not container.live.restarting_by_user
            and not container.state.removing
            and self._core.table.by_id(container.id) is not None
        )

    async def _forget(self, container: Container, task: Task | None, *, noted: bool) -> None:
        """First we know it, then the shim may forget it. (Not of a container that goes: a task
        without a record is a stray, and a record without a task is of one that goes.)"""
        if task is not None:
            with contextlib.suppress(GantryError, OSError):
                if noted:
                    await self._core.noted(container)
                await task.delete()

    def _wanted(self, container: Container, code: int, by_user: bool) -> bool:
        """Whether the restart policy starts it again (moby restartmanager ShouldRestart)."""
        if by_user or container.live.no_restart or container.state.removing:
            return False
        return should_restart(container, code, by_user)

    def _restart_later(self, container: Container, ran: float) -> None:
        live = container.live
        live.backoff = BACKOFF if ran >= STEADY or not live.backoff else live.backoff * 2
        live.backoff = min(live.backoff, BACKOFF_MAX)
        live.restart_pause = self._core.owner.spawn(
            self._restart(container, live.backoff), f"restart {container.id[:12]}"
        )

    async def _restart(self, container: Container, pause: float) -> None:
        await asyncio.sleep(pause)
        await self._core.ready.wait()
        async with container.lock:
            if not container.state.restarting:
                return
            container.live.restart_pause = None
            try:
                await self._starter.start_locked(container)
            except GantryError as error:
                _log.error("restarting container %s: %s", container.id[:12], error)

    def stop_restarting(self, container: Container) -> None:
        """Interrupt a restart policy's pause: it is ended for good. The lock is held."""
        live = container.live
        if live.restart_pause is not None:
            live.restart_pause.cancel()
            live.restart_pause = None
        if container.state.restarting:
            container.change(running=False, restarting=False, stopped_by_user=True)
            container.resolve(live.not_running)
            self._core.note(container)


def should_restart(container: Container, code: int, by_user: bool) -> bool:
    """What the policy says of a container that has ended with `code`."""
    policy = container.record.host_config.restart_policy
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not by_user
    if policy.name == "on-failure":
        limit = policy.maximum_retry_count
        return code != 0 and (limit == 0 or container.state.restart_count < limit)
    return False
