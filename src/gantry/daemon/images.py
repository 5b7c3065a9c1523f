"""The image service as containers see it."""

from __future__ import annotations

from collections.abc import Set

from gantry.images.engine import Images


class ImagesForContainers:
    """`gantry.containers.ports.Images`."""

    def __init__(self, images: Images) -> None:
        self.resolve = images.resolve
        self.released = images.drop_orphans
        self._catalog = images.catalog

    def children(self, image_id: str) -> Set[str]:
        return self._catalog.children(image_id)
