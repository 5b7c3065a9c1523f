"""What all services of this package share: their neighbours, and the table of containers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from gantry.containers.ports import Events, Images, Networks, Store, Volumes
from gantry.containers.record import Container
from gantry.containers.settings import Settings
from gantry.containers.table import Table
from gantry.containers.tasks import Tasks
from gantry.ipc.owner import TaskOwner
from gantry.model.snapshot import Snapshotter

_encode = msgspec.json.Encoder().encode


@dataclass(eq=False)
class Core:
    """Neighbours, wired by `daemon`, and the containers. No verbs: those are the services'.

    closing: the daemon is going down; ends of containers are then nobody's wish.
    ready: not set while the daemon finds its containers again: no restarts until then.
    """

    settings: Settings
    store: Store
    tasks: Tasks
    networks: Networks
    images: Images
    snapshots: Snapshotter
    volumes: Volumes
    events: Events
    table: Table = field(default_factory=Table)
    owner: TaskOwner = field(default_factory=lambda: TaskOwner("containers"))
    closing: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ready.set()

    def folder(self, container_id: str) -> str:
        """A container's own files: hosts, hostname, resolv.conf, its log."""
        return os.path.join(self.settings.containers, container_id)

    def log_path(self, container: Container) -> str:
        """The current log file, "" for drivers without one."""
        driver = container.record.host_config.log_config.type
        if driver == "none":
            return ""
        if driver == "local":
            return os.path.join(self.folder(container.id), "local-logs", "container.log")
        return os.path.join(self.folder(container.id), f"{container.id}-json.log")

    def note(self, container: Container) -> None:
        """Remember the state, soon."""
        self.store.note(container.id, _encode(container.state))

    async def noted(self, container: Container) -> None:
        """Remember the state: at return the next daemon knows it, however this one ends."""
        await self.store.noted(container.id, _encode(container.state))

    def event(
        self, container: Container, action: str, extra: Mapping[str, str] | None = None
    ) -> None:
        """An event of a container: its labels, image and name ride along."""
        config = container.record.config
        attributes = {**config.labels, "image": config.image, "name": container.name}
        if extra:
            attributes.update(extra)
        self.events.publish("container", action, container.id, attributes)


def encode_record(value: msgspec.Struct) -> bytes:
    """A record or a state as it is stored."""
    return _encode(value)
