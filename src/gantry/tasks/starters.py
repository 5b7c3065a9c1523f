"""Starters as the daemon has them: a few, warm, each making one container at a time."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Mapping
from socket import socket
from typing import Final

from gantry.ipc.aio import Requester
from gantry.ipc.frames import Message
from gantry.model.errors import System
from gantry.model.task import TaskSpec
from gantry.tasks.launcher import Launcher

OWN: Final = "gantry"
"""The runtime that is called in the process; others are programs, and a shim's to call."""
PATIENCE: Final = 1.0
"""Seconds that a start waits for a starter before one more is forked: another's mount may hang."""
REST: Final = 30.0
"""Seconds after which a starter without work ends: it owns some 4 MiB."""


class Starters:
    """Forked when needed, as many as there are processors; an idle one stays for a while."""

    def __init__(self, launcher: Launcher, *, wanted: bool = True) -> None:
        self._launcher = launcher
        self._limit = max(2, os.cpu_count() or 1)
        self._idle: list[tuple[Requester, float]] = []
        self._busy = 0
        self._waiting: deque[asyncio.Future[Requester]] = deque()
        self._useless = not wanted
        self._timer: asyncio.TimerHandle | None = None
        self._generation = 0

    def can_start(self, spec: TaskSpec) -> bool:
        """Whether it is worth asking one."""
        other = spec.runtime != OWN or spec.systemd_cgroup or spec.restore
        return not self._useless and not other

    async def refill(self) -> None:
        """Have one ready, where they are of use."""
        if self._launcher.has_starters and not self._useless and not self._idle:
            try:
                self._put_back(await self._fork())
            except System:
                return  # the next start says why

    async def start(
        self, configuration: bytes, netns: int | None, hand: socket, head: Mapping[str, object]
    ) -> Message | None:
        """A start by one: its answer. None: only a child of the shim can do this one.

        hand: the shim's handover socket. Disconnected: the starter died on it.
        """
        starter = await self._take()
        try:
            fds = [os.dup(hand.fileno())]
            if netns is not None:
                fds.append(os.dup(netns))
            reply = await starter.request("start", configuration, fds, **head)
        except BaseException:
            # Cancelled, it may be anywhere: it finishes, and ends.
            self._busy -= 1
            starter.close()
            raise
        self._give_back(starter)
        if not reply.flag("no_sibling"):
            return reply
        self._useless = reply.flag("always")
        return None

    def close(self) -> None:
        """They end, when what they have begun is done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle, self._idle = self._idle, []
        for starter, _ in idle:
            starter.close()

    async def _take(self) -> Requester:
        self._forget_dead()
        if self._idle:
            self._busy += 1
            return self._idle.pop()[0]
        if self._busy >= self._limit:
            waiter: asyncio.Future[Requester] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                return await asyncio.wait_for(waiter, PATIENCE)
            except TimeoutError:
                pass
        self._busy += 1
        try:
            return await self._fork()
        except BaseException:
            self._busy -= 1
            raise

    def _give_back(self, starter: Requester) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                if starter.closed:
                    break  # it asks for another when its patience ends
                waiter.set_result(starter)
                return
        self._busy -= 1
        if self._busy >= self._limit:
            starter.close()  # one that was forked beyond the limit
        else:
            self._put_back(starter)

    def _put_back(self, starter: Requester) -> None:
        loop = asyncio.get_running_loop()
        self._idle.append((starter, loop.time()))
        if self._timer is None:
            self._timer = loop.call_later(REST, self._trim)

    def _trim(self) -> None:
        """End those that have had no work for a while."""
        loop = asyncio.get_running_loop()
        self._timer = None
        kept = []
        for starter, since in self._idle:
            if loop.time() - since >= REST:
                starter.close()
            else:
                kept.append((starter, since))
        self._idle = kept
        if kept:
            self._timer = loop.call_later(REST, self._trim)

    def _forget_dead(self) -> None:
        """Whose launcher has died goes too: nobody reaps what it would start."""
        same = self._generation == self._launcher.generation and self._launcher.alive
        for starter, _ in [] if same else self._idle:
            starter.close()
        self._idle = [pair for pair in self._idle if not pair[0].closed]

    async def _fork(self) -> Requester:
        sock = await self._launcher.fork_starter()
        self._generation = self._launcher.generation
        return Requester(sock, on_event=Message.close, on_close=lambda: None)
