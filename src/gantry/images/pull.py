"""`docker pull` (moby `daemon/internal/distribution/pull_v2.go`).

A tag is first only looked at: when the image it means is here, nothing more is asked. Else
manifest, config, and the layers that are missing, in parallel, unpacked while they arrive;
then one transaction makes the image exist. A lease keeps what has come so far for a day, so a
pull that was broken off goes on from there, also after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

from gantry.images import messages
from gantry.images.bridge import narrated
from gantry.images.layers import LayerBlob
from gantry.images.messages import Message, Say
from gantry.images.platforms import HOST, Wanted, choose, matches, parse_platform, rank
from gantry.images.registrar import LayerDescriptor, Registrar
from gantry.images.transfer import COMPLETE, DOWNLOADING, FRESH, Transfer, Transfers
from gantry.ipc.owner import TaskOwner
from gantry.kernel.memory import release
from gantry.model.errors import (
    Forbidden,
    GantryError,
    InvalidParameter,
    NotFound,
    System,
)
from gantry.model.image import Image
from gantry.model.image_record import BlobSource, Change, Lease, ReferenceRecord
from gantry.oci.image import (
    CONFIGS,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    INDEXES,
    Descriptor,
    Manifest,
    Platform,
    read_config,
    read_index,
    read_manifest,
)
from gantry.oci.image_digest import chain_ids, is_digest
from gantry.oci.image_reference import Reference, parse
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.errors import of_pull
from gantry.registry.remote import Found, Remote

_LEASE: Final = 24 * 3600.0
_TICK: Final = 0.1
"""Seconds between two messages of one progress bar."""
_DEPTH: Final = 4
_LAYER_PREFIXES: Final = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
)


class Puller:
    """See the module."""

    def __init__(self, registrar: Registrar, client: RegistryClient, transfers: Transfers) -> None:
        self._registrar = registrar
        self._catalog = registrar.catalog
        self._content = registrar.content
        self._client = client
        self._transfers = transfers

    async def pull(
        self, name: str, *, tag: str, platform: str, credentials: Credentials
    ) -> AsyncIterator[Message]:
        """The messages of a pull. Without tag and digest all tags are pulled.

        Whoever stops iterating cancels the pull. Errors: see `registry.errors.of_pull`;
        InvalidParameter and Forbidden for the name come before any message.
        """
        reference = parse(name.removesuffix(":"))
        if tag:
            bare = parse(reference.name)
            reference = bare.with_digest(tag) if is_digest(tag) else bare.with_tag(tag)
        if reference.familiar_name == "scratch":
            raise Forbidden("'scratch' is a reserved name")
        wanted = parse_platform(platform) if platform else None
        try:
            async with narrated(
                lambda say: self._pull(reference, wanted, credentials, say)
            ) as said:
                async for message in said:
                    yield message
        finally:
            release()

    async def _pull(
        self, reference: Reference, wanted: Wanted | None, credentials: Credentials, say: Say
    ) -> None:
        warnings: list[str] = []

        async def action(remote: Remote) -> bool:
            warnings.clear()
            if reference.tag or reference.digest:
                return await _Pull(self, remote, reference, wanted, say, warnings).run()
            news = False
            for tag in await remote.tags():
                one = _Pull(self, remote, reference.with_tag(tag), wanted, say, warnings)
                news |= await one.run()
            return news

        try:
            news = await self._client.attempt(reference, credentials, action)
        except GantryError as error:
            raise of_pull(error, reference.familiar_name, reference.familiar) from error
        text = "Downloaded newer image for" if news else "Image is up to date for"
        say(messages.status(f"Status: {text} {reference.familiar}"))
        for warning in warnings:
            say(messages.status(f"WARNING: {warning}"))
        self._registrar.pull_event(reference)

    # ---- what a pull uses

    @property
    def registrar(self) -> Registrar:
        return self._registrar

    @property
    def transfers(self) -> Transfers:
        return self._transfers


class _Pull:
    """One tag or digest."""

    def __init__(
        self,
        puller: Puller,
        remote: Remote,
        reference: Reference,
        wanted: Wanted | None,
        say: Say,
        warnings: list[str],
    ) -> None:
        self._registrar = puller.registrar
        self._catalog = puller.registrar.catalog
        self._content = puller.registrar.content
        self._transfers = puller.transfers
        self._remote = remote
        self._reference = reference
        self._wanted = wanted
        self._say = say
        self._warnings = warnings
        self._by_index = False

    async def run(self) -> bool:
        """Whether anything is new."""
        reference = self._reference
        asked = reference.digest or reference.tag
        found = await self._remote.head(asked)
        known = self._known(found)
        if known is None and not found.raw:
            found = await self._remote.get(asked)
        self._say(messages.status(f"Pulling from {reference.path}", asked))
        if known is not None:
            self._say(messages.status(f"Digest: {found.digest}"))
            return await self._name(known, found.digest)
        raw, manifest = await self._manifest(found)
        image = self._catalog.images.get(manifest.config.digest)
        if image is None:
            image = await self._fetch(raw, manifest)
        self._check_platform(image)
        self._say(messages.status(f"Digest: {found.digest}"))
        return await self._name(image, found.digest)

    def _known(self, found: Found) -> Image | None:
        """The image that this digest of this repository was, when it is here and fits.

        Of an index only what fits exactly is taken: there may be a better one in it.
        """
        name = str(self._reference.with_digest(found.digest))
        image = self._catalog.images.get(self._catalog.references.get(name, ""))
        if image is None:
            return None
        own = Platform(image.architecture, image.os, variant=image.variant)
        if found.media_type in INDEXES:
            return image if rank(own, self._wanted or HOST) == 0 else None
        return image if self._wanted is None or rank(own, self._wanted) is not None else None

    async def _name(self, image: Image, digest: str) -> bool:
        """Give the image its names; whether any is new."""
        names = [str(self._reference.with_digest(digest))]
        if not self._reference.digest:
            names.append(str(self._reference))
        fresh = [name for name in names if self._catalog.references.get(name) != image.id]
        if fresh:
            await self._registrar.point(image, [ReferenceRecord(n, image.id) for n in fresh])
        return names[-1] in fresh

    # ---- documents

    async def _manifest(self, found: Found) -> tuple[bytes, Manifest]:
        """The manifest for the wanted platform, from whatever was found."""
        for _ in range(_DEPTH):
            if found.media_type in (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED):
                raise InvalidParameter(
                    "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support"
                    f" has been removed. Suggest the author of {self._reference} to upgrade the"
                    " image to the OCI Format or Docker Image manifest v2, schema 2. More"
                    " information at https://docs.docker.com/go/deprecated-image-specs/"
                )
            if found.media_type not in INDEXES:
                manifest = read_manifest(found.raw)
                _check_types(manifest)
                return found.raw, manifest
            wanted = self._wanted or HOST
            chosen = choose(_images_of(read_index(found.raw).manifests), wanted)
            if chosen is None:
                raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
            self._by_index = True
            found = await self._remote.get(chosen.digest)
            if found.size != chosen.size:
                raise InvalidParameter(
                    f"manifest {chosen.digest} has {found.size} bytes, expected {chosen.size}"
                )
        raise InvalidParameter("invalid index: nested too deeply")

    async def _config(self, manifest: Manifest) -> bytes:
        digest = manifest.config.digest
        config = await self._remote.small_blob(digest)
        if len(config) != manifest.config.size:
            raise InvalidParameter(
                f"image config {digest} has {len(config)} bytes, expected {manifest.config.size}"
            )
        document = read_config(config)
        if document.os not in ("", "linux"):
            raise System(
                f'image operating system "{document.os}" cannot be used on this platform:'
                " operating system is not supported"
            )
        if len(document.diff_ids) != len(manifest.layers):
            raise InvalidParameter("layers from manifest don't match image configuration")
        return config

    def _check_platform(self, image: Image) -> None:
        """Docker takes an image that comes alone whatever its platform, and warns; of one that
        an index names, the index is believed."""
        wanted = self._wanted
        if wanted is None or self._by_index:
            return
        if not matches(image.os, image.architecture, image.variant, wanted):
            have = "/".join(part for part in (image.os, image.architecture, image.variant) if part)
            self._warnings.append(
                f"image with reference {self._reference.familiar} was found but its platform"
                f" ({have}) does not match the specified platform ({wanted})"
            )

    # ---- layers

    async def _fetch(self, raw: bytes, manifest: Manifest) -> Image:
        registrar = self._registrar
        digests = [layer.digest for layer in manifest.layers]
        lease = Lease(
            f"pull {manifest.config.digest}",
            time.time() + _LEASE,
            (*dict.fromkeys(digests), manifest.config.digest),
        )
        with self._catalog.holding((), (*digests, manifest.config.digest)):
            config = await self._config(manifest)
            if any(not self._content.exists(digest) for digest in digests):
                await registrar.store.apply(Change(put_leases=(lease,)))
            diff_ids = read_config(config).diff_ids
            board = _Board(self._say, manifest.layers)
            async with contextlib.AsyncExitStack() as scope:
                transfers = await self._begin(manifest, chain_ids(diff_ids), board, scope)
                board.follow(scope, transfers)
                for transfer in transfers.values():
                    await transfer.wait()
                layers = [
                    LayerDescriptor(
                        layer,
                        LayerBlob(
                            diff_id,
                            layer.digest,
                            transfers[layer.digest].pending if layer.digest in transfers else None,
                        ),
                    )
                    for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
                ]
                repository = self._reference.name
                image = await registrar.register(
                    config,
                    layers,
                    manifest=raw,
                    sources=[BlobSource(digest, repository) for digest in digests],
                    done=board.done,
                    drop_leases=(lease.id,),
                )
        return image

    async def _begin(
        self,
        manifest: Manifest,
        chains: tuple[str, ...],
        board: _Board,
        scope: contextlib.AsyncExitStack,
    ) -> dict[str, Transfer]:
        """Start or join the transfers of what is missing."""
        transfers: dict[str, Transfer] = {}
        for position, (layer, chain) in enumerate(zip(manifest.layers, chains, strict=True)):
            unpacked = self._registrar.layers.snapshots.exists(chain)
            if self._content.exists(layer.digest):
                board.first(position, "Already exists" if unpacked else FRESH)
                continue
            board.first(position, FRESH)
            if layer.digest in transfers:
                continue
            transfer = self._transfers.begin(
                layer, self._remote, unpack=not unpacked, listener=board.changed
            )
            scope.push_async_callback(self._transfers.release, transfer, board.changed)
            transfers[layer.digest] = transfer
        return transfers


class _Board:
    """Turns the state of transfers into messages, not more often than anybody can read."""

    def __init__(self, say: Say, layers: list[Descriptor]) -> None:
        self._say = say
        self._layers = layers
        self._shown: dict[str, str] = {}
        self._dirty: set[Transfer] = set()
        self._finished: set[int] = set()
        self._tasks = TaskOwner("progress")

    def first(self, position: int, text: str) -> None:
        digest = self._layers[position].digest
        self._say(messages.progress(text, messages.short(digest)))
        self._shown[digest] = text
        if text == "Already exists":
            self._finished.add(position)

    def follow(self, scope: contextlib.AsyncExitStack, transfers: dict[str, Transfer]) -> None:
        scope.push_async_callback(self._tasks.aclose)
        self._tasks.spawn(self._ticking(), "ticks")
        for transfer in transfers.values():
            self.changed(transfer)

    def changed(self, transfer: Transfer) -> None:
        """Phases are told at once, bytes at the next tick."""
        digest = transfer.descriptor.digest
        before = self._shown.get(digest)
        if before == transfer.phase:
            self._dirty.add(transfer)
            return
        self._shown[digest] = transfer.phase
        identity = messages.short(digest)
        if before == DOWNLOADING and transfer.current == transfer.total:
            self._say(messages.progress(DOWNLOADING, identity, transfer.total, transfer.total))
        if transfer.phase == COMPLETE:
            self._say(messages.progress(COMPLETE, identity))
            self._dirty.add(transfer)
        else:
            self._tell(transfer)

    def done(self, position: int) -> None:
        if position not in self._finished:
            self._finished.add(position)
            digest = self._layers[position].digest
            self._say(messages.progress("Pull complete", messages.short(digest)))

    def _tell(self, transfer: Transfer) -> None:
        identity = messages.short(transfer.descriptor.digest)
        if transfer.phase == DOWNLOADING:
            self._say(messages.progress(transfer.phase, identity, transfer.current, transfer.total))
        elif transfer.phase == COMPLETE and transfer.extracted:
            self._say(messages.progress("Extracting", identity, transfer.extracted, transfer.total))
        else:
            self._say(messages.progress(transfer.phase, identity))

    async def _ticking(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            dirty, self._dirty = self._dirty, set()
            done = {self._layers[position].digest for position in self._finished}
            for transfer in dirty:
                going = transfer.phase == DOWNLOADING or transfer.extracted
                if going and transfer.descriptor.digest not in done:
                    self._tell(transfer)


def _images_of(manifests: list[Descriptor]) -> list[Descriptor]:
    """Without attestations and other things that nobody can run."""
    return [
        one
        for one in manifests
        if (one.platform is None or one.platform.os != "unknown")
        and "vnd.docker.reference.type" not in (one.annotations or {})
    ]


def _check_types(manifest: Manifest) -> None:
    config = manifest.config.media_type
    if config.lower().startswith("application/vnd.docker.ai."):
        raise InvalidParameter(
            "AI models are not yet supported by the Engine,"
            ' please use "docker model pull/run" instead'
        )
    if config not in CONFIGS:
        raise InvalidParameter(f"Encountered remote {config!r}(unknown) when fetching")
    for layer in manifest.layers:
        if not layer.media_type.startswith(_LAYER_PREFIXES) or "+encrypted" in layer.media_type:
            raise InvalidParameter(f"unsupported media type {layer.media_type}")
