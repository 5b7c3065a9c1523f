"""A pull-through cache: what is not here is fetched from another registry, and kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gantry.model.errors import GantryError
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
        self._coming: dict[str, asyncio.Task[None]] = {}

    async def aclose(self) -> None:
        for task in list(self._coming.values()):
            task.cancel()
            await asyncio.wait([task])
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

    async def blob(self, name: str, digest: str) -> None:
        """Have a blob, if upstream has it; those who ask at the same time share the transfer."""
        if self._blobs.size(digest) is not None and self._repositories.has_blob(name, digest):
            return
        task = self._coming.get(digest)
        if task is None:
            loop = asyncio.get_running_loop()
            task = self._coming[digest] = loop.create_task(self._fetch(name, digest))
            task.add_done_callback(lambda _: self._coming.pop(digest, None))
        with contextlib.suppress(GantryError):
            await asyncio.shield(task)
            self._repositories.add_blob(name, digest)

    async def tags(self, name: str) -> list[str] | None:
        """All tags upstream; None when it cannot be asked."""
        try:
            return sorted(await self._attempt(name, lambda remote: remote.tags()))
        except GantryError:
            return None

    async def _fetch(self, name: str, digest: str) -> None:
        async def action(remote: Remote) -> None:
            writer = self._blobs.writer(algorithm=digest.partition(":")[0])
            try:
                async with remote.blob(digest) as found:
                    async for piece in found.response.content.iter_chunked(_PIECE):
                        await asyncio.to_thread(writer.write, piece)
                self._repositories.add_blob(name, digest)
                await asyncio.to_thread(writer.commit, digest)
            except BaseException:
                writer.abort()
                raise

        await self._attempt(name, action)

    async def _attempt(self, name: str, action: Callable[[Remote], Awaitable[T]]) -> T:
        return await self._client.attempt(Reference(self._domain, name), self._credentials, action)
