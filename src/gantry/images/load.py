"""`docker load`: an archive of images, read once, in one pass.

While the archive streams by, its members become blobs (`images.intake`); then its own index
says what belongs to what. What turns out to belong to nothing is dropped.

Understood are docker-archive (`manifest.json`, as `docker save` of any version since 1.10
writes) and OCI image layouts (`index.json`), each plain or compressed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import msgspec

from gantry.archive.compression import Compression, detect
from gantry.content.store import ContentStore
from gantry.images import messages
from gantry.images.bridge import consume, narrated
from gantry.images.intake import LOADING, Archive, Intake, Member
from gantry.images.layers import LayerBlob, Pending
from gantry.images.messages import Message, Say
from gantry.images.platforms import HOST, Wanted, choose, matches, parse_one
from gantry.images.registrar import LayerDescriptor, Registrar
from gantry.kernel.memory import release
from gantry.model.errors import InvalidParameter, NotFound
from gantry.oci.image import (
    IMAGE_NAME,
    INDEXES,
    MANIFESTS,
    MAX_DOCUMENT,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    REF_NAME,
    Descriptor,
    Manifest,
    read_config,
    read_index,
    read_manifest,
)
from gantry.oci.image_digest import chain_ids
from gantry.oci.image_reference import Reference, parse

MEDIA_TYPES: Final = {
    Compression.NONE: OCI_LAYER,
    Compression.GZIP: OCI_LAYER_GZIP,
    Compression.ZSTD: OCI_LAYER_ZSTD,
}


class _Item(msgspec.Struct, rename="pascal"):
    """One image of manifest.json."""

    config: str = ""
    repo_tags: list[str] | None = None
    layers: list[str] | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class _Image:
    """One image to register."""

    config: str
    layers: list[Member | str]
    names: list[Reference]
    parent: str = ""
    manifest: str = ""


class Loader:
    """See the module."""

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar
        self._content: ContentStore = registrar.content

    async def load(
        self, body: AsyncIterator[bytes], *, quiet: bool, platform: str = ""
    ) -> AsyncIterator[Message]:
        """The messages of `docker load`; InvalidParameter when the archive is none.

        platform: images of others are left out; NotFound when there is none of it.
        """
        wanted = parse_one(platform)
        archive = Archive()

        async def reading(say: Say) -> None:
            intake = Intake(self._content, self._registrar.layers, archive, None if quiet else say)
            await consume(body, lambda inlet: intake.read(inlet.read))

        try:
            async with narrated(reading) as said:
                async for message in said:
                    yield message
            with self._registrar.catalog.holding((), archive.fresh):
                async for message in self._register(archive, quiet, wanted):
                    yield message
        finally:
            await self._drop(archive)
            release()

    # ---- registering

    async def _register(
        self, archive: Archive, quiet: bool, wanted: Wanted | None
    ) -> AsyncIterator[Message]:
        images = self._images(archive, wanted or HOST)
        ids: list[str] = []
        named = 0
        registered: dict[str, str] = {}
        for image in _parents_first(images):
            config = self._content.read(image.config, MAX_DOCUMENT)
            document = read_config(config)
            if document.os not in ("", "linux"):
                raise InvalidParameter(f"cannot load {document.os} image on linux")
            own = (document.os or "linux", document.architecture, document.variant)
            if wanted is not None and not matches(*own, wanted):
                continue
            if len(document.diff_ids) != len(image.layers):
                raise InvalidParameter(
                    "invalid manifest, layers length mismatch: expected"
                    f" {len(image.layers)}, got {len(document.diff_ids)}"
                )
            manifest, layers = self._layers(archive, image, document.diff_ids)
            missing = [] if quiet else self._untold(archive, layers)
            for reference in image.names:
                old = self._registrar.catalog.find(reference)
                if old is not None and old != image.config:
                    yield messages.stream(
                        f"The image {reference.familiar} already exists, renaming the old one"
                        f" with ID {old} to empty string\n"
                    )
            done = await self._registrar.register(
                config,
                layers,
                manifest=manifest,
                references=image.names,
                parent=registered.get(image.parent, ""),
            )
            for layer in missing:
                size = layer.descriptor.size
                yield messages.progress(LOADING, messages.short(layer.layer.diff_id), size, size)
            registered[image.config] = done.id
            ids.append(done.id)
            named = 0  # as Docker: the last image's count says whether ids are told
            for reference in image.names:
                named += 1
                yield messages.stream(f"Loaded image: {reference.familiar}\n")
            self._registrar.event(done.id, done.id, "load")
        if wanted is not None and not ids:
            raise NotFound(f"requested platform(s) ([{wanted}]) not found")
        if not named:
            for identity in ids:
                yield messages.stream(f"Loaded image ID: {identity}\n")

    def _untold(self, archive: Archive, layers: list[LayerDescriptor]) -> list[LayerDescriptor]:
        """New layers that were too small to tell of while they came."""
        chain = chain_ids(tuple(layer.layer.diff_id for layer in layers))
        return [
            layer
            for layer, chain_id in zip(layers, chain, strict=True)
            if layer.descriptor.digest not in archive.shown
            and not self._registrar.layers.snapshots.exists(chain_id)
        ]

    def _layers(
        self, archive: Archive, image: _Image, diff_ids: tuple[str, ...]
    ) -> tuple[bytes | None, list[LayerDescriptor]]:
        """The layers as blobs, and the manifest they came with, where there is one."""
        manifest: Manifest | None = None
        raw: bytes | None = None
        if image.manifest:
            raw = self._content.read(image.manifest, MAX_DOCUMENT)
            manifest = read_manifest(raw)
        found: list[LayerDescriptor] = []
        for i, (member, diff_id) in enumerate(zip(image.layers, diff_ids, strict=True)):
            if manifest is not None:
                descriptor = manifest.layers[i]
                if self._content.size(descriptor.digest) != descriptor.size:
                    raise InvalidParameter(f"invalid archive: layer {descriptor.digest} is missing")
                pending = _pending_of(archive, descriptor.digest)
            else:
                assert isinstance(member, Member)
                kind = detect(member.head)
                if kind not in MEDIA_TYPES:
                    raise InvalidParameter(f"unsupported layer compression {kind.value}")
                descriptor = Descriptor(MEDIA_TYPES[kind], member.digest, member.size)
                pending = member.pending
            found.append(
                LayerDescriptor(descriptor, LayerBlob(diff_id, descriptor.digest, pending))
            )
        return raw, found

    def _images(self, archive: Archive, wanted: Wanted) -> list[_Image]:
        text = archive.texts.get(b"manifest.json")
        if text is not None:
            return self._docker_archive(archive, text)
        if b"index.json" in archive.texts and b"oci-layout" in archive.texts:
            return self._layout(archive.texts[b"index.json"], wanted)
        raise InvalidParameter("invalid archive: does not contain a manifest.json")

    def _docker_archive(self, archive: Archive, text: bytes) -> list[_Image]:
        try:
            items = msgspec.json.decode(text, type=list[_Item] | None)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"invalid archive: failed to decode manifest.json: {error}")
        if items is None:
            raise InvalidParameter("invalid manifest, manifest cannot be null (but can be [])")
        manifests = self._manifests_by_config(archive)
        images: list[_Image] = []
        for item in items:
            config = archive.member(item.config)
            if config is None:
                raise InvalidParameter(f"invalid archive: {item.config or 'config'} is missing")
            layers: list[Member | str] = []
            for path in item.layers or ():
                layer = archive.member(path)
                if layer is None:
                    raise InvalidParameter(f"invalid archive: {path} is missing")
                layers.append(layer)
            names: list[Reference] = []
            for tag in item.repo_tags or ():
                reference = parse(tag)
                if not reference.tag:
                    raise InvalidParameter(f'invalid tag "{tag}"')
                names.append(reference)
            manifest = manifests.get(config.digest, "")
            if manifest:
                listed = read_manifest(self._content.read(manifest, MAX_DOCUMENT)).layers
                if len(listed) != len(layers) or not all(
                    self._content.size(one.digest) == one.size for one in listed
                ):
                    manifest = ""  # an index beside the point: go by the files
            images.append(_Image(config.digest, layers, names, item.parent or "", manifest))
        return images

    def _manifests_by_config(self, archive: Archive) -> dict[str, str]:
        """Manifests that `docker save` put beside: their digests survive the round trip."""
        found: dict[str, str] = {}
        if b"index.json" in archive.texts:
            with contextlib.suppress(InvalidParameter):
                for descriptor, manifest in self._walk(archive.texts[b"index.json"]):
                    found.setdefault(manifest.config.digest, descriptor.digest)
        return found

    def _walk(self, index: bytes, depth: int = 0) -> list[tuple[Descriptor, Manifest]]:
        """All image manifests an index leads to, as far as they are here."""
        found: list[tuple[Descriptor, Manifest]] = []
        for descriptor in read_index(index).manifests:
            with contextlib.suppress(NotFound):
                if descriptor.media_type in INDEXES:
                    if depth < 4:
                        nested = self._content.read(descriptor.digest, MAX_DOCUMENT)
                        found.extend(
                            (one, manifest) for one, manifest in self._walk(nested, depth + 1)
                        )
                elif descriptor.media_type in MANIFESTS:
                    data = self._content.read(descriptor.digest, MAX_DOCUMENT)
                    found.append((descriptor, read_manifest(data)))
        return found

    def _layout(self, text: bytes, wanted: Wanted) -> list[_Image]:
        images: dict[str, _Image] = {}
        for descriptor in read_index(text).manifests:
            names = _names(descriptor)
            digest = self._select(descriptor, wanted)
            if digest is None:
                continue
            manifest = read_manifest(self._content.read(digest, MAX_DOCUMENT))
            if manifest.config.digest in images:
                images[manifest.config.digest].names.extend(names)
                continue
            layers: list[Member | str] = [layer.digest for layer in manifest.layers]
            images[manifest.config.digest] = _Image(
                manifest.config.digest, layers, names, "", digest
            )
        return list(images.values())

    def _select(self, descriptor: Descriptor, wanted: Wanted, depth: int = 0) -> str | None:
        """The manifest for a platform that a descriptor leads to."""
        if descriptor.media_type in MANIFESTS:
            return descriptor.digest if self._content.exists(descriptor.digest) else None
        if descriptor.media_type not in INDEXES or depth > 4:
            return None
        index = read_index(self._content.read(descriptor.digest, MAX_DOCUMENT))
        here = [
            one
            for one in index.manifests
            if one.media_type in INDEXES or self._content.exists(one.digest)
        ]
        chosen = choose(here, wanted)
        return self._select(chosen, wanted, depth + 1) if chosen is not None else None

    async def _drop(self, archive: Archive) -> None:
        for pending in archive.begun:
            await self._registrar.layers.drop(pending)
        for digest in archive.fresh:
            if not self._registrar.catalog.uses_blob(digest):
                self._content.delete(digest)


def _parents_first(images: list[_Image]) -> list[_Image]:
    """In order, but none before its parent; where parents go in a circle, as they are."""
    left = list(images)
    ordered: list[_Image] = []
    while left:
        waiting = {image.config for image in left}
        ready = [image for image in left if image.parent not in waiting - {image.config}]
        ordered += ready or left
        left = [image for image in left if image not in ready] if ready else []
    return ordered


def _pending_of(archive: Archive, digest: str) -> Pending | None:
    for member in archive.members.values():
        if member.digest == digest and member.pending is not None:
            return member.pending
    return None


def _names(descriptor: Descriptor) -> list[Reference]:
    annotations = descriptor.annotations or {}
    for key in (IMAGE_NAME, REF_NAME):
        text = annotations.get(key, "")
        if text and (key == IMAGE_NAME or ":" in text or "/" in text):
            with contextlib.suppress(InvalidParameter):
                return [parse(text).with_default_tag()]
    return []
