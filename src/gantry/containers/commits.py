"""Commit: a container's changes become an image."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from gantry.containers.core import Core
from gantry.containers.record import Container
from gantry.containers.stop import Stopper
from gantry.model.container import ContainerConfig
from gantry.model.errors import Conflict, GantryError, InvalidParameter

Json = dict[str, Any]

_FALSE: Final = ("0", "false", "f", "no", "none")


class Commits:
    """POST /commit."""

    def __init__(self, core: Core, stopper: Stopper) -> None:
        self._core = core
        self._stopper = stopper
        self.make: Callable[[Container, Json, Mapping[str, Any]], Awaitable[str]] | None = None
        """(container, config of the image, query) -> id; set by whoever wires the images."""

    async def commit(self, query: Mapping[str, str], config: Json | None) -> Json:
        """{"Id": image id}. query: container, repo, tag, comment, author, pause, changes."""
        container = self._core.table.get(query.get("container", ""))
        if container.state.dead:
            raise Conflict(f"You cannot commit container {container.id} which is Dead")
        if container.state.removing:
            raise Conflict(f"You cannot commit container {container.id} which is being removed")
        if self.make is None:
            raise InvalidParameter("this engine has no images")
        pause = query.get("pause", "1").lower() not in _FALSE
        merged = _merged(container, config)
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


def _merged(container: Container, config: Json | None) -> Json:
    """The new image's config: what the request says, the container's for the rest."""
    own: Json = msgspec.to_builtins(container.record.config)
    if config:
        try:
            given = msgspec.convert(config, ContainerConfig, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidParameter(str(error)) from None
        plain: Json = msgspec.to_builtins(given)
        for key, value in plain.items():
            if value not in (None, "", [], {}, False, 0):
                if isinstance(value, dict) and isinstance(own.get(key), dict):
                    own[key] = {**own[key], **value}
                else:
                    own[key] = value
    return own
