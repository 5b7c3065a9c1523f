"""Prune: remove all containers that do not run."""

from __future__ import annotations

from typing import Any

from gantry.containers.clock import parse_moment
from gantry.containers.core import Core
from gantry.containers.listfilter import Filters, labelled
from gantry.containers.remove import Remover
from gantry.containers.show import Views
from gantry.model.errors import Conflict, GantryError, InvalidParameter

Json = dict[str, Any]


class Pruner:
    """POST /containers/prune."""

    def __init__(self, core: Core, remover: Remover, views: Views) -> None:
        self._core = core
        self._remover = remover
        self._views = views
        self._running = False

    async def prune(self, filters: Filters) -> Json:
        """{"ContainersDeleted": ids, "SpaceReclaimed": bytes}; filters label, label!, until."""
        if self._running:
            raise Conflict("a prune operation is already running")
        for key in filters:
            if key not in ("label", "label!", "until"):
                raise InvalidParameter(f"invalid filter '{key}'")
        until = filters.get("until", ())
        if len(until) > 1:
            raise InvalidParameter("more than one until filter specified")
        before = parse_moment(until[0]) if until else None
        self._running = True
        deleted, reclaimed = [], 0
        try:
            for container in self._core.table:
                labels = container.record.config.labels
                if container.state.running or container.state.removing:
                    continue
                if before is not None and container.record.created > before:
                    continue
                if not labelled(labels, filters.get("label", ())):
                    continue
                if any(labelled(labels, (text,)) for text in filters.get("label!", ())):
                    continue
                await self._views.measure(container.id)
                size, _ = self._views.sizes(container)
                try:
                    await self._remover.remove(container.id, force=False, volumes=False, link=False)
                except GantryError:
                    continue  # somebody was faster: it runs, or is gone
                deleted.append(container.id)
                reclaimed += size
        finally:
            self._running = False
        self._core.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed}
