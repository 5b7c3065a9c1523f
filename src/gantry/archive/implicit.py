"""Folders that a layer used and did not describe."""

from __future__ import annotations

import errno
import os
import stat

from gantry.archive.attributes import DROPPED_XATTRS, set_xattr
from gantry.archive.errors import NeedsParents
from gantry.archive.names import show
from gantry.kernel import syscalls


def adopt(root: int, lower: list[int], implicit: tuple[bytes, ...]) -> None:
    """Give the folders that a layer did not describe the looks they have in the layers below.

    lower: fds of the parents' folders, nearest first. Only for overlay flavours: there such a
    folder would hide the attributes of the one below. NeedsParents where below is no folder
    but a symlink.
    """
    strict = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
    for path in implicit:
        for fd in lower:
            try:
                found = syscalls.openat2(fd, path, os.O_PATH | os.O_NOFOLLOW, resolve=strict)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise NeedsParents(show(path))
                raise
            try:
                info = os.fstat(found)
                if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                    break  # deleted in between: the folder is new
                if not stat.S_ISDIR(info.st_mode):
                    raise NeedsParents(show(path))
                _copy_looks(root, path, found, info)
            finally:
                os.close(found)
            break


def _copy_looks(root: int, path: bytes, found: int, info: os.stat_result) -> None:
    source = b"/proc/self/fd/%d" % found
    fd = syscalls.openat2(
        root, path, os.O_RDONLY | os.O_DIRECTORY, resolve=syscalls.RESOLVE_BENEATH
    )
    try:
        os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
        for name in os.listxattr(source):
            key = os.fsencode(name)
            if not key.startswith(DROPPED_XATTRS):
                set_xattr(fd, key, os.getxattr(source, name))
        os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
    finally:
        os.close(fd)
