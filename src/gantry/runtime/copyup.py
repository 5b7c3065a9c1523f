"""tmpcopyup: a folder's content copied by fd into a new tmpfs, as it is."""

from __future__ import annotations

import os
import stat


def copy_tree(source: int, target: int) -> None:
    """Copy everything in the folder `source` into the folder `target` (both fds).

    Modes, owners, times, links, nodes and extended attributes are kept; symlinks are
    copied as links and never followed; hard links become files of their own.
    """
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        _copy(source, target, name)
    _own(os.fstat(source), target)


def _copy(source: int, target: int, name: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        inner, outer = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
        try:
            copy_tree(inner, outer)
        finally:
            os.close(inner)
            os.close(outer)
    elif kind == stat.S_IFREG:
        _copy_file(source, target, name, status)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str, status: os.stat_result) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    writing = os.open(
        name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target
    )
    try:
        while os.sendfile(writing, reading, None, 1 << 24):
            pass
        for key in os.listxattr(reading):
            try:
                os.setxattr(writing, key, os.getxattr(reading, key))
            except OSError:
                continue  # a label that tmpfs cannot keep
        _own(status, writing)
    finally:
        os.close(reading)
        os.close(writing)


def _own(status: os.stat_result, fd: int) -> None:
    os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
