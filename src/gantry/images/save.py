"""`docker save`: images as an OCI layout with `manifest.json` beside its index, so that every
engine since Docker 1.10 reads it. Blobs go out as they are: all digests survive.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import msgspec

from gantry.archive import header
from gantry.archive.header import BLOCK, Entry
from gantry.images.bridge import outlet
from gantry.images.platforms import Wanted, matches, parse_one
from gantry.images.registrar import Registrar
from gantry.model.errors import InvalidParameter, NotFound
from gantry.model.image import Image
from gantry.model.image_record import ImageRecord
from gantry.oci.image import (
    IMAGE_NAME,
    MAX_DOCUMENT,
    OCI_INDEX,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    Index,
    Platform,
    read_manifest,
)
from gantry.oci.image_reference import Reference, parse_any

_PIECE: Final = 1 << 20
_LAYOUT: Final = b'{"imageLayoutVersion": "1.0.0"}'


class Saver:
    """See the module."""

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar
        self._catalog = registrar.catalog
        self._content = registrar.content

    async def save(self, names: Sequence[str], *, platform: str) -> AsyncIterator[bytes]:
        """The archive's bytes. NotFound and the like come before the first of them."""
        wanted = parse_one(platform)
        images = self._select(names, wanted)
        digests = [
            digest
            for identity, _ in images
            for digest in _blobs(self._catalog.records[identity.id])
        ]
        chains = [chain for image, _ in images for chain in image.chain_ids]
        with self._catalog.holding(chains, digests):
            missing = next((d for d in digests if not self._content.exists(d)), None)
            if missing is not None:
                raise NotFound(f"content digest {missing}: not found")
            async for piece in outlet(self._archive(images)):
                yield piece
        for image, _ in images:
            self._registrar.event(image.id, image.id, "save")

    def _select(
        self, names: Sequence[str], wanted: Wanted | None
    ) -> list[tuple[Image, list[Reference]]]:
        chosen: dict[str, tuple[Image, list[Reference]]] = {}

        def add(image: Image, reference: Reference | None) -> None:
            if wanted is not None and not matches(
                image.os, image.architecture, image.variant, wanted
            ):
                raise InvalidParameter(f"no suitable export target found for platform {wanted}")
            _, references = chosen.setdefault(image.id, (image, []))
            if reference is not None and reference.tag and reference not in references:
                references.append(reference)

        for name in names:
            meant = parse_any(name)
            if isinstance(meant, str):
                add(self._catalog.resolve(name), None)
            elif not meant.tag and not meant.digest:
                # A bare name is the whole repository.
                found = self._catalog.names_in(meant.name)
                for reference, identity in found:
                    add(self._catalog.images[identity], None if reference.digest else reference)
                if not found:
                    try:
                        add(self._catalog.resolve(name), None)
                    except NotFound:
                        raise NotFound(f"No such image: {name}")
            else:
                try:
                    image = self._catalog.resolve(name)
                except NotFound:
                    raise NotFound("reference does not exist") from None
                add(image, meant if self._catalog.find(meant) and not meant.digest else None)
        return list(chosen.values())

    def _archive(self, images: Sequence[tuple[Image, Sequence[Reference]]]) -> Iterator[bytes]:
        yield _folder(b"blobs") + _folder(b"blobs/sha256")
        done: set[str] = set()
        saved = {image.id for image, _ in images}
        items: list[dict[str, object]] = []
        descriptors: list[Descriptor] = []
        for image, references in images:
            record = self._catalog.records[image.id]
            raw = self._content.read(record.manifest, MAX_DOCUMENT)
            for digest in _blobs(record):
                if digest not in done:
                    done.add(digest)
                    yield from self._blob(digest)
            item: dict[str, object] = {
                "Config": _path(image.id),
                "RepoTags": [reference.familiar for reference in references] or None,
                "Layers": [_path(digest) for digest in record.blobs],
            }
            if image.parent in saved:
                item["Parent"] = image.parent
            items.append(item)
            kind = read_manifest(raw).media_type or OCI_MANIFEST
            plain = Descriptor(kind, record.manifest, len(raw), platform=_platform(image))
            descriptors.extend(_named(plain, references))
        index = Index(schema_version=2, media_type=OCI_INDEX, manifests=descriptors)
        yield _file(b"index.json", msgspec.json.encode(index))
        yield _file(b"manifest.json", msgspec.json.encode(items))
        yield _file(b"oci-layout", _LAYOUT)
        legacy = self._legacy(images)
        if legacy:
            yield _file(b"repositories", msgspec.json.encode(legacy))
        yield b"\0" * (2 * BLOCK)

    def _blob(self, digest: str) -> Iterator[bytes]:
        fd = self._content.open(digest)
        try:
            size = os.fstat(fd).st_size
            yield header.build(Entry(_path(digest).encode(), size=size))
            while piece := os.read(fd, _PIECE):
                yield piece
            if size % BLOCK:
                yield b"\0" * (-size % BLOCK)
        finally:
            os.close(fd)

    @staticmethod
    def _legacy(
        images: Sequence[tuple[Image, Sequence[Reference]]],
    ) -> dict[str, dict[str, str]]:
        """`repositories`: name → tag → top layer, for readers of before 1.10."""
        found: dict[str, dict[str, str]] = {}
        for image, references in images:
            for reference in references:
                top = image.diff_ids[-1].partition(":")[2] if image.diff_ids else ""
                found.setdefault(reference.familiar_name, {})[reference.tag] = top
        return found


def _blobs(record: ImageRecord) -> list[str]:
    return [*record.blobs, record.id, record.manifest]


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _folder(name: bytes) -> bytes:
    return header.build(Entry(name + b"/", header.DIRECTORY, 0o755))


def _file(name: bytes, data: bytes) -> bytes:
    return header.build(Entry(name, size=len(data))) + data + b"\0" * (-len(data) % BLOCK)


def _platform(image: Image) -> Platform:
    return Platform(image.architecture, image.os, variant=image.variant)


def _named(plain: Descriptor, references: Sequence[Reference]) -> list[Descriptor]:
    """Entries of index.json: one a tag."""
    return [
        Descriptor(
            plain.media_type,
            plain.digest,
            plain.size,
            annotations={IMAGE_NAME: str(reference), REF_NAME: reference.tag},
            platform=plain.platform,
        )
        for reference in references
    ] or [plain]
