"""Modes and extended attributes of what an archive has made."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from gantry.archive.errors import ArchiveError
from gantry.archive.names import show

DROPPED_XATTRS: Final = (b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.")
"""A layer from elsewhere must not talk to overlayfs."""


def chmod_node(at: int, base: bytes, mode: int) -> None:
    """chmod(2) of a node that was just made, or of nothing: a process of the container may
    have put a symlink in its place, which chmod by name would follow, out of here."""
    fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            os.chmod(b"/proc/self/fd/%d" % fd, mode)
    finally:
        os.close(fd)


def set_xattr(target: int | bytes, key: bytes, value: bytes) -> None:
    """What the file system cannot hold is left out, as Docker does."""
    if key.startswith(DROPPED_XATTRS):
        return
    try:
        os.setxattr(target, key, value, follow_symlinks=isinstance(target, int))
    except OSError as error:
        if error.errno == errno.ENOTSUP or (error.errno == errno.EPERM and key[:5] == b"user."):
            return
        if error.errno in (errno.ERANGE, errno.E2BIG, errno.EINVAL):
            raise ArchiveError(f"invalid extended attribute {show(key)}")
        raise
