"""Takes whole images into the catalog: the last step of load, import, pull, commit and build.

An image is registered when its config, its manifest and all its layers' blobs are in the
content store and its snapshots are committed; then one transaction makes it exist. Before
that, a crash leaves only things that nobody refers to, and start-up deletes these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from gantry.content.store import ContentStore
from gantry.images.bridge import off_loop
from gantry.images.catalog import Catalog
from gantry.images.layers import LayerBlob, Layers
from gantry.images.ports import Emit, ImageStore
from gantry.model.errors import Conflict, InvalidParameter, NotFound
from gantry.model.image import Image
from gantry.model.image_record import BlobSource, Change, ImageRecord, ReferenceRecord
from gantry.oci.image import (
    MAX_DOCUMENT,
    OCI_CONFIG,
    OCI_MANIFEST,
    ConfigDocument,
    Descriptor,
    Manifest,
    read_config,
)
from gantry.oci.image_digest import chain_ids, sha256_digest
from gantry.oci.image_reference import Reference


@dataclass(frozen=True, slots=True)
class LayerDescriptor:
    """A layer's blob as a manifest shall list it."""

    descriptor: Descriptor
    layer: LayerBlob


class Registrar:
    """The parts that every way in shares."""

    def __init__(
        self,
        catalog: Catalog,
        store: ImageStore,
        content: ContentStore,
        layers: Layers,
        emit: Emit,
    ) -> None:
        self.catalog = catalog
        self.store = store
        self.content = content
        self.layers = layers
        self._emit = emit
        self.orphans: set[str] = set()
        """Snapshots of images that are gone, which only containers hold."""

    # ---- images

    async def register(
        self,
        config: bytes,
        layers: Sequence[LayerDescriptor],
        *,
        manifest: bytes | None = None,
        references: Sequence[Reference] = (),
        sources: Sequence[BlobSource] = (),
        parent: str = "",
        container: str = "",
        done: Callable[[int], None] | None = None,
        drop_leases: Sequence[str] = (),
        tagged: bool = False,
    ) -> Image:
        """Unpack what is missing and make the image exist, with its names.

        tagged: its names were given here, which `LastTagTime` tells of.

        config and manifest are stored as they are; without a manifest one is made. Errors as
        `Layers.assemble`; nothing is registered then.
        """
        document = read_config(config)
        if len(document.diff_ids) != len(layers):
            raise InvalidParameter(
                f"invalid manifest, layers length mismatch: expected {len(layers)},"
                f" got {len(document.diff_ids)}"
            )
        blobs = [layer.descriptor.digest for layer in layers]
        chain = chain_ids(document.diff_ids)
        identity = sha256_digest(config)
        if manifest is None:
            manifest = make_manifest(identity, len(config), layers)
        digest = sha256_digest(manifest)
        try:
            with self.catalog.holding(chain, (*blobs, identity, digest)):
                sizes = await self.layers.assemble([layer.layer for layer in layers], done)
                for text in (config, manifest):
                    await off_loop(self.content.put, text)
                await off_loop(self.content.settle)
                return await self._commit(
                    ImageRecord(
                        identity, digest, tuple(blobs), sizes, parent=parent, container=container
                    ),
                    document,
                    references,
                    Change(put_sources=sources, drop_leases=drop_leases),
                    tagged=tagged,
                )
        except BaseException:
            self.drop_layers(chain)
            raise

    async def _commit(
        self,
        record: ImageRecord,
        document: ConfigDocument,
        references: Sequence[Reference],
        more: Change,
        *,
        tagged: bool,
    ) -> Image:
        known = self.catalog.records.get(record.id)
        if known is not None:
            # The same image again: it keeps its family and the manifest it came with first.
            record = replace(
                known,
                parent=known.parent or record.parent,
                container=known.container or record.container,
            )
        if tagged and references:
            record = replace(record, last_tag_time_ns=time.time_ns())
        names = [ReferenceRecord(str(reference), record.id) for reference in references]
        await self.store.apply(replace(more, put_images=(record,), put_references=names))
        self.catalog.add(record, document)
        for name in names:
            self.catalog.point(name)
        return self.catalog.images[record.id]

    async def point(
        self,
        image: Image,
        names: Sequence[ReferenceRecord],
        sources: Sequence[BlobSource] = (),
        *,
        tag: bool = True,
    ) -> None:
        """Give an image names, taken from other images if need be. tag: it counts as tagging.

        NotFound when the image was removed meanwhile.
        """
        if image.id not in self.catalog.records:
            raise NotFound(f"No such image: {image.id}")
        record = self.catalog.records[image.id]
        if tag:
            record = replace(record, last_tag_time_ns=time.time_ns())
        await self.store.apply(
            Change(put_images=(record,), put_references=names, put_sources=sources)
        )
        if image.id not in self.catalog.images:
            await self.store.apply(
                Change(drop_images=(image.id,), drop_references=[name.name for name in names])
            )
            raise NotFound(f"No such image: {image.id}")
        self.catalog.set_record(record)
        for name in names:
            self.catalog.point(name)

    def read_document(self, record: ImageRecord) -> ConfigDocument:
        return read_config(self.content.read(record.id, MAX_DOCUMENT))

    def drop_layers(self, chain: Sequence[str]) -> list[str]:
        """Remove the snapshots of a chain that no image needs, the top first; their names."""
        gone: list[str] = []
        for chain_id in reversed(chain):
            if self.catalog.uses_chain(chain_id):
                break
            try:
                self.layers.snapshots.remove(chain_id)
            except NotFound:
                continue
            except Conflict:
                self.orphans.update(chain[: chain.index(chain_id) + 1])
                break  # a container's layer lies on it
            self.layers.sizes.pop(chain_id, None)
            gone.append(chain_id)
        return gone

    def drop_orphans(self) -> None:
        """Remove those of `orphans` that nothing lies on any more and no image needs again."""
        snapshots = self.layers.snapshots
        gone = True
        while gone and self.orphans:
            gone = False
            for chain_id in list(self.orphans):
                if not self.catalog.uses_chain(chain_id):
                    try:
                        snapshots.remove(chain_id)
                    except Conflict:
                        continue
                    except NotFound:
                        pass
                    self.layers.sizes.pop(chain_id, None)
                self.orphans.discard(chain_id)
                gone = True

    # ---- events

    def event(self, image_id: str, name: str, action: str) -> None:
        """An image event with Docker's attributes: the labels, and the name."""
        image = self.catalog.images.get(image_id)
        attributes: dict[str, str] = dict(image.labels) if image is not None else {}
        if name:
            attributes["name"] = name
        self._emit("image", action, image_id, attributes)

    def pull_event(self, reference: Reference) -> None:
        """What moby tells of a pull: the name is the actor."""
        self._by_name(reference, "pull")

    def push_event(self, reference: Reference) -> None:
        self._by_name(reference, "push")

    def _by_name(self, reference: Reference, action: str) -> None:
        image = self.catalog.images.get(self.catalog.find(reference) or "")
        attributes = dict(image.labels) if image is not None else {}
        attributes["name"] = reference.familiar_name
        self._emit("image", action, reference.familiar, attributes)

    def emit_prune(self, attributes: Mapping[str, str]) -> None:
        self._emit("image", "prune", "", attributes)


def make_manifest(config: str, size: int, layers: Sequence[LayerDescriptor]) -> bytes:
    """An OCI manifest for an image that came without one."""
    return msgspec.json.encode(
        Manifest(
            schema_version=2,
            media_type=OCI_MANIFEST,
            config=Descriptor(OCI_CONFIG, config, size),
            layers=[layer.descriptor for layer in layers],
        )
    )
