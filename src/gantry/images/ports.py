"""What the image services need of others, as Protocols: state, events, who uses an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gantry.model.image_record import Change, Stored


class ImageStore(Protocol):
    """Durable records. Implementations: `gantry.store.images`, `gantry.testing.images`."""

    def load(self) -> Stored: ...

    async def apply(self, change: Change) -> None:
        """Whole or not at all, durable at return."""


class Emit(Protocol):
    """Publish an event; must not block."""

    def __call__(
        self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]
    ) -> None: ...


class ImageUsers(Protocol):
    """Who uses images: the containers service."""

    def containers_using(self, image_id: str) -> Sequence[tuple[str, bool]]:
        """(container id, is it running) of every container made from or mounting it."""


class NoUsers:
    """Stands in until the containers service is there."""

    def containers_using(self, image_id: str) -> Sequence[tuple[str, bool]]:
        return ()
