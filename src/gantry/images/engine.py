"""`Images`: the image verbs of the Engine API, put together from a service a group of verbs.

::

    images = Images(content, snapshots, store, emit, users)
    await images.recover()                      # once, before anything else
    async for message in images.load(body, quiet=False): ...
    image = images.resolve("busybox")           # for containers: from memory
    await images.aclose()
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from gantry.content.store import ContentStore
from gantry.images import messages, remote
from gantry.images.bridge import off_loop
from gantry.images.catalog import Catalog
from gantry.images.create import CommitRequest, Creator
from gantry.images.fetch import Fetched, open_url
from gantry.images.filters import Filters
from gantry.images.layers import PREFIX, Layers
from gantry.images.load import Loader
from gantry.images.messages import Message
from gantry.images.platforms import matches, parse_platform
from gantry.images.ports import Emit, ImageStore, ImageUsers, NoUsers
from gantry.images.pull import Puller
from gantry.images.push import Pusher
from gantry.images.registrar import Registrar
from gantry.images.remove import Remover
from gantry.images.save import Saver
from gantry.images.show import Shower
from gantry.images.transfer import Transfers
from gantry.images.verify import Finding, Verifier
from gantry.images.workers import Workers
from gantry.model.errors import Conflict, GantryError, InvalidParameter, NotFound
from gantry.model.image import HistoryItem, Image, ImageInspect, ImageSummary
from gantry.model.image_record import Change, ReferenceRecord
from gantry.model.snapshot import Kind, Snapshotter
from gantry.oci.image_reference import Reference, parse
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.settings import RegistrySettings

_log = logging.getLogger(__name__)

_KEEP_INGESTS: Final = 24 * 3600.0
"""Seconds that an interrupted download stays for the next try."""

Json = dict[str, Any]


class Images:
    """See the module."""

    def __init__(
        self,
        content: ContentStore,
        snapshots: Snapshotter,
        store: ImageStore,
        emit: Emit,
        users: ImageUsers | None = None,
        registries: RegistrySettings | None = None,
    ) -> None:
        self.catalog = Catalog()
        self.content = content
        self.snapshots = snapshots
        self._store = store
        self._users = _Users(users or NoUsers())
        self._workers = Workers()
        self.layers = Layers(content, snapshots, self._workers)
        self._registrar = Registrar(self.catalog, store, content, self.layers, emit)
        self._shower = Shower(self.catalog, content, self.layers, self._users)
        self._remover = Remover(self._registrar, self._users)
        self._loader = Loader(self._registrar)
        self._saver = Saver(self._registrar)
        self._creator = Creator(self._registrar)
        self.verifier = Verifier(self.catalog, content, self.layers)
        self.registries = RegistryClient(registries)
        settings = self.registries.settings
        self.transfers = Transfers(content, self.layers, concurrent=settings.max_downloads)
        self.transfers.attempts = settings.max_attempts
        self._puller = Puller(self._registrar, self.registries, self.transfers)
        self.pusher = Pusher(self._registrar, self.registries)

    def set_users(self, users: ImageUsers) -> None:
        """The containers service is made after this one and tells who it is."""
        self._users.inner = users

    async def recover(self) -> None:
        """Read the state and delete what a crash left: half-made layers, unreferenced blobs.

        An image whose config cannot be read any more is left out, with a line in the log.
        """
        stored = self._store.load()
        for record in stored.images:
            try:
                image = self.catalog.add(record, self._registrar.read_document(record))
                sizes = zip(image.chain_ids, image.layer_sizes, strict=True)
                self.layers.sizes.update(sizes)
            except (GantryError, OSError) as error:
                _log.error("image %s is damaged and left out: %s", record.id, error)
        for reference in stored.references:
            if reference.image_id in self.catalog.images:
                self.catalog.point(reference)
        self.pusher.learn(stored.sources)
        now = time.time()
        kept = {
            digest for lease in stored.leases if lease.expires > now for digest in lease.digests
        }
        old = [lease.id for lease in stored.leases if lease.expires <= now]
        if old:
            await self._store.apply(Change(drop_leases=old))
        await off_loop(self._sweep, kept)

    async def aclose(self) -> None:
        await self.transfers.aclose()
        await self._workers.aclose()
        await self.registries.aclose()

    async def set_registries(self, settings: RegistrySettings) -> None:
        """Reload of the configuration: later pulls and pushes go by these."""
        await self.registries.replace_settings(settings)
        self.transfers.set_limits(settings.max_downloads, settings.max_attempts)

    # ---- looking

    def resolve(self, name: str, platform: str = "") -> Image:
        """The image a user means, from memory. NotFound, InvalidParameter."""
        image = self.catalog.resolve(name)
        if platform:
            wanted = parse_platform(platform)
            if not matches(image.os, image.architecture, image.variant, wanted):
                have = "/".join(p for p in (image.os, image.architecture, image.variant) if p)
                raise NotFound(
                    f"image with reference {name} was found but its platform ({have}) does not"
                    f" match the specified platform ({wanted})"
                )
        return image

    async def inspect(self, name: str, *, platform: str = "") -> ImageInspect:
        self.resolve(name, platform)
        return self._shower.inspect(name)

    async def history(self, name: str, *, platform: str = "") -> Sequence[HistoryItem]:
        self.resolve(name, platform)
        return self._shower.history(name)

    def verify(self, name: str = "") -> AsyncIterator[Finding]:
        """`gantry image verify`: see `gantry.images.verify`."""
        return self.verifier.verify(name)

    def unpack(self, name: str) -> AsyncIterator[Finding]:
        return self.verifier.unpack(name)

    async def disk_usage(self) -> Json:
        """{"LayersSize": bytes, "Images": summaries with shared sizes}."""
        rows = self._shower.rows({}, everything=True, shared_size=True)
        return {"LayersSize": self._shower.layers_size(), "Images": msgspec.to_builtins(rows)}

    # ---- changing

    async def tag(self, source: str, repo: str, tag: str) -> None:
        """Give an image one more name, taken from another image if need be."""
        reference = make_reference(repo, tag)
        image = self.catalog.resolve(source)
        await self.name(image, reference)

    async def name(self, image: Image, reference: Reference) -> None:
        await self._registrar.point(image, [ReferenceRecord(str(reference), image.id)])
        self._registrar.event(image.id, reference.familiar, "tag")

    async def remove(self, name: str, *, force: bool, noprune: bool) -> Sequence[Json]:
        return await self._remover.remove(name, force=force, noprune=noprune)

    async def prune(self, filters: Filters) -> Json:
        return await self._remover.prune(filters)

    def drop_orphans(self) -> None:
        """Remove layers of deleted images that a container was on, once it is gone."""
        self._registrar.drop_orphans()

    # ---- in and out

    def load(
        self, body: AsyncIterator[bytes], *, quiet: bool, platform: str = ""
    ) -> AsyncIterator[Message]:
        return self._loader.load(body, quiet=quiet, platform=platform)

    def save(self, names: Sequence[str], *, platform: str) -> AsyncIterator[bytes]:
        return self._saver.save(names, platform=platform)

    async def import_(
        self,
        source: AsyncIterator[bytes] | str,
        *,
        repo: str,
        tag: str,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> AsyncIterator[Message]:
        """source: the tar's bytes, or a URL to fetch it from."""
        reference = make_reference(repo, tag) if repo else None
        fetched: Fetched | None = None
        async with contextlib.AsyncExitStack() as scope:
            if isinstance(source, str):
                message = message or f"Imported from {source}"
                fetched = await scope.enter_async_context(open_url(source))
                yield messages.status(f"Downloading from {fetched.url}")
                source = fetched.body
            async for line in self._creator.import_(
                source,
                reference=reference,
                message=message or "Imported from -",
                changes=changes,
                platform=platform,
            ):
                if fetched is not None:
                    yield messages.progress("Importing", "", fetched.size, fetched.size)
                yield line

    def pull(self, ref: str, *, tag: str, platform: str, auth: Json) -> AsyncIterator[Message]:
        """auth: the decoded X-Registry-Auth."""
        credentials = Credentials.of_json(auth)
        return self._puller.pull(ref, tag=tag, platform=platform, credentials=credentials)

    def push(self, name: str, *, tag: str, platform: str, auth: Json) -> AsyncIterator[Message]:
        return self.pusher.push(name, tag=tag, credentials=Credentials.of_json(auth))

    async def login(self, auth: Json) -> Json:
        """POST /auth: {"Status", "IdentityToken"}. Unauthorized, System."""
        return await self.registries.login(Credentials.of_json(auth))

    async def search(self, term: str, *, limit: int, filters: Filters, auth: Json) -> list[Json]:
        return await remote.search(self.registries, term, limit, filters, auth)

    async def distribution(self, name: str, *, auth: Json) -> Json:
        return await remote.distribution(self.registries, name, auth)

    async def commit(self, request: CommitRequest) -> Image:
        return await self._creator.commit(request)

    async def list(
        self,
        filters: Filters,
        *,
        everything: bool,
        digests: bool = False,
        shared_size: bool = False,
        manifests: bool = False,
    ) -> Sequence[ImageSummary]:
        return self._shower.rows(
            filters, everything=everything, shared_size=shared_size, manifests=manifests
        )

    # ---- inside

    def _sweep(self, kept: set[str]) -> None:
        self.content.clean_ingests(keep_seconds=_KEEP_INGESTS)
        for blob in self.content.walk():
            if not self.catalog.uses_blob(blob.digest) and blob.digest not in kept:
                self.content.delete(blob.digest)
        self._sweep_snapshots()
        self.snapshots.cleanup()

    def _sweep_snapshots(self) -> None:
        infos = list(self.snapshots.walk())
        for info in infos:
            if info.kind is not Kind.COMMITTED and info.name.startswith(PREFIX):
                self.snapshots.remove(info.name)
        # Children before parents: what still has some stays.
        left = [
            info.name
            for info in infos
            if info.kind is Kind.COMMITTED and not self.catalog.uses_chain(info.name)
        ]
        while left:
            again: list[str] = []
            for name in left:
                try:
                    self.snapshots.remove(name)
                except Conflict:
                    again.append(name)
                except NotFound:
                    continue
            if len(again) == len(left):
                self._registrar.orphans.update(left)
                break  # containers lie on them
            left = again


class _Users:
    """Stands between the services and a containers service that comes later."""

    def __init__(self, inner: ImageUsers) -> None:
        self.inner = inner

    def containers_using(self, image_id: str) -> Sequence[tuple[str, bool]]:
        return self.inner.containers_using(image_id)


def make_reference(repo: str, tag: str) -> Reference:
    """A name to give to an image, from the API's repo and tag. InvalidParameter."""
    reference = parse(repo)
    if reference.digest:
        raise InvalidParameter("cannot import digest reference")
    if tag:
        reference = reference.with_tag(tag)
    reference = reference.with_default_tag()
    if reference.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return reference
