"""What the file system under a folder is, by its magic number (statfs(2))."""

from __future__ import annotations

import os
from typing import Final

from gantry.kernel import syscalls

_NAMES: Final = {
    0xEF53: "extfs",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x2FC12FC1: "zfs",
    0x01021994: "tmpfs",
    0x794C7630: "overlayfs",
    0x61756673: "aufs",
    0xF2F52010: "f2fs",
    0x6969: "nfs",
    0xF15F: "ecryptfs",
    0x65735546: "fuse",
}


def magic(path: str) -> int:
    """OSError as open(2) or statfs(2) has it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return syscalls.fstatfs_type(fd)
    finally:
        os.close(fd)


def backing_name(path: str) -> str:
    """As `docker info` calls it; "<unknown>" for others."""
    return _NAMES.get(magic(path), "<unknown>")
