"""Whole trees on the host: count, copy. Symlinks are never followed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from typing import Final

from gantry.model.snapshot import Usage

_FICLONE: Final = 0x40049409


def disk_usage(path: str) -> Usage:
    """What is in all files below `path`, as Docker counts (moby `pkg/directory`): their lengths,
    hard links once, folders as nothing; what vanishes is not counted."""
    return difference(path, None)


def difference(path: str, parent: str | None) -> Usage:
    """As `disk_usage`, of what is not the same in the tree `parent`: file by file, told by
    attributes, size and time as for a layer (`gantry.archive.diff`)."""
    total = inodes = 0
    seen: set[tuple[int, int]] = set()
    for folder, names, files, fd in os.fwalk(path, follow_symlinks=False):
        below = parent + folder[len(path) :] if parent is not None else None
        for name in (*names, *files):
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if below is not None and _same(info, os.path.join(below, name)):
                continue
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            if not stat.S_ISDIR(info.st_mode):
                total += info.st_size
            inodes += 1
    return Usage(total, inodes)


def _same(info: os.stat_result, path: str) -> bool:
    try:
        old = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(info.st_mode) and stat.S_ISDIR(old.st_mode):
        return True
    return (info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns) == (
        old.st_mode,
        old.st_uid,
        old.st_gid,
        old.st_size,
        old.st_mtime_ns,
    )


def copy_tree(source: str, target: str) -> None:
    """Copy a tree into the empty folder `target` with owners, modes, times, xattrs, devices
    and hard links; file data is shared (reflink) where the file system can."""
    links: dict[tuple[int, int], str] = {}
    folders: list[tuple[str, str]] = []
    for folder, names, files, fd in os.fwalk(source, follow_symlinks=False):
        into = target + folder[len(source) :]
        folders.append((folder, into))
        for name in names + files:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            destination = os.path.join(into, name)
            if stat.S_ISDIR(info.st_mode):
                os.mkdir(destination, 0o700)
                continue
            if info.st_nlink > 1:
                identity = (info.st_dev, info.st_ino)
                if identity in links:
                    os.link(links[identity], destination, follow_symlinks=False)
                    continue
                links[identity] = destination
            _copy_node(os.path.join(folder, name), destination, info)
    for folder, into in reversed(folders):  # times last: making entries changes them
        _copy_attributes(folder, into, os.lstat(folder))


def _copy_node(source: str, target: str, info: os.stat_result) -> None:
    if stat.S_ISREG(info.st_mode):
        _copy_file(source, target)
    elif stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(source), target)
    else:
        os.mknod(target, info.st_mode, info.st_rdev)
    _copy_attributes(source, target, info)


def _copy_file(source: str, target: str) -> None:
    with open(source, "rb", buffering=0) as reader, open(target, "xb", buffering=0) as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
            return
        except OSError:
            pass  # no reflinks here
        try:
            while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 30):
                pass
        except OSError:
            shutil.copyfileobj(reader, writer, 1 << 20)


def _copy_attributes(source: str, target: str, info: os.stat_result) -> None:
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(target, stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        try:
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENODATA):
                raise
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
