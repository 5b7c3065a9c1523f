"""Owners of asyncio tasks: whoever starts one answers for it until it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class TaskOwner:
    """A registry of background tasks with one scope.

    Life cycle::

        owner = TaskOwner("events")
        owner.spawn(coro(), "pump 4f2a")   # strong reference, named, exceptions logged
        await owner.aclose()               # cancels what still runs and awaits it

    An exception that ends a task is logged once with the task's name, unless it was
    spawned with report=False by somebody who awaits it; cancellation is silent.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: set[asyncio.Task[object]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    def spawn(
        self, coro: Coroutine[object, object, T], name: str, *, report: bool = True
    ) -> asyncio.Task[T]:
        """Start `coro` as a task of the running loop. RuntimeError after `aclose`."""
        if self._closed:
            coro.close()
            raise RuntimeError(f"task owner {self.name!r} is closed: cannot start {name!r}")
        task = asyncio.get_running_loop().create_task(coro, name=f"{self.name}: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended if report else self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Wait until nothing runs, without cancelling; what is spawned meanwhile counts too."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def aclose(self) -> None:
        """Cancel all and wait for their ends. Idempotent; a task may close its own owner."""
        self._closed = True
        own = asyncio.current_task()
        while rest := {task for task in self._tasks if task is not own}:
            for task in rest:
                task.cancel()
            await asyncio.wait(rest)

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.error("task %s failed: %s", task.get_name(), error, exc_info=error)
