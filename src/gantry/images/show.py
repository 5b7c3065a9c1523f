"""Looking at images: list, inspect, history, disk usage (moby `daemon/images`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from gantry.content.store import ContentStore
from gantry.images.catalog import Catalog
from gantry.images.filters import Filters, flag, match_labels, path_match, until, validate
from gantry.images.layers import Layers
from gantry.images.ports import ImageUsers
from gantry.model.errors import InvalidParameter
from gantry.model.image import (
    DriverData,
    HistoryItem,
    Image,
    ImageInspect,
    ImageMetadata,
    ImageSummary,
    ManifestDescriptor,
    ManifestImage,
    ManifestSize,
    ManifestSummary,
    RootFS,
    UnpackedSize,
)
from gantry.oci.image import MAX_DOCUMENT, OCI_MANIFEST, format_time, parse_time, read_manifest
from gantry.oci.image_reference import Reference

_LIST = frozenset({"dangling", "label", "before", "since", "until", "reference"})


class _Committed(msgspec.Struct):
    container_config: dict[str, Any] | None = None


class Shower:
    """See the module. Answers come from memory, but for what is said to be read."""

    def __init__(
        self, catalog: Catalog, content: ContentStore, layers: Layers, users: ImageUsers
    ) -> None:
        self._catalog = catalog
        self._content = content
        self._layers = layers
        self._users = users

    def rows(
        self, filters: Filters, *, everything: bool, shared_size: bool, manifests: bool = False
    ) -> list[ImageSummary]:
        """Newest first. manifests: with each image's, which is read from the disk.

        InvalidParameter for a bad filter, NotFound for an image in one.
        """
        validate(filters, _LIST)
        dangling_only = flag(filters, "dangling", False)
        before, since = self._bounds(filters)
        patterns = filters.get("reference") or ()
        shared = self._shared() if shared_size else None
        rows: list[tuple[int, ImageSummary]] = []
        for image in self._catalog.images.values():
            created = image.created_ns
            if before is not None and (created is None or created >= before):
                continue
            if since is not None and (created is None or created <= since):
                continue
            if not match_labels(filters.get("label") or (), image.labels):
                continue
            names = self._names(image, patterns)
            if names is None:
                continue
            tags, digests = names
            parented = bool(self._catalog.children(image.id))
            if not tags and not digests:
                if parented and not everything:
                    continue
                if patterns or ("dangling" in filters and not dangling_only):
                    continue
            if dangling_only and (tags or parented):
                continue
            row = self._summary(image, tags, digests, shared)
            if manifests:
                row = msgspec.structs.replace(row, manifests=[self._manifest(image)])
            rows.append((created or 0, row))
        rows.sort(key=lambda pair: pair[0], reverse=True)
        return [row for _, row in rows]

    def inspect(self, name: str) -> ImageInspect:
        image = self._catalog.resolve(name)
        comment = image.comment
        if not comment and image.history:
            comment = image.history[-1].comment
        data: dict[str, str] | None = None
        if image.chain_id is not None and self._layers.snapshots.exists(image.chain_id):
            data = self._layers.snapshots.graph_driver_data(image.chain_id)
        tagged = image.last_tag_time_ns
        return ImageInspect(
            id=image.id,
            repo_tags=list(image.repo_tags),
            repo_digests=list(image.repo_digests),
            parent=image.parent,
            comment=comment,
            created=format_time(image.created_ns) if image.created_ns is not None else "",
            docker_version=image.docker_version,
            container=image.container,
            container_config=self._container_config(image),
            author=image.author,
            config=image.config,
            architecture=image.architecture,
            variant=image.variant,
            os=image.os,
            os_version=image.os_version,
            size=image.size,
            graph_driver=DriverData(data=data, name=self._layers.snapshots.name),
            root_f_s=RootFS(layers=image.diff_ids),
            metadata=ImageMetadata(last_tag_time=format_time(tagged))
            if tagged
            else ImageMetadata(),
        )

    def _container_config(self, image: Image) -> dict[str, Any] | None:
        """The config of the container that it was committed from: from the disk, as only old
        clients see it."""
        if not image.container:
            return None
        try:
            data = self._content.read(image.id, MAX_DOCUMENT)
            return msgspec.json.decode(data, type=_Committed).container_config
        except msgspec.ValidationError:
            return None

    def history(self, name: str) -> list[HistoryItem]:
        """Newest step first. Steps made here have their images' ids and tags."""
        image = self._catalog.resolve(name)
        sizes = iter(image.layer_sizes)
        steps: list[tuple[str, str, int, int]] = []
        for entry in image.history:
            size = 0
            if not entry.empty_layer:
                try:
                    size = next(sizes)
                except StopIteration:
                    raise InvalidParameter("too many non-empty layers in History section")
            created = parse_time(entry.created)
            steps.append((entry.comment, entry.created_by, (created or 0) // 10**9, size))
        rows: list[HistoryItem] = []
        step_image: Image | None = image
        for comment, created_by, seconds, size in reversed(steps):
            rows.append(
                HistoryItem(
                    comment=comment,
                    created=seconds,
                    created_by=created_by,
                    id=step_image.id if step_image else "<missing>",
                    size=size,
                    tags=(list(step_image.repo_tags) or None) if step_image else None,
                )
            )
            parent = step_image.parent if step_image else ""
            step_image = self._catalog.images.get(parent) if parent else None
        return rows

    def layers_size(self) -> int:
        """Bytes of file data of all layers, each counted once."""
        return sum(self._chain_sizes().values())

    # ---- inside

    def _chain_sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for image in self._catalog.images.values():
            sizes.update(zip(image.chain_ids, image.layer_sizes, strict=True))
        return sizes

    def _shared(self) -> Counter[str]:
        return Counter(
            chain for image in self._catalog.images.values() for chain in image.chain_ids
        )

    def _summary(
        self, image: Image, tags: Sequence[str], digests: Sequence[str], shared: Counter[str] | None
    ) -> ImageSummary:
        shared_size = -1
        if shared is not None:
            shared_size = sum(
                size
                for chain, size in zip(image.chain_ids, image.layer_sizes, strict=True)
                if shared[chain] > 1
            )
        return ImageSummary(
            containers=len(self._users.containers_using(image.id)),
            created=(image.created_ns or 0) // 10**9,
            id=image.id,
            labels=image.config.labels,
            parent_id=image.parent,
            repo_digests=list(digests),
            repo_tags=list(tags),
            shared_size=shared_size,
            size=image.size,
        )

    def _manifest(self, image: Image) -> ManifestSummary:
        record = self._catalog.records[image.id]
        raw = self._content.read(record.manifest, MAX_DOCUMENT)
        blobs = sum(self._content.size(digest) or 0 for digest in (*record.blobs, record.id))
        content = len(raw) + blobs
        platform = {"architecture": image.architecture, "os": image.os, "variant": image.variant}
        users = [container for container, _ in self._users.containers_using(image.id)]
        return ManifestSummary(
            id=record.manifest,
            descriptor=ManifestDescriptor(
                media_type=read_manifest(raw).media_type or OCI_MANIFEST,
                digest=record.manifest,
                size=len(raw),
            ),
            size=ManifestSize(content=content, total=content + image.size),
            image_data=ManifestImage(
                platform={key: value for key, value in platform.items() if value},
                containers=users,
                size=UnpackedSize(unpacked=image.size),
            ),
        )

    def _names(
        self, image: Image, patterns: Sequence[str]
    ) -> tuple[Sequence[str], Sequence[str]] | None:
        """(tags, digests) that fit the reference filter; None when there is one and none fits."""
        if not patterns:
            return image.repo_tags, image.repo_digests
        tags: list[str] = []
        digests: list[str] = []
        for reference in self._catalog.names_of(image.id):
            if _fits(reference, patterns):
                (digests if reference.digest else tags).append(reference.familiar)
        return (tags, digests) if tags or digests else None

    def _bounds(self, filters: Filters) -> tuple[int | None, int | None]:
        """(created before, created after), ns; several values are all to hold."""
        before: list[int] = []
        since: list[int] = []
        for bound, name in ((before, "before"), (since, "since")):
            for value in filters.get(name) or ():
                created = self._catalog.resolve(value).created_ns
                if created is not None:
                    bound.append(created)
        for value in filters.get("until") or ():
            before.append(until(value))
        return min(before, default=None), max(since, default=None)


def _fits(reference: Reference, patterns: Sequence[str]) -> bool:
    texts = (
        reference.familiar,
        reference.familiar_name,
        str(reference.with_default_tag()),
        reference.name,
    )
    return any(path_match(pattern, text) for pattern in patterns for text in texts)
