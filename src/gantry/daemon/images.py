"""The image service as its two kinds of users see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from typing import Any

from gantry.images.engine import Images
from gantry.model.errors import NotImplementedHere

Json = dict[str, Any]


class ImagesForContainers:
    """`gantry.containers.ports.Images`."""

    def __init__(self, images: Images) -> None:
        self.resolve = images.resolve
        self._catalog = images.catalog

    def children(self, image_id: str) -> Set[str]:
        return self._catalog.children(image_id)


class ImagesForRoutes:
    """`gantry.api.backend.ImagesBackend`: what talks to registries is not there yet."""

    def __init__(self, images: Images) -> None:
        self.list = images.list
        self.inspect = images.inspect
        self.history = images.history
        self.tag = images.tag
        self.remove = images.remove
        self.prune = images.prune
        self.load = images.load
        self.save = images.save
        self.import_ = images.import_

    async def pull(self, ref: str, *, tag: str, platform: str, auth: Json) -> AsyncIterator[Json]:
        raise NotImplementedHere("this engine cannot pull from registries yet")
        yield {}

    async def push(self, name: str, *, tag: str, platform: str, auth: Json) -> AsyncIterator[Json]:
        raise NotImplementedHere("this engine cannot push to registries yet")
        yield {}

    async def search(self, term: str, **_: Any) -> list[Json]:
        raise NotImplementedHere("this engine cannot search registries yet")

    async def distribution(self, name: str, *, auth: Json) -> Json:
        raise NotImplementedHere("this engine cannot ask registries yet")
