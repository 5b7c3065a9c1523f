"""`docker diff`: what a container changed of its image.

The mount points that every start makes (/etc/hosts, /proc ...) are Docker's own affair there
and lie in a layer of their own; here they are left out where nothing was put into them.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import Final

from gantry.archive.diff import STARTS_MAKE
from gantry.model.snapshot import Flavour, LayerFolder
from gantry.snapshots.private import opened

MODIFIED: Final = 0
ADDED: Final = 1
DELETED: Final = 2

OURS: Final = frozenset("/" + os.fsdecode(name) for name in STARTS_MAKE)
_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Changes = list[tuple[str, int]]


def of_layer(folder: LayerFolder) -> Changes:
    """(path, kind) sorted by path."""
    found: Changes = []
    with opened(folder) as (top, below):
        if folder.flavour is Flavour.PLAIN:
            _compare(top, below[0] if below else None, "", found)
        else:
            _walk(top, below, "", found)
    return sorted(_without_ours(found))


def _walk(at: int, below: list[int], prefix: str, found: Changes) -> None:
    """An overlay's upper folder `at`, over the same folder in the layers `below`."""
    for name in os.listdir(at):
        info = os.stat(name, dir_fd=at, follow_symlinks=False)
        path = f"{prefix}/{name}"
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            found.append((path, DELETED))
            continue
        old = _lookup(below, name)
        found.append((path, MODIFIED if old is not None else ADDED))
        if not stat.S_ISDIR(info.st_mode):
            continue
        with ExitStack() as scope:
            fd = os.open(name, _FOLDER, dir_fd=at)
            scope.callback(os.close, fd)
            deeper: list[int] = []
            if not _is_opaque(fd):
                deeper = _descend(below, name, scope)
            _walk(fd, deeper, path, found)


def _lookup(below: list[int], name: str) -> os.stat_result | None:
    for fd in below:
        try:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            return None
        return info
    return None


def _descend(below: list[int], name: str, scope: ExitStack) -> list[int]:
    """The folder `name` in each layer that has it, down to what hides the rest."""
    deeper = []
    for layer in below:
        try:
            fd = os.open(name, _FOLDER, dir_fd=layer)
        except FileNotFoundError:
            continue
        except OSError:
            break
        scope.callback(os.close, fd)
        deeper.append(fd)
        if _is_opaque(fd):
            break
    return deeper


def _is_opaque(fd: int) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError:
            continue
    return False


def _compare(at: int, below: int | None, prefix: str, found: Changes) -> None:
    """Two whole trees."""
    mine = set(os.listdir(at))
    theirs = set(os.listdir(below)) if below is not None else set()
    for name in mine | theirs:
        path = f"{prefix}/{name}"
        if name not in mine:
            found.append((path, DELETED))
            continue
        info = os.stat(name, dir_fd=at, follow_symlinks=False)
        old = None
        if name in theirs and below is not None:
            old = os.stat(name, dir_fd=below, follow_symlinks=False)
        before = len(found)
        if stat.S_ISDIR(info.st_mode):
            with ExitStack() as scope:
                fd = os.open(name, _FOLDER, dir_fd=at)
                scope.callback(os.close, fd)
                under = None
                if old is not None and stat.S_ISDIR(old.st_mode) and below is not None:
                    under = os.open(name, _FOLDER, dir_fd=below)
                    scope.callback(os.close, under)
                _compare(fd, under, path, found)
        if old is None:
            found.append((path, ADDED))
        elif len(found) > before or _differs(info, old):
            found.append((path, MODIFIED))


def _differs(new: os.stat_result, old: os.stat_result) -> bool:
    same = (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) == (
        old.st_mode,
        old.st_uid,
        old.st_gid,
        old.st_rdev,
    )
    if not same or stat.S_ISDIR(new.st_mode):
        return not same
    return new.st_size != old.st_size or new.st_mtime_ns != old.st_mtime_ns


def _without_ours(found: Changes) -> Changes:
    """Mount points go; their parents too, where nothing else is below them."""
    others = [path for path, _ in found if path not in OURS]
    kept = []
    for path, kind in found:
        if path in OURS and not any(other.startswith(path + "/") for other in others):
            continue
        kept.append((path, kind))
    return kept
