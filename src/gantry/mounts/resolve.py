"""Paths inside a root that may be hostile, walked by the kernel and held by fd.

Every function takes the root's fd and a path as the container would write it; symlinks
are followed as if the root were "/", and never leave it (openat2(2) RESOLVE_IN_ROOT).
What comes back is an O_PATH fd that no later rename or symlink can redirect.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

from gantry.kernel.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

_MAX_LINKS: Final = 40
_IN_ROOT: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS


def open_in_root(root: int, path: str, flags: int = os.O_PATH, *, follow: bool = True) -> int:
    """Open `path` below `root`. Without `follow`, a last symlink is opened itself (O_PATH)."""
    if not follow:
        flags |= os.O_NOFOLLOW
    return openat2(root, path or "/", flags, resolve=_IN_ROOT)


def open_plain(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open `path` and refuse any symlink on the way (ELOOP)."""
    return openat2(
        root, path.lstrip("/") or ".", flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    )


def ensure_directory(root: int, path: str, mode: int = 0o755) -> int:
    """An O_PATH fd of the folder `path`, made with its parents where missing.

    Raises NotADirectoryError where something else is in the way.
    """
    try:
        return open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    head, _, name = path.rstrip("/").rpartition("/")
    if name not in ("", ".", ".."):
        try:
            return _one(root, head, name, mode)
        except OSError:
            pass  # more than the last one is missing, or a link: step by step
    return _walk(root, path, mode)


def _one(root: int, head: str, name: str, mode: int) -> int:
    """The usual case: only the last folder is missing."""
    parent = open_in_root(root, head or "/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.mkdir(name, mode, dir_fd=parent)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
        return openat2(parent, name, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    finally:
        os.close(parent)


def ensure_file(root: int, path: str, mode: int = 0o755) -> int:
    """An O_PATH fd of `path`, made as an empty file (with its parents) where missing.

    A target for binds of anything that is not a folder; what is there is left alone.
    """
    try:
        return open_in_root(root, path)
    except FileNotFoundError:
        pass
    for _ in range(_MAX_LINKS):
        head, name = os.path.split(path.rstrip("/"))
        if name in ("", ".", ".."):
            raise IsADirectoryError(errno.EISDIR, "not a file's name", path)
        parent = ensure_directory(root, head or "/", mode)
        try:
            target = _link_at(parent, name)
            if target is None:
                # Only made, never opened: who writes there too may put a fifo or a device there.
                flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with suppress(FileExistsError):
                    os.close(os.open(name, flags, 0o644, dir_fd=parent))
                return openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH)
        finally:
            os.close(parent)
        path = target if target.startswith("/") else os.path.join(head or "/", target)
    raise OSError(errno.ELOOP, "too many symbolic links", path)


def _link_at(parent: int, name: str) -> str | None:
    """Where the symlink `name` points, None when it is no symlink or is not there."""
    try:
        return os.readlink(name, dir_fd=parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def _walk(root: int, path: str, mode: int) -> int:
    """Make what is missing of `path`, one component at a time.

    A symlink that dangles is followed, within the root, and its target made: images
    carry such links ("/var/run" to a "/run" that is not there yet).
    """
    links = 0
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []  # resolved names: no links, no ".."
    here = open_in_root(root, "/", os.O_PATH | os.O_DIRECTORY)
    try:
        while todo:
            name = todo.pop()
            if name == "..":
                # ".." of a path that is built here is known by name; at the root it stays.
                done = done[:-1]
                os.close(here)
                here = open_in_root(root, "/" + "/".join(done), os.O_PATH | os.O_DIRECTORY)
                continue
            target = _link_at(here, name)
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, "too many symbolic links", path)
                todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
                if target.startswith("/"):
                    done = []
                    os.close(here)
                    here = open_in_root(root, "/", os.O_PATH | os.O_DIRECTORY)
                continue
            try:
                os.mkdir(name, mode, dir_fd=here)
            except FileExistsError:
                pass
            deeper = openat2(
                here,
                name,
                os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW,
                resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
            )
            os.close(here)
            here = deeper
            done.append(name)
    except BaseException:
        os.close(here)
        raise
    return here


def is_directory(fd: int) -> bool:
    """Whether an open (O_PATH) fd is a folder."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)
