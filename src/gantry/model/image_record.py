"""What is kept of images besides their blobs: records of the engine's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What is kept of an image besides its blobs.

    manifest: digest of the manifest blob. blobs: the layers' blobs, bottom first, as the
    manifest has them. layer_sizes: bytes of file data of each. times: ns since the epoch, 0
    never. parent: the image it was made from here, or "".
    """

    id: str
    manifest: str
    blobs: tuple[str, ...]
    layer_sizes: tuple[int, ...]
    parent: str = ""
    last_tag_time_ns: int = 0
    container: str = ""


@dataclass(frozen=True, slots=True)
class ReferenceRecord:
    """name: full and normalised, with a tag or a digest."""

    name: str
    image_id: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Keeps blobs that no image refers to (yet) until `expires` (seconds since the epoch)."""

    id: str
    expires: float
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BlobSource:
    """This blob is known to be in that repository (docker.io/library/busybox)."""

    digest: str
    repository: str


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction."""

    put_images: Sequence[ImageRecord] = ()
    drop_images: Sequence[str] = ()
    put_references: Sequence[ReferenceRecord] = ()
    drop_references: Sequence[str] = ()
    put_leases: Sequence[Lease] = ()
    drop_leases: Sequence[str] = ()
    put_sources: Sequence[BlobSource] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """All there is, read at start-up."""

    images: tuple[ImageRecord, ...] = ()
    references: tuple[ReferenceRecord, ...] = ()
    leases: tuple[Lease, ...] = ()
    sources: tuple[BlobSource, ...] = ()
