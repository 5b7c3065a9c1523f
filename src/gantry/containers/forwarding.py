"""Logs that go elsewhere: a task a container reads its local log and sends what is new.

It starts with the container and ends when all of an ended container's log is delivered; a
server that can't be had is tried again, for as long as the container is there. Where it has
come to is on disk, so nothing is lost over a restart of the daemon. The container never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gantry.containers import logconfig
from gantry.containers.core import Core
from gantry.containers.record import Container
from gantry.logs import drivers
from gantry.logs.follow import Follower, Message
from gantry.logs.sender import Sender
from gantry.model.errors import GantryError

_log = logging.getLogger(__name__)

PAUSE: Final = 0.5
"""Seconds after the first failure; doubled up to `PAUSE_MAX`."""
PAUSE_MAX: Final = 30.0
PATIENCE: Final = 30.0
"""Seconds that a server gets for what a removed container has left."""


@dataclass(eq=False)
class _Forward:
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Forwarding:
    """All forwards of this process."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._forwards: dict[str, _Forward] = {}

    def begin(self, container: Container) -> None:
        """At a start, and for what is found running."""
        if container.record.host_config.log_config.type not in drivers.OPTIONS:
            return
        forward = self._forwards.get(container.id)
        if forward is None:
            forward = self._forwards[container.id] = _Forward()
            self._core.owner.spawn(self._run(container, forward), f"log of {container.id[:12]}")
        forward.ended.clear()

    def end(self, container: Container) -> None:
        """At an end: what is in the log by now is all."""
        forward = self._forwards.get(container.id)
        if forward is not None:
            forward.ended.set()

    def resume(self) -> None:
        """At the daemon's start: what containers that have ended since left unsent."""
        for container in self._core.table:
            if not container.state.running and container.id not in self._forwards:
                self.begin(container)
                self.end(container)

    async def _run(self, container: Container, forward: _Forward) -> None:
        try:
            await self._forward(container, forward)
        except (GantryError, OSError) as error:
            _log.error("log of container %s: %s", container.id[:12], error)
        finally:
            self._forwards.pop(container.id, None)

    async def _forward(self, container: Container, forward: _Forward) -> None:
        config = container.record.host_config.log_config
        path = self._core.log_path(container)
        source = logconfig.source(container, os.uname().nodename)
        follower = Follower(path, f"{path}.sent")
        with contextlib.closing(drivers.sender(config.type, source, config.config)) as sender:
            while True:
                async for batch in follower.read(forward.ended):
                    for at in range(0, len(batch.messages), 500):
                        if not await self._send(container, sender, batch.messages[at : at + 500]):
                            return
                    follower.delivered(batch.place)
                if forward.ended.is_set():
                    return

    async def _send(
        self, container: Container, sender: Sender, messages: Sequence[Message]
    ) -> bool:
        """False when it was given up, the container being gone."""
        pause, began = PAUSE, time.monotonic()
        while True:
            try:
                await sender.send(messages)
            except OSError as error:
                if pause == PAUSE:
                    _log.warning("log of container %s: %s", container.id[:12], error)
                gone = self._core.table.by_id(container.id) is None
                if gone and time.monotonic() > began + PATIENCE:
                    return False
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_MAX)
            else:
                return True
