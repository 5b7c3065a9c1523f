"""The images that are here, in memory: by id, by name, by what they share.

The store is the truth and this its cache: every change goes to the store first. Nothing here
blocks or awaits, so every look is consistent in itself. Reference counts of layers and blobs
say what may be deleted; an operation that needs some for a while *holds* them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from gantry.model.errors import NotFound
from gantry.model.image import Image
from gantry.model.image_record import ImageRecord, ReferenceRecord
from gantry.oci.image import ConfigDocument, parse_time
from gantry.oci.image_digest import chain_ids
from gantry.oci.image_reference import Reference, parse, parse_any


class Catalog:
    """See the module. Not thread-safe: the event loop's own."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.records: dict[str, ImageRecord] = {}
        self.references: dict[str, str] = {}
        """Full name → image id."""
        self._names: dict[str, set[str]] = {}
        self._children: dict[str, set[str]] = {}
        self._chains: Counter[str] = Counter()
        self._blobs: Counter[str] = Counter()
        self.generation = 0
        """Changes whenever anything does: for caches of answers."""

    # ---- looking

    def resolve(self, name: str) -> Image:
        """The image that a user means: a reference, a full id or a unique prefix of one.

        NotFound with Docker's text; InvalidParameter where the name is malformed.
        """
        image_id = self.references.get(name)  # already normalised, as records hold it
        if image_id is None:
            meant = parse_any(name)
            if isinstance(meant, str):
                image = self.images.get(meant)
                if image is None:
                    raise NotFound(f"No such image: {meant}")
                return image
            image_id = self.find(meant) or self._by_prefix(name)
            if image_id is None:
                raise NotFound(f"No such image: {meant.with_default_tag().familiar}")
        return self.images[image_id]

    def find(self, reference: Reference) -> str | None:
        """The id that a reference has, `latest` by default; a digest wins over a tag."""
        if reference.digest:
            reference = reference.with_digest(reference.digest)
        return self.references.get(str(reference.with_default_tag()))

    def _by_prefix(self, name: str) -> str | None:
        prefix = name.removeprefix("sha256:")
        if not prefix or not all(c in "0123456789abcdef" for c in prefix):
            return None
        found = [i for i in self.images if i.startswith(prefix, 7)]
        return found[0] if len(found) == 1 else None

    def names_of(self, image_id: str) -> list[Reference]:
        """All references of an image: sorted as texts."""
        return [parse(name) for name in sorted(self._names.get(image_id, ()))]

    def names_in(self, repository: str) -> list[tuple[Reference, str]]:
        """(reference, image id) of all in a repository (its full name)."""
        found = [(parse(name), image) for name, image in self.references.items()]
        return sorted(
            ((ref, image) for ref, image in found if ref.name == repository),
            key=lambda pair: str(pair[0]),
        )

    def children(self, image_id: str) -> set[str]:
        return self._children.get(image_id, set())

    def uses_chain(self, chain_id: str) -> int:
        """How many images and holders need a committed snapshot."""
        return self._chains[chain_id]

    def uses_blob(self, digest: str) -> int:
        return self._blobs[digest]

    # ---- changing

    def add(self, record: ImageRecord, document: ConfigDocument) -> Image:
        """Take an image in, or its new record."""
        self.generation += 1
        if record.id in self.images:
            self.drop(record.id)
        image = _image(record, document)
        self.records[record.id] = record
        self._chains.update(image.chain_ids)
        self._blobs.update(_blobs(record))
        if record.parent:
            self._children.setdefault(record.parent, set()).add(record.id)
        self.images[record.id] = image
        self._rename(record.id)
        return self.images[record.id]

    def drop(self, image_id: str) -> None:
        """Forget an image; its references stay as they are."""
        self.generation += 1
        image = self.images.pop(image_id)
        record = self.records.pop(image_id)
        self._chains.subtract(image.chain_ids)
        self._blobs.subtract(_blobs(record))
        self._chains = +self._chains
        self._blobs = +self._blobs
        if record.parent:
            siblings = self._children.get(record.parent, set())
            siblings.discard(image_id)
            if not siblings:
                self._children.pop(record.parent, None)

    def set_record(self, record: ImageRecord) -> None:
        """A record of which only times changed."""
        self.generation += 1
        self.records[record.id] = record
        image = self.images[record.id]
        self.images[record.id] = replace(image, last_tag_time_ns=record.last_tag_time_ns or None)

    def point(self, reference: ReferenceRecord) -> None:
        """Let a name mean an image, whatever it meant before."""
        self.unpoint(reference.name)
        self.references[reference.name] = reference.image_id
        self._names.setdefault(reference.image_id, set()).add(reference.name)
        self._rename(reference.image_id)

    def unpoint(self, name: str) -> None:
        self.generation += 1
        image_id = self.references.pop(name, None)
        if image_id is not None:
            names = self._names[image_id]
            names.discard(name)
            if not names:
                del self._names[image_id]
            self._rename(image_id)

    def _rename(self, image_id: str) -> None:
        image = self.images.get(image_id)
        if image is not None:
            names = self.names_of(image_id)
            self.images[image_id] = replace(
                image,
                repo_tags=tuple(ref.familiar for ref in names if not ref.digest),
                repo_digests=tuple(ref.familiar for ref in names if ref.digest),
            )

    @contextlib.contextmanager
    def holding(self, chains: Iterable[str] = (), blobs: Iterable[str] = ()) -> Iterator[None]:
        """Nothing of these is deleted meanwhile."""
        chain_list, blob_list = list(chains), list(blobs)
        self._chains.update(chain_list)
        self._blobs.update(blob_list)
        try:
            yield
        finally:
            self._chains.subtract(chain_list)
            self._blobs.subtract(blob_list)


def _blobs(record: ImageRecord) -> list[str]:
    return [record.id, *([record.manifest] if record.manifest else []), *record.blobs]


def _image(record: ImageRecord, document: ConfigDocument) -> Image:
    return Image(
        id=record.id,
        manifest=record.manifest,
        config=document.config,
        diff_ids=document.diff_ids,
        chain_ids=chain_ids(document.diff_ids),
        architecture=document.architecture,
        os=document.os or "linux",
        variant=document.variant,
        os_version=document.os_version,
        created=document.created,
        created_ns=parse_time(document.created),
        author=document.author,
        comment=document.comment,
        docker_version=document.docker_version,
        container=document.container,
        history=document.history,
        layer_sizes=record.layer_sizes,
        parent=record.parent,
        last_tag_time_ns=record.last_tag_time_ns or None,
        labels=document.config.labels or {},
    )
