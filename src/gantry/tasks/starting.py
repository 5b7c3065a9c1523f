"""A start is whole or not at all, whatever becomes of whoever wanted it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Protocol, TypeVar

from gantry.ipc.aio import Disconnected
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import GantryError
from gantry.tasks.stream import SocketStream

_SIGKILL = 9


class Started(Protocol):
    """What has to be undone: a driver's task."""

    async def kill(self, signal: int) -> None: ...

    async def wait(self) -> object: ...

    async def delete(self) -> None: ...


T = TypeVar("T", bound=Started)
Start = Coroutine[object, object, tuple[T, Sequence[SocketStream]]]


async def whole(owner: TaskOwner, start: Start[T], name: str) -> tuple[T, Sequence[SocketStream]]:
    """The result of `start`. A caller that is cancelled does not interrupt it: what it starts is
    undone then. name: the container's, for the owner's list."""
    starting = owner.spawn(start, f"start {name}", report=False)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        if not owner.closed:
            owner.spawn(_undo(starting), f"undo {name}")
        raise


async def _undo(starting: asyncio.Task[tuple[T, Sequence[SocketStream]]]) -> None:
    try:
        task, streams = await starting
    except (GantryError, Disconnected):
        return
    for stream in streams:
        stream.close_now()
    try:
        await task.kill(_SIGKILL)
    except GantryError:
        pass
    await task.wait()
    await task.delete()
