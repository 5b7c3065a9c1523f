"""Sandboxes made ahead: a container's start takes one and waits for nothing.

Filled in the background, one at a time on the namespace worker, so that a caller who
finds the pool empty waits for at most the one being made. What is not used holds no
name and no mount: it ends with the daemon.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from gantry.ipc.owner import TaskOwner

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Pool(Generic[T]):
    """Up to `size` values of `make()`, oldest first; `discard` undoes one."""

    def __init__(
        self,
        size: int,
        make: Callable[[], Awaitable[T]],
        discard: Callable[[T], None],
        owner: TaskOwner,
        name: str,
    ) -> None:
        self._size = size
        self._make = make
        self._discard = discard
        self._owner = owner
        self._name = name
        self._ready: deque[T] = deque()
        self._waiting: deque[asyncio.Future[T]] = deque()
        self._filling: asyncio.Task[None] | None = None
        self._open = True

    def __len__(self) -> int:
        return len(self._ready)

    async def take(self) -> T:
        """The oldest one; when there is none, the next one made, in the order of asking."""
        if self._ready:
            value = self._ready.popleft()
            self.fill()
            return value
        if not self._open:
            raise RuntimeError(f"pool {self._name!r} is closed")
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self.fill()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._keep(waiter.result())
            raise

    def fill(self) -> None:
        """Start filling in the background, unless that is under way."""
        if self._open and (self._filling is None or self._filling.done()):
            self._filling = self._owner.spawn(self._fill(), f"fill {self._name}")

    async def filled(self) -> None:
        """Wait until the pool is full (or cannot be filled)."""
        self.fill()
        if self._filling is not None:
            await self._filling

    async def _fill(self) -> None:
        while self._open and (self._waiting or len(self._ready) < self._size):
            try:
                value = await self._make()
            except Exception as error:
                if not self._waiting:
                    # The next `take` tries again and reports it to somebody.
                    _log.warning("cannot make a network sandbox ahead: %s", error)
                    return
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_exception(error)
                continue
            self._keep(value)

    def _keep(self, value: T) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(value)
                return
        if self._open:
            self._ready.append(value)
        else:
            self._discard(value)

    async def close(self) -> None:
        """What was not taken is discarded; who waits is cancelled."""
        self._open = False
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait({self._filling})
        while self._waiting:
            self._waiting.popleft().cancel()
        while self._ready:
            self._discard(self._ready.popleft())
