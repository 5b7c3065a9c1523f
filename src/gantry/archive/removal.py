"""Delete whole trees by fds. Symlinks are never followed."""

from __future__ import annotations

import errno
import os
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH: Final = 100
"""Folders open at the same time; below, a branch is moved up first."""


def remove_tree(path: str) -> None:
    """Delete `path` and all below it, if it is there."""
    parent, base = os.path.split(os.path.abspath(path))
    try:
        at = os.open(parent, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        remove(at, os.fsencode(base))
    finally:
        os.close(at)


def remove(at: int, base: bytes) -> None:
    """Delete `base` in the folder `at` (an fd) with all below it; it may be gone already.

    Without recursion: a hostile tree may be deeper than Python's stack or the fds allowed.
    Such a branch is renamed up to the top, and deleted from there.
    """
    try:
        top = os.open(base, _DIRECTORY, dir_fd=at)
    except NotADirectoryError:
        os.unlink(base, dir_fd=at)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        os.unlink(base, dir_fd=at)
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(base, dir_fd=at)


def _empty(top: int) -> None:
    stack: list[tuple[int, str]] = [(os.dup(top), "")]
    spilled = 0
    try:
        while stack:
            fd, name = stack[-1]
            folder = _unlink_files(fd)
            if folder is None:
                stack.pop()
                os.close(fd)
                if stack:
                    os.rmdir(name, dir_fd=stack[-1][0])
            elif len(stack) > _DEPTH:
                spilled = _move_up(fd, folder, top, spilled)
            else:
                stack.append((os.open(folder, _DIRECTORY, dir_fd=fd), folder))
    finally:
        for fd, _ in stack:
            os.close(fd)


def _move_up(fd: int, folder: str, top: int, spilled: int) -> int:
    """Rename a branch to a free name in the top folder; that name's number."""
    while True:
        spilled += 1
        try:
            os.rename(folder, f".gantry-spill-{spilled}", src_dir_fd=fd, dst_dir_fd=top)
            return spilled
        except OSError as error:
            # The tree may hold such a name itself.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise


def _unlink_files(fd: int) -> str | None:
    """Delete what is no folder, and empty folders; the name of one that is left, or None."""
    left: str | None = None
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in names:
        try:
            if is_folder:
                os.rmdir(name, dir_fd=fd)
            else:
                os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not is_folder:
                raise
            left = name
    return left
