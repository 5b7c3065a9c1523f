"""Commit: a container's changes become an image."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gantry.containers.core import Core
from gantry.containers.merge import with_image
from gantry.containers.record import Container
from gantry.containers.stop import Stopper
from gantry.images.changes import apply_changes
from gantry.model.container import ContainerConfig
from gantry.model.errors import Conflict, GantryError, InvalidParameter
from gantry.model.image import ImageConfig

Json = dict[str, Any]

_FALSE: Final = ("0", "false", "f", "no", "none")


class Commits:
    """POST /commit."""

    def __init__(self, core: Core, stopper: Stopper) -> None:
        self._core = core
        self._stopper = stopper
        self.make: Callable[[Container, Json, Mapping[str, Any]], Awaitable[str]] | None = None
        """(container, config of the image, query) -> id; set by whoever wires the images."""

    async def commit(
        self, query: Mapping[str, str], config: Json | None, changes: Sequence[str]
    ) -> Json:
        """{"Id": image id}. query: container, repo, tag, comment, author, pause. config: what the
        image's shall be; what is missing in it comes from the container's, and all without one.
        """
        container = self._core.table.get(query.get("container", ""))
        if container.state.dead:
            raise Conflict(f"You cannot commit container {container.id} which is Dead")
        if container.state.removing:
            raise Conflict(f"You cannot commit container {container.id} which is being removed")
        if self.make is None:
            raise InvalidParameter("this engine has no images")
        pause = query.get("pause", "1").lower() not in _FALSE
        merged = _merged(container.record.config, config, changes)
        paused = False
        if pause and container.state.running and not container.state.paused:
            with contextlib.suppress(GantryError):
                await self._stopper.pause(container.id)
                paused = True
        try:
            image = await self.make(container, merged, query)
        finally:
            if paused:
                with contextlib.suppress(GantryError):  # it may have ended since
                    await self._stopper.unpause(container.id)
        extra = {"comment": query.get("comment", ""), "imageID": image, "imageRef": _ref(query)}
        self._core.event(container, "commit", extra)
        return {"Id": image}


def _ref(query: Mapping[str, str]) -> str:
    repo, tag = query.get("repo", ""), query.get("tag", "")
    if not repo:
        return ""
    return f"{repo}:{tag or 'latest'}"


def _merged(own: ContainerConfig, config: Json | None, changes: Sequence[str]) -> Json:
    """The new image's config (moby daemon/commit.go, CreateImageFromContainer)."""
    plain = apply_changes(msgspec.to_builtins(own) if config is None else config, changes)
    try:
        given = msgspec.convert(plain, ContainerConfig, strict=False)
        base = msgspec.convert(msgspec.to_builtins(own), ImageConfig, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParameter(str(error)) from None
    merged: Json = msgspec.to_builtins(with_image(given, base))
    return merged
