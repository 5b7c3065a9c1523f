"""Small files of a container that does not run, read from its layers without a mount.

A snapshot's mounts say where its layers lie. For an overlay the layers are looked through
from the top, by fd and without following any symlink: what an image planted in place of
/etc/passwd cannot lead out of it. Where that is not enough (a symlink on the way, a file
whose content is in another layer, a driver without folders) the caller gets `Unsure` and
has to look at the whole tree (`gantry.containers.view`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gantry.model.mount import Mount
from gantry.mounts.resolve import open_plain

LIMIT: Final = 4 << 20
"""Bytes of a file that are read at most; nobody's passwd is longer."""


class Unsure(Exception):
    """The layers alone do not tell."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Folders of a snapshot, the writable one first (`lower` are those that never change)."""

    upper: str
    lower: tuple[str, ...]


def layers_of(mounts: Sequence[Mount]) -> Layers:
    """Where a snapshot's files lie. Unsure when its driver does not say."""
    if len(mounts) != 1:
        raise Unsure
    mount = mounts[0]
    if mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options:
        return Layers(mount.source, ())
    if mount.type != "overlay":
        raise Unsure
    upper = ""
    lower: tuple[str, ...] = ()
    for option in mount.options:
        if option.startswith("upperdir="):
            upper = option[9:]
        elif option.startswith("lowerdir="):
            lower = tuple(option[9:].split(":"))
    if not upper or any("\\" in each for each in lower):
        raise Unsure
    return Layers(upper, lower)


def read_file(folders: Sequence[str], path: str, *, below: object = None) -> object:
    """The regular file `path` (relative) in the topmost folder that has it: its bytes.

    An overlay's deletions count: a whiteout ends the search, and so does an opaque folder;
    then it is None. `below` is what comes back when all folders leave the question open.
    """
    parent = os.path.dirname(path)
    for folder in folders:
        root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = _look(root, path, parent)
        finally:
            os.close(root)
        if found is None:
            return None
        if found is not _BELOW:
            return found
    return below


_BELOW: Final = object()


def _look(root: int, path: str, parent: str) -> object:
    """Content, None for deleted, _BELOW for: look further down."""
    try:
        held = open_plain(root, path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV):
            raise Unsure from None
        if error.errno == errno.ENOTDIR:
            return None  # a whiteout or a file stands where the folder was
        if error.errno != errno.ENOENT:
            raise
        return None if _opaque(root, parent) else _BELOW
    try:
        status = os.fstat(held)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            return None
        if stat.S_ISLNK(status.st_mode):
            raise Unsure
        if not stat.S_ISREG(status.st_mode):
            return None
        name = f"/proc/self/fd/{held}"
        if "trusted.overlay.metacopy" in os.listxattr(name):
            raise Unsure
        # Not waiting: a process of the container can hold a lease on it (fcntl(2)).
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except BlockingIOError:
        raise Unsure from None
    finally:
        os.close(held)
    with open(fd, "rb") as file:
        return file.read(LIMIT)


def _opaque(root: int, parent: str) -> bool:
    """Whether this layer replaces the folder: nothing below it counts."""
    if not parent:
        return False
    try:
        held = open_plain(root, parent)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unsure from None
        return False
    try:
        if "trusted.overlay.redirect" in (names := os.listxattr(f"/proc/self/fd/{held}")):
            raise Unsure
        return "trusted.overlay.opaque" in names or "user.overlay.opaque" in names
    finally:
        os.close(held)
