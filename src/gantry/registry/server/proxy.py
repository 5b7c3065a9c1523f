"""A pull-through cache: what is not here is fetched from another registry, and kept."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from gantry.ipc.owner import TaskOwner
from gantry.model.errors import GantryError, System
from gantry.oci.image_digest import is_digest
from gantry.oci.image_reference import Reference
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.errors import RegistryError
from gantry.registry.remote import Found, Remote
from gantry.registry.server.ports import BlobStore
from gantry.registry.server.repositories import Repositories

_log = logging.getLogger(__name__)

T = TypeVar("T")
_PIECE = 1 << 20


class Arrival:
    """A blob on its way here, which others may read already."""

    def __init__(self) -> None:
        self.size = -1
        """Bytes in all; -1 where upstream does not say."""
        self.failed = False
        self.ended = False
        self.begun = asyncio.Event()
        """Set when it can be read, or when it failed or ended before that."""
        self._fd = -1
        self._offset = 0
        self._changed = asyncio.Event()

    def begin(self, fd: int, size: int) -> None:
        """Its bytes come to this file. One that broke off and is tried elsewhere is read by
        nobody but the store: `begun` was set for the first."""
        if self._fd >= 0:
            raise System("the transfer broke off")
        self._fd, self.size = os.dup(fd), size
        if size >= 0:
            self.begun.set()

    def advance(self, offset: int) -> None:
        self._offset = offset
        self._wake()

    def end(self) -> None:
        self.ended = True
        self.begun.set()
        self._wake()

    async def read(self) -> AsyncIterator[bytes]:
        """All its bytes, as they come. System when it breaks off. Not checked: who asked for
        a digest does that."""
        fd = os.dup(self._fd)
        try:
            position = 0
            while position < self.size:
                while self._offset <= position:
                    if self.ended:
                        raise System("the transfer broke off")
                    changed = self._changed
                    await changed.wait()
                length = min(_PIECE, self._offset - position)
                piece = await asyncio.to_thread(os.pread, fd, length, position)
                position += len(piece)
                yield piece
        finally:
            os.close(fd)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def __del__(self) -> None:
        # Its readers may outlive the transfer, and the last of them need not be the last to end.
        if self._fd >= 0:
            os.close(self._fd)


class Upstream:
    """See the module. domain: the other registry (host[:port] or docker.io)."""

    def __init__(
        self,
        client: RegistryClient,
        domain: str,
        credentials: Credentials,
        blobs: BlobStore,
        repositories: Repositories,
    ) -> None:
        self._client = client
        self._domain = domain
        self._credentials = credentials
        self._blobs = blobs
        self._repositories = repositories
        self._coming: dict[str, Arrival] = {}
        self._tasks = TaskOwner("cache")

    async def aclose(self) -> None:
        await self._tasks.aclose()
        await self._client.aclose()

    async def manifest(self, name: str, reference: str) -> None:
        """Have a tag or digest as it is upstream now. What is here stays good when upstream
        cannot be asked."""
        if is_digest(reference) and self._repositories.manifest_type(name, reference) is not None:
            return

        async def action(remote: Remote) -> Found:
            found = await remote.head(reference)
            if not found.raw and self._repositories.manifest_type(name, found.digest) is None:
                found = await remote.get(found.digest)
            return found

        try:
            found = await self._attempt(name, action)
        except RegistryError as error:
            if error.status == 404:
                self._repositories.drop_tag(name, reference)
            return
        except GantryError as error:
            _log.warning("%s/%s: %s", self._domain, name, error)
            return
        if found.raw:
            self._blobs.put(found.raw, found.digest)
            self._repositories.add_manifest(name, found.digest, found.media_type)
        if not is_digest(reference):
            self._repositories.set_tag(name, reference, found.digest)

    async def size(self, name: str, digest: str) -> int | None:
        """Bytes of a blob upstream; None when it has none such, or cannot be asked."""
        try:
            return await self._attempt(name, lambda remote: remote.has_blob(digest, push=False))
        except GantryError:
            return None

    async def blob(self, name: str, digest: str) -> Arrival | None:
        """Begin to fetch a blob that is not here, or join who fetches it; None when it is here,
        or cannot be had."""
        if self._blobs.size(digest) is not None and self._repositories.has_blob(name, digest):
            return None
        arrival = self._coming.get(digest)
        if arrival is None:
            arrival = self._coming[digest] = Arrival()
            self._tasks.spawn(self._fetch(name, digest, arrival), digest)
        await arrival.begun.wait()
        if arrival.failed:
            return None
        if arrival.ended:
            self._repositories.add_blob(name, digest)
            return None
        return arrival

    async def tags(self, name: str) -> list[str] | None:
        """All tags upstream; None when it cannot be asked."""
        try:
            return sorted(await self._attempt(name, lambda remote: remote.tags()))
        except GantryError:
            return None

    async def _fetch(self, name: str, digest: str, arrival: Arrival) -> None:
        async def action(remote: Remote) -> None:
            writer = self._blobs.writer(algorithm=digest.partition(":")[0])
            try:
                async with remote.blob(digest) as found:
                    arrival.begin(writer.fd, found.total)
                    async for piece in found.response.content.iter_chunked(_PIECE):
                        await asyncio.to_thread(writer.write, piece)
                        arrival.advance(writer.offset)
                self._repositories.add_blob(name, digest)
                await asyncio.to_thread(writer.commit, digest)
            except BaseException:
                writer.abort()
                raise

        try:
            await self._attempt(name, action)
        except GantryError as error:
            arrival.failed = True
            if not isinstance(error, RegistryError):
                _log.warning("%s/%s: %s", self._domain, name, error)
        except BaseException:
            arrival.failed = True
            raise
        finally:
            self._coming.pop(digest, None)
            arrival.end()

    async def _attempt(self, name: str, action: Callable[[Remote], Awaitable[T]]) -> T:
        return await self._client.attempt(Reference(self._domain, name), self._credentials, action)
