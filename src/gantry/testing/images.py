"""Fakes for the image services: state in memory, events in a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gantry.model.image_record import (
    BlobSource,
    Change,
    ImageRecord,
    Lease,
    ReferenceRecord,
    Stored,
)


class MemoryImageStore:
    """`gantry.images.ports.ImageStore` that lives as long as its object."""

    def __init__(self) -> None:
        self.images: dict[str, ImageRecord] = {}
        self.references: dict[str, ReferenceRecord] = {}
        self.leases: dict[str, Lease] = {}
        self.sources: set[BlobSource] = set()

    def load(self) -> Stored:
        return Stored(
            tuple(self.images.values()),
            tuple(self.references.values()),
            tuple(self.leases.values()),
            tuple(self.sources),
        )

    async def apply(self, change: Change) -> None:
        for name in change.drop_references:
            self.references.pop(name, None)
        for identity in change.drop_images:
            self.images.pop(identity, None)
        for identity in change.drop_leases:
            self.leases.pop(identity, None)
        self.images.update((record.id, record) for record in change.put_images)
        self.references.update((record.name, record) for record in change.put_references)
        self.leases.update((lease.id, lease) for lease in change.put_leases)
        self.sources.update(change.put_sources)


@dataclass
class RecordedEvents:
    """`gantry.images.ports.Emit` that remembers (kind, action, id, attributes)."""

    events: list[tuple[str, str, str, dict[str, str]]] = field(default_factory=list)

    def __call__(
        self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]
    ) -> None:
        self.events.append((kind, action, actor_id, dict(attributes)))

    @property
    def actions(self) -> list[str]:
        return [action for _, action, _, _ in self.events]


@dataclass
class FixedUsers:
    """`gantry.images.ports.ImageUsers`: containers by image id, set by the test."""

    users: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)

    def containers_using(self, image_id: str) -> Sequence[tuple[str, bool]]:
        return self.users.get(image_id, [])
