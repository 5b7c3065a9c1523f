"""`docker push` (moby `daemon/internal/distribution/push_v2.go`).

Blobs and manifest go out as they are in the content store, so the digest at the registry is
the one here. What the repository has already is not sent; what another repository of the
same registry is known to have is mounted from there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

from gantry.content.store import ContentStore
from gantry.images import messages
from gantry.images.bridge import narrated, off_loop
from gantry.images.messages import Message, Say
from gantry.images.registrar import Registrar
from gantry.kernel.memory import release
from gantry.model.errors import InvalidParameter, NotFound, System
from gantry.model.image import Image
from gantry.model.image_record import BlobSource, Change, ReferenceRecord
from gantry.oci.image import MAX_DOCUMENT, OCI_MANIFEST, Descriptor, read_manifest
from gantry.oci.image_reference import Reference, parse
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.errors import AuthorizationError, RegistryError, TransportError
from gantry.registry.remote import Remote

_PIECE: Final = 1 << 20
_MOUNTS: Final = 4
"""Repositories tried at most to mount a blob from."""
_ATTEMPTS: Final = 5


class Pusher:
    """See the module."""

    def __init__(self, registrar: Registrar, client: RegistryClient) -> None:
        self._registrar = registrar
        self._catalog = registrar.catalog
        self._client = client
        self.sources: dict[str, list[str]] = {}
        """Blob → repositories that are known to have it, the last known first."""
        self.retry_delay = 1.0
        self._limit = client.settings.max_uploads
        self._slots = asyncio.Semaphore(self._limit)

    def learn(self, sources: tuple[BlobSource, ...]) -> None:
        for source in sources:
            known = self.sources.setdefault(source.digest, [])
            if source.repository not in known:
                known.insert(0, source.repository)

    async def push(
        self, name: str, *, tag: str, credentials: Credentials
    ) -> AsyncIterator[Message]:
        """The messages of a push; without a tag all tags of the repository are pushed."""
        reference = parse(name)
        if tag:
            reference = reference.with_tag(tag)
        if reference.digest:
            raise InvalidParameter("cannot push a digest reference")
        try:
            async with narrated(lambda say: self._push(reference, credentials, say)) as said:
                async for message in said:
                    yield message
        finally:
            release()

    async def _push(self, reference: Reference, credentials: Credentials, say: Say) -> None:
        try:
            say(messages.status(f"The push refers to repository [{reference.name}]"))
            chosen = self._choose(reference)
            slots = self._places()

            async def action(remote: Remote) -> None:
                for one, image in chosen:
                    await _Push(self, remote, one, image, say, slots).run()

            await self._client.attempt(reference, credentials, action, push=True)
        except AuthorizationError as error:
            raise System(error.reason) from error
        self._registrar.push_event(reference)

    def _places(self) -> asyncio.Semaphore:
        """For the blobs of all pushes together, as many as the settings say now."""
        limit = self._client.settings.max_uploads
        if limit != self._limit:
            self._limit, self._slots = limit, asyncio.Semaphore(limit)
        return self._slots

    def _choose(self, reference: Reference) -> list[tuple[Reference, Image]]:
        names = self._catalog.names_in(reference.name)
        if not names:
            raise NotFound(
                f"An image does not exist locally with the tag: {reference.familiar_name}"
            )
        found = [
            (one, self._catalog.images[image])
            for one, image in names
            if one.tag and reference.tag in ("", one.tag)
        ]
        if not found and reference.tag:
            raise NotFound(f"tag does not exist: {reference.familiar}")
        if not found:
            raise NotFound(f"no tags to push for {reference.familiar_name}")
        return found

    @property
    def registrar(self) -> Registrar:
        return self._registrar

    @property
    def client(self) -> RegistryClient:
        return self._client


class _Push:
    """One tag."""

    def __init__(
        self,
        pusher: Pusher,
        remote: Remote,
        reference: Reference,
        image: Image,
        say: Say,
        slots: asyncio.Semaphore,
    ) -> None:
        self._pusher = pusher
        self._registrar = pusher.registrar
        self._content: ContentStore = pusher.registrar.content
        self._remote = remote
        self._reference = reference
        self._image = image
        self._say = say
        self._slots = slots

    async def run(self) -> None:
        record = self._registrar.catalog.records[self._image.id]
        raw = self._content.read(record.manifest, MAX_DOCUMENT)
        manifest = read_manifest(raw)
        names = {
            layer.digest: messages.short(diff_id)
            for layer, diff_id in zip(manifest.layers, self._image.diff_ids, strict=True)
        }
        for identity in dict.fromkeys(reversed(names.values())):
            self._say(messages.progress("Preparing", identity))
        with self._registrar.catalog.holding((), (record.id, record.manifest, *record.blobs)):
            blobs = {layer.digest: layer for layer in manifest.layers}
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._blob(manifest.config, ""))
                    for digest, layer in blobs.items():
                        if not self._foreign(layer):
                            group.create_task(self._blob(layer, names[digest]))
            except BaseExceptionGroup as error:
                raise _first(error) from error
            media_type = manifest.media_type or OCI_MANIFEST
            await self._remote.put_manifest(self._reference.tag, media_type, raw)
        tag, size = self._reference.tag, len(raw)
        self._say(messages.status(f"{tag}: digest: {record.manifest} size: {size}"))
        await self._remember(record.manifest, list(blobs))
        self._say(
            {
                "progressDetail": {},
                "aux": {"Tag": tag, "Digest": record.manifest, "Size": size},
            }
        )

    def _foreign(self, layer: Descriptor) -> bool:
        settings = self._pusher.client.settings
        return bool(layer.urls) and not settings.allows_nondistributable(self._reference.domain)

    async def _remember(self, manifest: str, blobs: list[str]) -> None:
        image = self._registrar.catalog.images.get(self._image.id)
        if image is None:
            return
        sources = tuple(BlobSource(digest, self._reference.name) for digest in blobs)
        self._pusher.learn(sources)
        name = str(self._reference.with_digest(manifest))
        if self._registrar.catalog.references.get(name) == image.id:
            await self._registrar.store.apply(Change(put_sources=sources))
            return
        await self._registrar.point(image, [ReferenceRecord(name, image.id)], sources, tag=False)

    async def _blob(self, descriptor: Descriptor, name: str) -> None:
        """Have one blob at the registry. name: for the messages, "" for none."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._slots:
                    await self._send(descriptor, name)
                return
            except (RegistryError, TransportError) as error:
                final = isinstance(error, RegistryError) and error.final
                if final or attempt == _ATTEMPTS or not getattr(error, "spoke", True):
                    raise
                seconds = max(1, round(self._pusher.retry_delay * attempt))
                unit = "second" if seconds == 1 else "seconds"
                self._tell(f"Retrying in {seconds} {unit}", name)
                await asyncio.sleep(self._pusher.retry_delay * attempt)

    async def _send(self, descriptor: Descriptor, name: str) -> None:
        digest = descriptor.digest
        if await self._remote.has_blob(digest) is not None:
            self._tell("Layer already exists", name)
            return
        location = await self._mount(digest, name)
        if location is None:
            return
        size = self._content.size(digest)
        if size is None:
            raise System(f"content digest {digest}: not found")
        sent = 0
        shown = asyncio.get_running_loop().time()

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent, shown
            sent = 0
            fd = self._content.open(digest)
            try:
                while piece := await off_loop(os.pread, fd, _PIECE, sent):
                    yield piece
                    sent += len(piece)
                    now = asyncio.get_running_loop().time()
                    if name and now - shown >= 0.1:
                        shown = now
                        self._say(messages.progress("Pushing", name, sent, size))
            finally:
                os.close(fd)

        if name:
            self._say(messages.progress("Pushing", name, 0, size))
        await self._remote.upload(location, digest, size, pieces)
        if name:
            self._say(messages.progress("Pushing", name, size, size))
        self._tell("Pushed", name)

    async def _mount(self, digest: str, name: str) -> str | None:
        """An upload location, or None when the blob was mounted."""
        known = self._pusher.sources.get(digest, ())
        here = self._reference
        candidates = [
            other
            for other in (parse(repository) for repository in known)
            if other.domain == here.domain and other.path != here.path
        ]
        for other in candidates[:_MOUNTS]:
            try:
                location = await self._remote.start_upload(mount=digest, source=other.path)
            except RegistryError:
                continue
            if location is None:
                self._tell(f"Mounted from {other.path}", name)
                return None
            return location
        return await self._remote.start_upload()

    def _tell(self, text: str, name: str) -> None:
        if name:
            self._say(messages.progress(text, name))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error of a group."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        return error
    return group
