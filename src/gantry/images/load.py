"""`docker load`: an archive of images, read once, in one pass.

Every member becomes a blob of the content store while it streams by, hashed on the way, and
what looks like a layer is unpacked by a worker at the same time; the archive's own index
comes last in most archives, and only then it is known what belongs to what. What turns out
to belong to nothing is dropped.

Understood are docker-archive (`manifest.json`, as `docker save` of any version since 1.10
writes) and OCI image layouts (`index.json`), each plain or compressed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gantry.archive import header
from gantry.archive.apply import clean
from gantry.archive.compression import Compression, decompress, detect
from gantry.archive.header import Entry
from gantry.archive.reader import TarReader
from gantry.content.store import ContentStore, Writer
from gantry.images import messages
from gantry.images.bridge import Inlet, consume
from gantry.images.layers import LayerBlob, Pending
from gantry.images.messages import Message
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
from gantry.oci.image_digest import is_digest
from gantry.oci.image_reference import Reference, parse

_SMALL: Final = 1 << 20
"""Bytes: what is smaller may be JSON and is kept in memory while loading."""
_LINKS: Final = 10

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


@dataclass(slots=True)
class _Member:
    digest: str
    size: int
    head: bytes
    pending: Pending | None = None


@dataclass(slots=True)
class _Archive:
    """What has been read. fresh: digests that this load has added to the content store."""

    members: dict[bytes, _Member] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)
    texts: dict[bytes, bytes] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    begun: list[Pending] = field(default_factory=list)

    def member(self, path: str) -> _Member | None:
        """By name, through the symlinks of the archive itself."""
        name = clean(path.encode("utf-8", "surrogateescape"))
        for _ in range(_LINKS):
            found = self.members.get(name)
            if found is not None:
                return found
            if name not in self.links:
                return None
            name = self.links[name]
        return None


@dataclass(frozen=True, slots=True)
class _Image:
    """One image to register."""

    config: str
    layers: list[_Member | str]
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
        archive = _Archive()
        loop = asyncio.get_running_loop()
        try:
            await consume(body, lambda inlet: self._read(inlet, archive, loop))
            with self._registrar.catalog.holding((), archive.fresh):
                async for message in self._register(archive, quiet, wanted):
                    yield message
        finally:
            await self._drop(archive)
            release()

    # ---- reading, in a thread

    def _read(self, inlet: Inlet, archive: _Archive, loop: asyncio.AbstractEventLoop) -> None:
        _, source = decompress(inlet.read)
        reader = TarReader(source)
        for entry in reader:
            name = clean(entry.name)
            if entry.type == header.REGULAR:
                self._member(name, entry, reader, archive, loop)
            elif entry.type == header.SYMLINK:
                folder = name.rpartition(b"/")[0]
                with contextlib.suppress(InvalidParameter):
                    archive.links[name] = clean(folder + b"/" + entry.link)
            elif entry.type == header.HARDLINK:
                archive.links[name] = clean(entry.link)

    def _member(
        self,
        name: bytes,
        entry: Entry,
        reader: TarReader,
        archive: _Archive,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        if entry.sparse is not None:
            raise InvalidParameter("invalid archive: sparse member")
        if entry.size <= _SMALL:
            data = reader.read(_SMALL)
            if name in (b"manifest.json", b"index.json", b"oci-layout", b"repositories"):
                archive.texts[name] = data
                return
            with self._content.writer() as writer:
                writer.write(data)
                self._store(name, writer, _Member("", entry.size, data[:16]), archive)
            return
        digest = _named_digest(name)
        if digest is not None and self._content.size(digest) == entry.size:
            head = b""
            for piece in reader.data():
                head = head or bytes(piece[:16])
                break
            archive.members[name] = _Member(digest, entry.size, head)
            return
        self._large(name, entry, reader, archive, loop)

    def _large(
        self,
        name: bytes,
        entry: Entry,
        reader: TarReader,
        archive: _Archive,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        pending: Pending | None = None
        head = b""
        with self._content.writer() as writer:
            for piece in reader.data():
                if not head:
                    head = bytes(piece[:300])
                    if _layer_like(head):
                        begin = self._begin(writer.fd, entry.size)
                        pending = asyncio.run_coroutine_threadsafe(begin, loop).result()
                        archive.begun.extend([pending] if pending else [])
                writer.write(piece)
                if pending is not None:
                    pending.job.advance(writer.offset)
            if pending is not None:
                pending.job.finish(writer.offset)
            member = _Member("", entry.size, head[:16], pending)
            self._store(name, writer, member, archive)

    async def _begin(self, fd: int, size: int) -> Pending | None:
        return self._registrar.layers.begin(fd, size=size)

    def _store(self, name: bytes, writer: Writer, member: _Member, archive: _Archive) -> None:
        digest = writer.digest()
        named = _named_digest(name)
        if named is not None and named.startswith("sha256:") and named != digest:
            raise InvalidParameter(f"invalid archive: {name.decode()} has digest {digest}")
        if self._content.exists(digest):
            writer.abort()
        else:
            writer.commit(later=True)
            archive.fresh.add(digest)
        member.digest = digest
        archive.members[name] = member

    # ---- registering

    async def _register(
        self, archive: _Archive, quiet: bool, wanted: Wanted | None
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
            missing = [layer for layer in layers if not quiet and layer.layer.pending is not None]
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
                yield messages.progress(
                    "Loading layer", messages.short(layer.layer.diff_id), size, size
                )
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

    def _layers(
        self, archive: _Archive, image: _Image, diff_ids: tuple[str, ...]
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
                assert isinstance(member, _Member)
                kind = detect(member.head)
                if kind not in MEDIA_TYPES:
                    raise InvalidParameter(f"unsupported layer compression {kind.value}")
                descriptor = Descriptor(MEDIA_TYPES[kind], member.digest, member.size)
                pending = member.pending
            found.append(
                LayerDescriptor(descriptor, LayerBlob(diff_id, descriptor.digest, pending))
            )
        return raw, found

    def _images(self, archive: _Archive, wanted: Wanted) -> list[_Image]:
        text = archive.texts.get(b"manifest.json")
        if text is not None:
            return self._docker_archive(archive, text)
        if b"index.json" in archive.texts and b"oci-layout" in archive.texts:
            return self._layout(archive.texts[b"index.json"], wanted)
        raise InvalidParameter("invalid archive: does not contain a manifest.json")

    def _docker_archive(self, archive: _Archive, text: bytes) -> list[_Image]:
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
            layers: list[_Member | str] = []
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

    def _manifests_by_config(self, archive: _Archive) -> dict[str, str]:
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
            layers: list[_Member | str] = [layer.digest for layer in manifest.layers]
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

    async def _drop(self, archive: _Archive) -> None:
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


def _pending_of(archive: _Archive, digest: str) -> Pending | None:
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


def _named_digest(name: bytes) -> str | None:
    """The digest that a layout's file name promises."""
    parts = name.split(b"/")
    if len(parts) == 3 and parts[0] == b"blobs":
        digest = b":".join(parts[1:]).decode("latin-1")
        return digest if is_digest(digest) else None
    return None


def _layer_like(head: bytes) -> bool:
    return detect(head) is not Compression.NONE or head[257:262] == b"ustar"
