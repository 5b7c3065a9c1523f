"""From layer blobs to committed snapshots.

Where the driver allows it, a layer is unpacked by itself, before or while its parents are
(`Layers.begin`), and put on top of them once all is known (`Layers.assemble`); else one
after the other. Until it is committed a layer has a key of its own (`unpack-…`), which a
start-up after a crash deletes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gantry.archive.errors import ArchiveError, NeedsParents
from gantry.archive.implicit import adopt
from gantry.archive.unpack import Unpacked
from gantry.content.store import ContentStore
from gantry.images.bridge import off_loop
from gantry.images.workers import Job, Workers
from gantry.model.errors import Conflict, InvalidParameter, NotFound, System
from gantry.model.snapshot import Flavour, LayerFolder, Snapshotter
from gantry.oci.image_digest import chain_ids
from gantry.snapshots.private import mounted

PREFIX: Final = "unpack-"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Pending:
    """A layer being unpacked under its own key."""

    key: str
    job: Job


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """One layer to have: what its content must be, and where that comes from.

    pending: an unpacking of the same blob that was begun already.
    """

    diff_id: str
    blob: str
    pending: Pending | None = None


class Layers:
    """See the module. sizes: bytes of file data by chain id, as far as known."""

    def __init__(self, content: ContentStore, snapshots: Snapshotter, workers: Workers) -> None:
        self._content = content
        self.snapshots = snapshots
        self._workers = workers
        self.sizes: dict[str, int] = {}
        self._making: dict[str, asyncio.Lock] = {}

    def begin(self, data: int, *, size: int | None) -> Pending | None:
        """Start to unpack the file `data`, which may still grow and is hashed by who writes it,
        without its parents.

        None where the driver needs the parents first. For the loop's thread.
        """
        if not self.snapshots.detached_layers:
            return None
        return self._begin(data, None, size=size, hashed=True)

    async def drop(self, pending: Pending) -> None:
        """Give up an unpacking, if it was not committed; when this returns it is gone."""
        if not self.snapshots.exists(pending.key):
            return
        pending.job.abort()
        await asyncio.wait([pending.job.task])
        self._remove(pending.key)

    async def assemble(
        self, layers: Sequence[LayerBlob], done: Callable[[int], None] | None = None
    ) -> tuple[int, ...]:
        """Make every layer a committed snapshot named by its chain id; their sizes.

        Layers that are there already are left alone. done: told each layer's position when it
        is there. Whoever began an unpacking drops it if it was of no use. InvalidParameter when
        a layer is damaged or is not what its diff id says; then none of what this call began
        stays, but complete layers below may.
        """
        chain = chain_ids(tuple(layer.diff_id for layer in layers))
        parent: str | None = None
        try:
            for layer, chain_id in zip(layers, chain, strict=True):
                lock = self._making.setdefault(chain_id, asyncio.Lock())
                async with lock:
                    if not self.snapshots.exists(chain_id):
                        await self._make(layer, chain_id, parent)
                parent = chain_id
                if done is not None:
                    done(chain.index(chain_id))
        finally:
            for chain_id in chain:
                waiting = self._making.get(chain_id)
                if waiting is not None and not waiting.locked():
                    del self._making[chain_id]
        return tuple([await self.size(chain_id) for chain_id in chain])

    async def size(self, chain_id: str) -> int:
        """Bytes of file data of one committed layer."""
        known = self.sizes.get(chain_id)
        if known is None:
            usage = await off_loop(self.snapshots.usage, chain_id)
            known = self.sizes[chain_id] = usage.bytes
        return known

    def plain_digest(self, blob: str) -> str:
        """The diff id of an uncompressed blob that is in the content store. Blocks."""
        if blob.startswith("sha256:"):
            return blob
        with open(self._content.open(blob), "rb", buffering=0) as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()

    # ---- inside

    def _begin(
        self, data: int, parent: str | None, *, size: int | None, hashed: bool = False
    ) -> Pending:
        key = PREFIX + secrets.token_hex(8)
        self.snapshots.prepare(key, parent)
        return self._start(data, key, size=size, hashed=hashed)

    def _start(self, data: int, key: str, *, size: int | None, hashed: bool = False) -> Pending:
        folder = self.snapshots.layer(key)
        with contextlib.ExitStack() as scope:
            if folder.mounts:
                fd = scope.enter_context(mounted(folder.mounts))
            else:
                fd = os.open(folder.path, _FOLDER)
                scope.callback(os.close, fd)
            fresh = not folder.lower
            return self._job(data, key, fd, folder.flavour, fresh, scope, size=size, hashed=hashed)

    def _whole(self, data: int, key: str, *, size: int | None) -> Pending:
        """Unpack through the mounted whole of a snapshot, whatever the driver's layers are."""
        with contextlib.ExitStack() as scope:
            fd = scope.enter_context(mounted(self.snapshots.mounts(key)))
            return self._job(data, key, fd, Flavour.PLAIN, False, scope, size=size)

    def _job(
        self,
        data: int,
        key: str,
        folder: int,
        flavour: Flavour,
        fresh: bool,
        scope: contextlib.ExitStack,
        *,
        size: int | None,
        hashed: bool = False,
    ) -> Pending:
        """scope: what keeps the folder there; it is closed with the job's end."""
        fresh = fresh or flavour is not Flavour.PLAIN
        job = self._workers.begin(data, folder, flavour, size=size, fresh=fresh, hashed=hashed)
        kept = scope.pop_all()
        job.task.add_done_callback(lambda _: kept.close())
        return Pending(key, job)

    async def _make(self, layer: LayerBlob, chain_id: str, parent: str | None) -> None:
        pending = layer.pending
        own = pending is None or not self.snapshots.exists(pending.key)
        if pending is None or own:
            pending = await self._from_blob(layer.blob, parent)
        detached = self.snapshots.detached_layers
        try:
            try:
                unpacked = await self._finished(pending, parent)
            except NeedsParents as error:
                if parent is None or not detached:
                    raise ArchiveError(f"invalid layer: {error} leads to nothing")
                await self.drop(pending)
                own, detached = True, False
                pending = await self._from_blob(layer.blob, parent, whole=True)
                unpacked = await self._finished(pending, None)
            diff_id = unpacked.diff_id or await off_loop(self.plain_digest, layer.blob)
            if diff_id != layer.diff_id:
                raise InvalidParameter(
                    f"wrong diff id calculated on extraction {diff_id!r},"
                    f" expected {layer.diff_id!r}"
                )
            await off_loop(self._commit, chain_id, pending.key, parent if detached else None)
        except BaseException:
            if own:
                await self.drop(pending)
            raise
        self.sizes[chain_id] = unpacked.size

    def _commit(self, chain_id: str, key: str, parent: str | None) -> None:
        try:
            self.snapshots.commit(chain_id, key, parent=parent)
        except Conflict:
            self._remove(key)  # somebody else has made the same meanwhile

    async def _from_blob(self, digest: str, parent: str | None, *, whole: bool = False) -> Pending:
        data = self._content.open(digest)
        try:
            size = os.fstat(data).st_size
            if self.snapshots.detached_layers and not whole:
                pending = self._begin(data, None, size=size)
            else:
                key = PREFIX + secrets.token_hex(8)
                await off_loop(self.snapshots.prepare, key, parent)
                start = self._whole if whole else self._start
                pending = start(data, key, size=size)
            pending.job.finish(size)
            return pending
        finally:
            os.close(data)

    async def _finished(self, pending: Pending, parent: str | None) -> Unpacked:
        unpacked = await pending.job.result()
        if unpacked.implicit and parent is not None and self.snapshots.detached_layers:
            below = self.snapshots.layer(parent)
            folder = self.snapshots.layer(pending.key)
            await off_loop(_adopt, folder, below, unpacked.implicit)
        return unpacked

    def _remove(self, key: str) -> None:
        with contextlib.suppress(NotFound):
            self.snapshots.remove(key)


def _adopt(folder: LayerFolder, below: LayerFolder, implicit: tuple[bytes, ...]) -> None:
    with contextlib.ExitStack() as scope:

        def opened(path: str) -> int:
            fd = os.open(path, _FOLDER)
            scope.callback(os.close, fd)
            return fd

        try:
            adopt(
                opened(folder.path),
                [opened(path) for path in (below.path, *below.lower)],
                implicit,
            )
        except OSError as error:
            raise System(f"cannot finish layer: {error}") from error
