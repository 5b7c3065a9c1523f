"""Checkpoints: a running container put into files, to go on from there (moby daemon/checkpoint.go).

CRIU writes what is in a container's memory; its files stay where they are. What the container
was started with is kept beside them, for CRIU has to be told what comes from outside.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from typing import Final

from gantry.archive.removal import remove_tree
from gantry.containers.core import Core
from gantry.containers.record import Container
from gantry.model.errors import Conflict, GantryError, InvalidParameter, NotFound, System

_NAME: Final = re.compile("[a-zA-Z0-9][a-zA-Z0-9_.-]+")
CONFIG: Final = "config.json"
"""In a container's folder, where checkpoints are possible: how it was started last."""


class Checkpoints:
    """`gantry.api.backend.CheckpointsBackend`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, name: str, checkpoint: str, *, folder: str, exit: bool) -> None:
        """Write one. folder: where, "" for beside the container; exit: the container ends."""
        check_name(checkpoint)
        core = self._core
        container = core.table.get(name)
        async with container.lock:
            task = container.live.task
            if not container.state.running or task is None:
                raise Conflict(f"container {container.id} is not running")
            path = os.path.join(folder or _root(core, container), checkpoint)
            try:
                config = _read(f"{core.folder(container.id)}/{CONFIG}")
                _make(path, checkpoint, name)
            except OSError as error:
                raise System(f"cannot checkpoint container {name}: {error}") from None
            try:
                await task.checkpoint(path, config, exit=exit)
            except GantryError as error:
                await asyncio.to_thread(remove_tree, path)
                raise System(f"Cannot checkpoint container {name}: {error}") from None
        core.event(container, "checkpoint")

    def list(self, name: str, *, folder: str) -> Sequence[str]:
        """Their names."""
        container = self._core.table.get(name)
        path = folder or _root(self._core, container)
        try:
            with os.scandir(path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError as error:
            if not folder:
                return []
            raise NotFound(
                f'checkpoint directory "{folder}" does not exist for container {name}:'
                f" stat {folder}: {os.strerror(error.errno or 0).lower()}"
            ) from None
        except NotADirectoryError:
            raise InvalidParameter(
                f'checkpoint directory "{folder}" exists but is not a directory'
            ) from None

    async def delete(self, name: str, checkpoint: str, *, folder: str) -> None:
        """Remove one."""
        check_name(checkpoint)
        container = self._core.table.get(name)
        path = find(self._core, container, name, checkpoint, folder)
        await asyncio.to_thread(remove_tree, path)


def check_name(checkpoint: str) -> None:
    """InvalidParameter: not a name; it becomes a folder's."""
    if not _NAME.fullmatch(checkpoint) or checkpoint.endswith("."):
        raise InvalidParameter(
            f'invalid checkpoint ID "{checkpoint}", only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed'
        )


def find(core: Core, container: Container, name: str, checkpoint: str, folder: str = "") -> str:
    """The folder of a checkpoint that is there."""
    path = os.path.join(folder or _root(core, container), checkpoint)
    if not os.path.lexists(path):
        raise System(f"checkpoint {checkpoint} does not exist for container {name}")
    if not os.path.isdir(path):
        raise System(f"{path} exists and is not a directory")
    return path


def keep_config(core: Core, container: Container, config: bytes) -> None:
    """Remember how a container is started, for a checkpoint of it."""
    path = f"{core.folder(container.id)}/{CONFIG}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(config)


def _root(core: Core, container: Container) -> str:
    return os.path.join(core.folder(container.id), "checkpoints")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _make(path: str, checkpoint: str, name: str) -> None:
    if os.path.isdir(path):
        raise System(
            f"cannot checkpoint container {name}: checkpoint with name {checkpoint}"
            f" already exists for container {name}"
        )
    if os.path.lexists(path):
        raise System(f"cannot checkpoint container {name}: {path} exists and is not a directory")
    os.makedirs(path, 0o700)
