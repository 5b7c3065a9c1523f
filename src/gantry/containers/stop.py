"""Stop, kill, restart, pause and unpause."""

from __future__ import annotations

import asyncio
import contextlib
import signal as signals
from typing import Final

from msgspec import UNSET

from gantry.containers.core import Core
from gantry.containers.exits import Exits
from gantry.containers.record import Container
from gantry.containers.signals import parse_signal
from gantry.containers.start import Starter
from gantry.containers.tasks import Task
from gantry.model.errors import Conflict, GantryError, NotFound, NotModified, System

"""Seconds between the stop signal and SIGKILL."""
_KILL_PATIENCE: Final = 10.0


class Stopper:
    """Everything that ends or halts a running container."""

    def __init__(self, core: Core, starter: Starter, exits: Exits) -> None:
        self._core = core
        self._starter = starter
        self._exits = exits

    async def stop(self, name: str, *, signal: str | None, timeout: int | None) -> None:  # noqa: ASYNC109  # Docker's name for it
        """NotModified when it does not run."""
        container = self._core.table.get(name)
        if not container.state.running:
            raise NotModified("container is already stopped")
        await self._stop(container, signal, timeout)
        self._core.event(container, "stop")

    async def restart(self, name: str, *, signal: str | None, timeout: int | None) -> None:  # noqa: ASYNC109  # Docker's name for it
        """Stop if it runs, then start. AutoRemove does not remove it in between."""
        container = self._core.table.get(name)
        live = container.live
        try:
            if container.state.running:
                live.restarting_by_user = True
                await self._stop(container, signal, timeout)
                self._core.event(container, "stop")
        finally:
            live.restarting_by_user = False
        try:
            async with container.lock:
                if container.state.removing or container.state.dead:
                    raise Conflict("container is marked for removal and cannot be started")
                if not container.state.running:
                    container.change(restart_count=0, stopped_by_user=False)
                    await self._starter.start_locked(container)
        except GantryError as error:
            if isinstance(error, (Conflict, NotFound)):
                raise
            raise System(f"Cannot restart container {name}: {error}") from error
        self._core.event(container, "restart")

    async def kill(self, name: str, signal: str) -> None:
        """Conflict when it does not run."""
        number = parse_signal(signal) if signal else int(signals.SIGKILL)
        container = self._core.table.get(name)
        task = container.live.task
        if task is None or not container.state.running:
            if container.state.restarting:
                async with container.lock:
                    self._exits.stop_restarting(container)
                return
            raise Conflict(
                f"cannot kill container: {name}: container {container.id} is not running"
            )
        if number in (signals.SIGKILL, stop_signal(container)):
            container.live.manual_stop = True
        await self._signal(container, number)
        if number == signals.SIGKILL:
            await self._gone(container, _KILL_PATIENCE)

    async def stop_for_shutdown(self, container: Container, patience: float) -> None:
        """As stop, but not the user's wish: restart policies hold at the next start."""
        if container.state.running:
            with contextlib.suppress(GantryError):
                await self._end(container, stop_signal(container), patience)

    async def kill_now(self, container: Container) -> None:
        """For `rm -f`: SIGKILL and wait for the end."""
        container.live.manual_stop = True
        async with container.lock:
            self._exits.stop_restarting(container)
        if container.live.task is not None:
            await self._signal(container, int(signals.SIGKILL))
        await self._gone(container, _KILL_PATIENCE)

    async def pause(self, name: str) -> None:
        container = self._core.table.get(name)
        async with container.lock:
            task = self._running(container)
            if container.state.paused:
                raise Conflict(f"container {container.id} is already paused")
            try:
                await task.pause()
            except GantryError as error:
                raise System(f"cannot pause container {container.id}: {error}") from error
            container.change(paused=True)
            self._core.note(container)
        self._core.event(container, "pause")

    async def unpause(self, name: str) -> None:
        container = self._core.table.get(name)
        async with container.lock:
            if not container.state.paused or container.live.task is None:
                raise Conflict(f"Container {container.id} is not paused")
            await self._thaw(container)
        self._core.event(container, "unpause")

    async def _thaw(self, container: Container) -> None:
        task = container.live.task
        if task is None:
            return
        try:
            await task.resume()
        except GantryError as error:
            raise System(f"Cannot unpause container {container.id}: {error}") from error
        container.change(paused=False)
        self._core.note(container)

    def _running(self, container: Container) -> Task:
        task = container.live.task
        if task is None or not container.state.running:
            raise Conflict(f"container {container.id} is not running")
        if container.state.restarting:
            raise Conflict(
                f"Container {container.id} is restarting, wait until the container is running"
            )
        return task

    async def _stop(self, container: Container, signal: str | None, timeout: int | None) -> None:  # noqa: ASYNC109
        number = parse_signal(signal) if signal else stop_signal(container)
        if timeout is None:
            own = container.record.config.stop_timeout
            default = self._core.settings.default_stop_timeout
            timeout = default if own is UNSET or own is None else own
        if container.state.restarting:
            async with container.lock:
                if container.state.restarting:
                    self._exits.stop_restarting(container)
                    return
        container.live.manual_stop = True
        await self._end(container, number, None if timeout < 0 else timeout)

    async def _end(self, container: Container, number: int, patience: float | None) -> None:
        """The signal, patience, SIGKILL; returns when the end is worked up."""
        if container.live.task is None:
            await self._gone(container, None)
            return
        await self._signal(container, number)
        if await self._gone(container, patience):
            return
        await self._signal(container, int(signals.SIGKILL))
        if not await self._gone(container, _KILL_PATIENCE):
            raise System(
                f"cannot stop container: {container.id}: tried to kill container, but did not"
                " receive an exit event"
            )

    async def _signal(self, container: Container, number: int) -> None:
        task = container.live.task
        if task is None:
            return
        try:
            await task.kill(number)
        except NotFound:
            return
        self._core.event(container, "kill", {"signal": str(number)})
        if container.state.paused and number == signals.SIGKILL:
            with contextlib.suppress(GantryError):
                await self._thaw(container)

    async def _gone(self, container: Container, patience: float | None) -> bool:
        """Whether the present run has ended and been worked up within `patience` seconds."""
        exited = container.live.exited
        if exited is None or exited.done():
            return True
        done, _ = await asyncio.wait([exited], timeout=patience)
        return bool(done)


def stop_signal(container: Container) -> int:
    """The signal that asks this container to end."""
    name = container.record.config.stop_signal
    return parse_signal(name) if name is not UNSET and name else int(signals.SIGTERM)
