"""Images made here: from a tar of files (`docker import`) and from a container's changes
(`docker commit`). Both are one new layer and a config that we write.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gantry.archive.compression import Pushback, decompress, detect
from gantry.archive.diff import STARTS_MAKE, diff_layer
from gantry.archive.reader import Source
from gantry.images import messages
from gantry.images.bridge import Inlet, consume, in_thread, off_loop
from gantry.images.changes import apply_changes
from gantry.images.layers import LayerBlob, Pending
from gantry.images.load import MEDIA_TYPES
from gantry.images.messages import Message
from gantry.images.platforms import HOST, parse_platform
from gantry.images.registrar import LayerDescriptor, Registrar
from gantry.model.errors import InvalidParameter, NotFound
from gantry.model.image import Image
from gantry.model.snapshot import LayerFolder
from gantry.oci.image import (
    MAX_DOCUMENT,
    OCI_LAYER,
    Descriptor,
    format_time,
    read_config,
    read_manifest,
)
from gantry.oci.image_reference import Reference
from gantry.snapshots.private import opened

Json = dict[str, Any]
Write = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What `commit` needs of a container.

    snapshot: key of its writable layer. parent: its image's id, "" for none. config: the new
    image's config and container_config: the container's, both in JSON form (`ContainerConfig`).
    """

    snapshot: str
    parent: str
    container: str
    config: Json
    container_config: Json
    author: str = ""
    comment: str = ""
    reference: Reference | None = None
    os: str = "linux"


class Creator:
    """See the module."""

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar
        self._catalog = registrar.catalog
        self._content = registrar.content

    async def import_(
        self,
        body: AsyncIterator[bytes],
        *,
        reference: Reference | None,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> AsyncIterator[Message]:
        """One image of one layer: the tar (plain or compressed) as it is."""
        wanted = parse_platform(platform) if platform else HOST
        if wanted.os != "linux":
            raise InvalidParameter("operating system is not supported")
        config = apply_changes({}, changes)
        layer = await self._store(lambda write: _receive(body, write))
        try:
            diff_id = await self._diff_id(layer)
            now = format_time(time.time_ns())
            document: Json = {
                "architecture": wanted.architecture,
                "comment": message,
                "config": config,
                "created": now,
                "history": [{"created": now, "comment": message}],
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            }
            if wanted.variant:
                document["variant"] = wanted.variant
            image = await self._register(document, [], layer, diff_id, reference)
        finally:
            await self._drop(layer)
        self._announce(image, reference)
        self._registrar.event(image.id, image.id, "import")
        yield messages.status(image.id)

    async def commit(self, request: CommitRequest) -> Image:
        """A new image: the container's, with its changes on top. The caller has paused it."""
        parent = self._catalog.images.get(request.parent) if request.parent else None
        if request.parent and parent is None:
            raise NotFound(f"No such image: {request.parent}")
        folder = self._registrar.layers.snapshots.layer(request.snapshot)
        layer = await self._store(lambda write: _differ(folder, write))
        try:
            diff_id = await self._diff_id(layer)
            document = self._child(parent, request, diff_id)
            below = self._layers_of(parent) if parent is not None else []
            image = await self._register(
                document,
                below,
                layer,
                diff_id,
                request.reference,
                parent=request.parent,
                container=request.container,
            )
        finally:
            await self._drop(layer)
        self._registrar.event(image.id, "", "create")
        self._announce(image, request.reference)
        return image

    # ---- inside

    async def _register(
        self,
        document: Json,
        below: list[LayerDescriptor],
        layer: _Layer,
        diff_id: str,
        reference: Reference | None,
        *,
        parent: str = "",
        container: str = "",
    ) -> Image:
        top = LayerDescriptor(
            layer.descriptor, LayerBlob(diff_id, layer.descriptor.digest, layer.pending)
        )
        return await self._registrar.register(
            msgspec.json.encode(document),
            [*below, top],
            references=[reference] if reference is not None else [],
            tagged=True,
            parent=parent,
            container=container,
        )

    def _announce(self, image: Image, reference: Reference | None) -> None:
        if reference is not None:
            self._registrar.event(image.id, reference.familiar, "tag")

    async def _store(self, source: Callable[[Write], Awaitable[str]]) -> _Layer:
        """Store a layer that `source` writes piece by piece, unpacking it at the same time.

        source returns the layer's media type.
        """
        layers = self._registrar.layers
        with self._content.writer() as writer:
            pending = layers.begin(writer.fd, size=None)

            def write(piece: bytes) -> None:
                writer.write(piece)
                if pending is not None:
                    pending.job.advance(writer.offset)

            try:
                media_type = await source(write)
                size = writer.offset
                if pending is not None:
                    pending.job.finish(size)
                digest = writer.commit(later=True)
                return _Layer(Descriptor(media_type, digest, size), pending)
            except BaseException:
                if pending is not None:
                    await layers.drop(pending)
                raise

    async def _diff_id(self, layer: _Layer) -> str:
        if layer.pending is not None:
            unpacked = await layer.pending.job.result()
            return unpacked.diff_id or layer.descriptor.digest
        return await off_loop(self._hash_plain, layer.descriptor.digest)

    def _hash_plain(self, digest: str) -> str:
        import hashlib
        import os

        fd = self._content.open(digest)
        try:
            _, source = decompress(lambda: os.read(fd, 1 << 20))
            plain = hashlib.sha256()
            while piece := source():
                plain.update(piece)
            return "sha256:" + plain.hexdigest()
        finally:
            os.close(fd)

    async def _drop(self, layer: _Layer) -> None:
        """Forget what was not registered."""
        if layer.pending is not None:
            await self._registrar.layers.drop(layer.pending)
        if not self._catalog.uses_blob(layer.descriptor.digest):
            self._content.delete(layer.descriptor.digest)

    def _layers_of(self, image: Image) -> list[LayerDescriptor]:
        manifest = read_manifest(self._content.read(image.manifest, MAX_DOCUMENT))
        return [
            LayerDescriptor(descriptor, LayerBlob(diff_id, descriptor.digest))
            for descriptor, diff_id in zip(manifest.layers, image.diff_ids, strict=True)
        ]

    def _child(self, parent: Image | None, request: CommitRequest, diff_id: str) -> Json:
        """The config of an image made from a container (moby `image.NewChildImage`)."""
        now = format_time(time.time_ns())
        history: list[Json] = []
        base: Json = {}
        if parent is not None:
            raw = self._content.read(parent.id, MAX_DOCUMENT)
            read_config(raw)
            base = msgspec.json.decode(raw)
            history = list(base.get("history") or ())
        step: Json = {"created": now}
        command = " ".join(request.container_config.get("Cmd") or ())
        for key, value in (
            ("created_by", command),
            ("author", request.author),
            ("comment", request.comment),
        ):
            if value:
                step[key] = value
        document: Json = {
            "architecture": (parent.architecture if parent else "") or HOST.architecture,
            "author": request.author,
            "comment": request.comment,
            "config": request.config,
            "container": request.container,
            "container_config": request.container_config,
            "created": now,
            "docker_version": "",
            "history": [*history, step],
            "os": request.os,
            "rootfs": {
                "type": "layers",
                "diff_ids": [*(parent.diff_ids if parent else ()), diff_id],
            },
        }
        for key in ("variant", "os.version", "os.features"):
            if base.get(key):
                document[key] = base[key]
        return {key: value for key, value in document.items() if value not in ("", None)}


@dataclass(frozen=True, slots=True)
class _Layer:
    descriptor: Descriptor
    pending: Pending | None


async def _receive(body: AsyncIterator[bytes], write: Write) -> str:
    def receive(inlet: Inlet) -> str:
        first = inlet.read()
        while first and len(first) < 300 and (more := inlet.read()):
            first += more
        kind = detect(first)
        source: Source = Pushback(inlet.read, first)
        if kind not in MEDIA_TYPES:
            _, source = decompress(source)  # no layer may be compressed like that
        while piece := source():
            write(piece)
        return MEDIA_TYPES.get(kind, OCI_LAYER)

    return await consume(body, receive)


async def _differ(folder: LayerFolder, write: Write) -> str:
    def differ() -> str:
        with opened(folder) as (own, below):
            whole = below[0] if below else None
            for piece in diff_layer(own, whole, folder.flavour, ignore=STARTS_MAKE):
                write(piece)
        return OCI_LAYER

    return await in_thread(differ)
