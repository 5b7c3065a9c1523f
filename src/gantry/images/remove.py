"""Untagging, deleting and pruning images (moby `daemon/images/image_delete.go`).

Removing by a name removes that name, and the image when it was the last one and nothing is
in the way; removing by an id removes the image with all its names, when they are of one
repository. What is in the way is a *hard* conflict (children, running containers) or a soft
one that force overrides (other names, stopped containers).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from gantry.images.bridge import off_loop
from gantry.images.filters import Filters, flag, match_labels, until, validate
from gantry.images.messages import short
from gantry.images.ports import ImageUsers
from gantry.images.registrar import Registrar
from gantry.model.errors import Conflict, InvalidParameter, NotFound
from gantry.model.image import Image
from gantry.model.image_record import Change
from gantry.oci.image_reference import Reference, parse

Row = dict[str, str]

_PRUNE: Final = frozenset({"dangling", "label", "label!", "until"})


class _InTheWay(Conflict):
    """Why an image cannot be deleted. used: a container is why."""

    def __init__(self, image_id: str, why: str, *, hard: bool = False, used: bool = False) -> None:
        how = "cannot be forced" if hard else "must be forced"
        super().__init__(f"conflict: unable to delete {short(image_id)} ({how}) - {why}")
        self.used = used


class Remover:
    """See the module."""

    def __init__(self, registrar: Registrar, users: ImageUsers) -> None:
        self._registrar = registrar
        self._catalog = registrar.catalog
        self._users = users
        self._lock = asyncio.Lock()
        self._pruning = False

    async def remove(self, name: str, *, force: bool, noprune: bool) -> list[Row]:
        """What was untagged and deleted, in order. NotFound, Conflict."""
        async with self._lock:
            return await self._remove(name, force, not noprune)

    async def prune(self, filters: Filters) -> dict[str, Any]:
        """{"ImagesDeleted": rows or None, "SpaceReclaimed": bytes}."""
        validate(filters, _PRUNE)
        dangling_only = flag(filters, "dangling", True)
        untils = filters.get("until") or ()
        if len(untils) > 1:
            raise InvalidParameter("more than one until filter specified")
        before = until(untils[0]) if untils else None
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            rows, freed = await self._prune(dangling_only, before, filters)
        finally:
            self._pruning = False
        self._registrar.emit_prune({"reclaimed": str(freed)})
        return {"ImagesDeleted": rows or None, "SpaceReclaimed": freed}

    # ---- inside

    async def _prune(
        self, dangling_only: bool, before: int | None, filters: Filters
    ) -> tuple[list[Row], int]:
        rows: list[Row] = []
        sizes = {
            chain: size
            for image in self._catalog.images.values()
            for chain, size in zip(image.chain_ids, image.layer_sizes, strict=True)
        }
        for image in list(self._catalog.images.values()):
            names = self._catalog.names_of(image.id)
            if self._catalog.children(image.id) and (dangling_only or not names):
                continue
            if before is not None and (image.created_ns is None or image.created_ns > before):
                continue
            if not match_labels(filters.get("label") or (), image.labels):
                continue
            without = filters.get("label!") or ()
            if without and match_labels(without, image.labels):
                continue
            if dangling_only and any(not name.digest for name in names):
                continue
            for what in [str(name) for name in names] or [image.id]:
                with contextlib.suppress(Conflict, NotFound):
                    rows.extend(await self.remove(what, force=False, noprune=False))
        freed = sum(sizes.get(row.get("Deleted", ""), 0) for row in rows)
        return rows, freed

    async def _remove(self, name: str, force: bool, prune: bool) -> list[Row]:
        image = self._catalog.resolve(name)
        names = self._catalog.names_of(image.id)
        rows: list[Row] = []
        by_name = not _is_id(image.id, name)
        if by_name:
            if not force and _single(names):
                for container, _ in self._users.containers_using(image.id):
                    raise Conflict(
                        f'conflict: unable to remove repository reference "{name}" (must force)'
                        f" - container {short(container)} is using its referenced image"
                        f" {short(image.id)}"
                    )
            given = parse(name).with_default_tag()
            if given.digest:
                given = given.with_digest(given.digest)
            gone = [given]
            left = [one for one in names if str(one) != str(given)]
            if not given.digest and not any(
                not one.digest and one.name == given.name for one in left
            ):
                # The last tag of a repository takes its digests along.
                gone += [one for one in left if one.digest and one.name == given.name]
                left = [one for one in left if one not in gone]
            await self._untag(image, gone, rows, events=1)
            if left:
                return rows
        elif _single(names):
            self._check(image, force=force, names_too=False)
            await self._untag(image, names, rows, events=len(names))
        await self._delete(image, rows, force=force, prune=prune, quiet=by_name)
        return rows

    async def _untag(
        self, image: Image, names: Sequence[Reference], rows: list[Row], events: int
    ) -> None:
        """Drop names in one transaction. events: for how many of them one is sent."""
        if not names:
            return
        await self._registrar.store.apply(Change(drop_references=[str(name) for name in names]))
        for position, name in enumerate(names):
            self._catalog.unpoint(str(name))
            if position < events:
                self._registrar.event(image.id, image.id, "untag")
            rows.append({"Untagged": name.familiar})

    async def _delete(
        self, image: Image, rows: list[Row], *, force: bool, prune: bool, quiet: bool
    ) -> None:
        try:
            self._check(image, force=force, names_too=True)
        except _InTheWay as conflict:
            dangling = not self._catalog.names_of(image.id) and not self._catalog.children(image.id)
            if quiet and (not dangling or conflict.used):
                return
            raise
        names = self._catalog.names_of(image.id)
        record = self._catalog.records[image.id]
        await self._registrar.store.apply(
            Change(drop_images=(image.id,), drop_references=[str(name) for name in names])
        )
        for name in names:
            self._catalog.unpoint(str(name))
            self._registrar.event(image.id, image.id, "untag")
            rows.append({"Untagged": name.familiar})
        self._registrar.event(image.id, image.id, "delete")
        self._catalog.drop(image.id)
        rows.append({"Deleted": image.id})
        rows.extend({"Deleted": chain} for chain in self._registrar.drop_layers(image.chain_ids))
        content = self._registrar.content
        blobs = dict.fromkeys((record.id, record.manifest, *record.blobs))
        # Aside at once, while nobody can have come to need them; large ones take time to delete.
        aside = content.set_aside(d for d in blobs if d and not self._catalog.uses_blob(d))
        await off_loop(content.drop, aside)
        parent = self._catalog.images.get(image.parent) if image.parent else None
        if prune and parent is not None:
            await self._delete(parent, rows, force=False, prune=True, quiet=True)

    def _check(self, image: Image, *, force: bool, names_too: bool) -> None:
        if self._catalog.children(image.id):
            raise _InTheWay(image.id, "image has dependent child images", hard=True)
        users = self._users.containers_using(image.id)
        for container, running in users:
            if running:
                why = f"image is being used by running container {short(container)}"
                raise _InTheWay(image.id, why, hard=True, used=True)
        if force:
            return
        if names_too and self._catalog.names_of(image.id):
            raise _InTheWay(image.id, "image is referenced in multiple repositories")
        for container, _ in users:
            why = f"image is being used by stopped container {short(container)}"
            raise _InTheWay(image.id, why, used=True)


def _is_id(image_id: str, name: str) -> bool:
    return image_id.startswith(name) or image_id.partition(":")[2].startswith(name)


def _single(names: Sequence[Reference]) -> bool:
    """Whether all names are of one repository, with one tag at most."""
    if len(names) <= 1:
        return len(names) == 1
    tags = [name for name in names if not name.digest]
    if len(tags) > 1:
        return False
    repositories = {name.name for name in names if name.digest}
    return repositories == {(tags or list(names))[0].name}
