"""The mount calls of Linux 5.2 and 5.12: mounts are fds first, and places later.

    fd = fsopen("tmpfs"); fsconfig_set(fd, "size", "64m"); fsconfig_create(fd)
    mnt = fsmount(fd, MOUNT_ATTR_NOSUID)          # a mount that is nowhere yet
    move_mount(mnt, target_fd)                    # and now somewhere, found once, by fd

A mount is complete (read-only, nosuid, its propagation set) before anything can see it,
and a path is walked once: what a symlink is swapped for afterwards does not matter.
"""

from __future__ import annotations

import os
import struct
from ctypes import c_char_p, c_int, c_size_t, c_uint
from typing import Final

from gantry.kernel.libc import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    AT_SYMLINK_NOFOLLOW,
    failed,
    typed,
)

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_SYNCHRONOUS: Final = 0x10
MS_REMOUNT: Final = 0x20
MS_MANDLOCK: Final = 0x40
MS_DIRSYNC: Final = 0x80
MS_NOSYMFOLLOW: Final = 0x100
MS_NOATIME: Final = 0x400
MS_NODIRATIME: Final = 0x800
MS_BIND: Final = 0x1000
MS_MOVE: Final = 0x2000
MS_REC: Final = 0x4000
MS_SILENT: Final = 0x8000
MS_UNBINDABLE: Final = 0x20000
MS_PRIVATE: Final = 0x40000
MS_SLAVE: Final = 0x80000
MS_SHARED: Final = 0x100000
MS_I_VERSION: Final = 0x800000
MS_STRICTATIME: Final = 0x1000000
MS_LAZYTIME: Final = 0x2000000

MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_ATIME: Final = 0x70  # the mask of the three below
MOUNT_ATTR_RELATIME: Final = 0x0
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_STRICTATIME: Final = 0x20
MOUNT_ATTR_NODIRATIME: Final = 0x80
MOUNT_ATTR_IDMAP: Final = 0x100000
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x200000

_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_OPEN_TREE_CLONE: Final = 1
_SET_FLAG: Final = 0
_SET_STRING: Final = 1
_CMD_CREATE: Final = 6
_MOVE_F_EMPTY: Final = 0x4
_MOVE_T_EMPTY: Final = 0x40
FSCONFIG_STRING_MAX: Final = 255

_fsopen, _FSOPEN = typed("fsopen", c_char_p, c_uint)
_fsconfig, _FSCONFIG = typed("fsconfig", c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount, _FSMOUNT = typed("fsmount", c_int, c_uint, c_uint)
_open_tree, _OPEN_TREE = typed("open_tree", c_int, c_char_p, c_uint)
_move_mount, _MOVE_MOUNT = typed("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint)
_setattr, _SETATTR = typed("mount_setattr", c_int, c_char_p, c_uint, c_char_p, c_size_t)


def fsopen(fstype: str) -> int:
    """fsopen(2): a file system context. ENODEV where the kernel does not know the type."""
    fd = _fsopen(_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC)
    if fd < 0:
        raise failed("fsopen", fstype)
    return fd


def fsconfig_set(fd: int, key: str, value: str | None = None) -> None:
    """Set a parameter: a string, or a flag where `value` is None (at most 255 bytes)."""
    command = _SET_FLAG if value is None else _SET_STRING
    encoded = None if value is None else os.fsencode(value)
    if _fsconfig(_FSCONFIG, fd, command, key.encode(), encoded, 0) < 0:
        raise failed("fsconfig", key)


def fsconfig_create(fd: int) -> None:
    """Make the superblock that the context describes."""
    if _fsconfig(_FSCONFIG, fd, _CMD_CREATE, None, None, 0) < 0:
        raise failed("fsconfig")


def fsmount(fd: int, attributes: int = 0) -> int:
    """fsmount(2): a detached mount of a created context; MOUNT_ATTR_* bits."""
    mount = _fsmount(_FSMOUNT, fd, _FSMOUNT_CLOEXEC, attributes)
    if mount < 0:
        raise failed("fsmount")
    return mount


def context_log(fd: int) -> str:
    """What the kernel had to say about a failed context ("" when nothing)."""
    lines = []
    while True:
        try:
            lines.append(os.read(fd, 1024).decode(errors="replace").strip())
        except OSError:
            return "; ".join(line[2:] for line in lines)


def open_tree(path: str | bytes, *, dirfd: int = AT_FDCWD, recursive: bool = False) -> int:
    """open_tree(2) with OPEN_TREE_CLONE: a detached bind of `path` ("": of `dirfd` itself)."""
    encoded = path if isinstance(path, bytes) else os.fsencode(path)
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    if recursive:
        flags |= AT_RECURSIVE
    if not encoded:
        flags |= AT_EMPTY_PATH
    fd = _open_tree(_OPEN_TREE, dirfd, encoded, flags)
    if fd < 0:
        raise failed("open_tree", path)
    return fd


def move_mount(mount_fd: int, target_fd: int, target: str = "") -> None:
    """move_mount(2): attach a detached mount onto `target_fd` or a path below it.

    A `target` with slashes or links is walked by the kernel: give it only names that
    were made here. `target_fd` may be AT_FDCWD with a path.
    """
    flags = _MOVE_F_EMPTY | (0 if target else _MOVE_T_EMPTY)
    if _move_mount(_MOVE_MOUNT, mount_fd, b"", target_fd, os.fsencode(target), flags) < 0:
        raise failed("move_mount", target)


def mount_setattr(
    fd: int,
    *,
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
    path: str = "",
) -> None:
    """mount_setattr(2) on the mount that `fd` (or `path` below it) is."""
    attr = struct.pack("4Q", set_, clear, propagation, userns_fd)
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    flags |= AT_SYMLINK_NOFOLLOW if path else 0
    if _setattr(_SETATTR, fd, os.fsencode(path), flags, attr, len(attr)) < 0:
        raise failed("mount_setattr", path)
