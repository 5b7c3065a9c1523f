"""Remove, rename and prune."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable

from msgspec.structs import replace

from gantry.archive.removal import remove_tree
from gantry.containers import links, names
from gantry.containers import sandbox as surroundings
from gantry.containers.core import Core, encode_record
from gantry.containers.record import Container
from gantry.containers.stop import Stopper
from gantry.model.errors import Conflict, GantryError, InvalidParameter, NotFound, System

_log = logging.getLogger(__name__)


class Remover:
    """What takes containers (or their names) away."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.stopper: Stopper | None = None

    async def remove(self, name: str, *, force: bool, volumes: bool, link: bool) -> None:
        """volumes: anonymous ones too. link: the name is a link's, and only that goes."""
        if link:
            await links.remove(self._core, name)
            return
        container = self._core.table.get(name)
        if container.state.removing:
            raise Conflict(f"removal of container {name} is already in progress")
        if container.state.running:
            if not force:
                self._refuse(container)
            assert self.stopper is not None
            container.live.no_restart = True
            # AutoRemove must not race us for it; `volumes` may differ.
            container.change(removing=True)
            try:
                await self.stopper.kill_now(container)
            except GantryError as error:
                container.change(removing=False)
                raise System(
                    f'cannot remove container "{container.name}": could not kill container: {error}'
                ) from error
        container.change(removing=True)
        async with container.lock:
            if self._core.table.by_id(container.id) is None:
                raise NotFound(f"No such container: {name}")
            await self.remove_locked(container, volumes=volumes)

    def _refuse(self, container: Container) -> None:
        if container.state.paused:
            why = "container is paused and must be unpaused first"
        else:
            status = container.state.status
            why = f"container is {status}: stop the container before removing or force remove"
        raise Conflict(f'cannot remove container "{container.name}": {why}')

    async def auto_remove(
        self, container: Container, deleted: Awaitable[None] | None = None
    ) -> None:
        """At the end of one with AutoRemove; the lock is held. deleted: see `remove_locked`."""
        if deleted is None:
            if container.state.removing or self._core.table.by_id(container.id) is None:
                return
            container.change(removing=True)
        await self.remove_locked(container, volumes=True, deleted=deleted)

    async def remove_locked(
        self, container: Container, *, volumes: bool, deleted: Awaitable[None] | None = None
    ) -> None:
        """The record first, in one transaction: what a crash leaves is swept at the start.

        deleted: the record's deletion, where it is under way.
        """
        core, record = self._core, container.record
        try:
            await (deleted or core.store.delete(container.id))
        except BaseException:
            container.change(removing=False)
            raise
        core.table.discard(container)
        try:
            core.snapshots.remove(container.id)
        except NotFound:
            pass
        except GantryError as error:
            _log.error("removing the file system of %s: %s", container.id[:12], error)
        core.images.released()
        # Not waited for: a long log takes its time, and its record is gone for good.
        core.owner.spawn(_sweep(core.folder(container.id)), f"sweep {container.id[:12]}")
        if record.host_config.ipc_mode == "shareable":
            surroundings.drop_shm(core, container.id)
        await self._release_volumes(container, volumes)
        for each in container.live.attaching:
            if not each.future.done():
                each.future.set_result(None)
        container.resolve(container.live.next_exit)
        container.resolve(container.live.not_running)
        core.event(container, "destroy")
        container.resolve(container.live.removed)

    async def _release_volumes(self, container: Container, anonymous: bool) -> None:
        core = self._core
        held = [m for m in container.record.mounts if m.kind == "volume"]
        core.volumes.drop([m.name for m in held], container.id)
        if not anonymous:
            return
        for mount in held:
            if mount.anonymous:
                with contextlib.suppress(GantryError):
                    await core.volumes.remove(mount.name, force=True)

    async def rename(self, name: str, new_name: str) -> None:
        """Docker's words for empty, same and taken names."""
        core = self._core
        if not name or not new_name:
            raise InvalidParameter("Neither old nor new names may be empty")
        container = core.table.get(name)
        async with container.lock:
            old = container.name
            if new_name.removeprefix("/") == old:
                raise InvalidParameter(
                    "Renaming a container with the same name as its current name"
                )
            try:
                plain = names.check("/" + new_name.removeprefix("/"))
                core.table.reserve(plain, container.id)
            except Conflict as error:
                raise Conflict(f"Error when allocating new name: {error}") from None
            except InvalidParameter as error:
                raise InvalidParameter(f"Error when allocating new name: {error}") from None
            record = replace(container.record, name=plain)
            try:
                await core.store.replace(container.id, plain, encode_record(record))
            except BaseException:
                core.table.release(plain, container.id)
                raise
            container.record = record
            core.table.release(old, container.id)
            core.table.add(container)
            await core.networks.rename(container.id, plain)
        await links.renamed(core, old, plain)
        core.event(container, "rename", {"oldName": f"/{old}"})


async def _sweep(folder: str) -> None:
    with contextlib.suppress(OSError):
        await asyncio.to_thread(remove_tree, folder)
