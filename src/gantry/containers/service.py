"""The containers' services put together, as the routes and the daemon call them.

Each verb is a service's own method (see the modules); nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET

from gantry.containers.archives import Archives
from gantry.containers.checkpoints import Checkpoints
from gantry.containers.commits import Commits
from gantry.containers.core import Core
from gantry.containers.create import Creator
from gantry.containers.execs import Execs
from gantry.containers.exits import Exits
from gantry.containers.forwarding import Forwarding
from gantry.containers.health import Health
from gantry.containers.identity import Identities
from gantry.containers.listfilter import Filters
from gantry.containers.prune import Pruner
from gantry.containers.record import Container
from gantry.containers.recovery import Recovery
from gantry.containers.remove import Remover
from gantry.containers.show import Views
from gantry.containers.start import Starter
from gantry.containers.stats import Statistics
from gantry.containers.stop import Stopper
from gantry.containers.streams import Streams
from gantry.containers.tasks import Task
from gantry.containers.top import Top
from gantry.containers.update import Updater
from gantry.containers.wait import Waits

Json = dict[str, Any]


class Containers:
    """`gantry.api.backend.ContainersBackend`."""

    def __init__(self, core: Core) -> None:
        self.core = core
        identities = Identities(core)
        remover = Remover(core)
        archives = Archives(core, identities)
        starter = Starter(core, identities)
        exits = Exits(core, starter, remover.auto_remove)
        stopper = Stopper(core, starter, exits)
        remover.stopper = stopper
        streams, views = Streams(core), Views(core)
        self.execs = Execs(core, identities)
        self.checkpoints = Checkpoints(core)
        self.views = views
        self._health = Health(core, self.execs)
        self._stopper = stopper
        self._exits = exits
        self.recovery = Recovery(core, starter, exits, remover)
        self._forwarding = Forwarding(core)
        self.recovery.on_found = self._found
        self.recovery.on_all = self._forwarding.resume
        starter.on_start = self._started
        starter.on_failure = exits.failed
        exits.on_end = self._ended

        self.create = Creator(core, archives.populate, archives.make_folder).create
        self.start = starter.start
        self.stop = stopper.stop
        self.restart = stopper.restart
        self.kill = stopper.kill
        self.pause = stopper.pause
        self.unpause = stopper.unpause
        self.rename = remover.rename
        self.remove = remover.remove
        self.update = Updater(core).update
        self.resize = streams.resize
        self.inspect = views.inspect
        self.list = views.rows
        self.measure = views.measure
        self.top = Top(core).top
        self.wait = Waits(core).wait
        self.logs = streams.logs
        self.attach = streams.attach
        self.stats = Statistics(core).stats
        self.changes = archives.changes
        self.export = archives.export
        self.archive_stat = archives.stat
        self.archive_get = archives.get
        self.archive_put = archives.put
        self.prune = Pruner(core, remover, views).prune
        self.commits = Commits(core, stopper)
        self.commit = self.commits.commit

    def tty(self, name: str) -> bool:
        return self.core.table.get(name).tty

    def containers_using(self, image_id: str) -> Sequence[tuple[str, bool]]:
        """(id, whether it runs) of the containers made from an image."""
        return [
            (container.id, container.state.running)
            for container in self.core.table
            if container.record.image == image_id
        ]

    def counts(self) -> Mapping[str, int]:
        """{"running", "paused", "stopped"} for info."""
        found = {"running": 0, "paused": 0, "stopped": 0}
        for container in self.core.table:
            if container.state.paused:
                found["paused"] += 1
            elif container.state.running:
                found["running"] += 1
            else:
                found["stopped"] += 1
        return found

    def filtered(self, filters: Filters) -> Sequence[bytes]:
        """All containers' rows that match."""
        return self.list(everything=True, limit=0, size=False, filters=filters)

    async def shutdown(self) -> None:
        """Stop what runs (unless live-restore), then let go of everything."""
        core = self.core
        core.closing = True
        if not core.settings.live_restore:
            running = [c for c in core.table if c.state.running]
            patience = core.settings.shutdown_timeout
            limit = None if patience < 0 else float(patience)
            stops = [self._stop(container, limit) for container in running]
            await asyncio.gather(*stops)
        await core.owner.aclose()

    async def _stop(self, container: Container, limit: float | None) -> None:
        own = container.record.config.stop_timeout
        default = self.core.settings.default_stop_timeout
        patience = float(default if own is UNSET or own is None else own)
        if limit is not None:
            patience = min(patience, limit) if patience >= 0 else limit
        await self._stopper.stop_for_shutdown(container, patience)

    def _started(self, container: Container, task: Task) -> None:
        self._exits.watch(container, task)
        self._found(container)

    def _found(self, container: Container) -> None:
        self._health.restart(container)
        self._forwarding.begin(container)

    def _ended(self, container: Container) -> None:
        self._health.stop(container)
        self.execs.forget(container)
        self._forwarding.end(container)
