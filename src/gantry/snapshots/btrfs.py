"""`btrfs`: each snapshot is a subvolume, made in no time whatever is in it.

`<root>/<id>/fs` is the subvolume. A layer is a subvolume made read-only, a container's a
snapshot of it. Sizes (`--storage-opt size=`) are quota groups' limits; quotas are switched on
for the whole file system the first time one is asked for.

Spoken to by ioctl(2) (linux/btrfs.h), no program is run.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from gantry.archive.removal import remove_tree
from gantry.model.errors import System
from gantry.model.mount import Mount
from gantry.model.snapshot import Flavour, Kind, LayerFolder, Usage
from gantry.snapshots.filesystem import backing_name
from gantry.snapshots.folders import Entry, FolderSnapshotter
from gantry.snapshots.options import parse_size
from gantry.snapshots.trees import difference

_CREATE: Final = 0x50009418
_SNAPSHOT: Final = 0x50009417
_DESTROY: Final = 0x5000940F
_SET_FLAGS: Final = 0x4008941A
_QUOTA: Final = 0xC0109428
_LIMIT: Final = 0x8030942B
_READ_ONLY: Final = 1 << 1
_QUOTA_ENABLE: Final = 1
_MAX_REFERENCED: Final = 1
_ROOT_INODE: Final = 256
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BtrfsSnapshotter(FolderSnapshotter):
    """See the module. System where `root` is on no btrfs."""

    name = "btrfs"

    def __init__(self, root: str, *, min_space: int = 0) -> None:
        """min_space: `btrfs.min_space`, the smallest size that may be asked for, bytes."""
        super().__init__(root)
        self._min_space = min_space
        self._quota = False
        if backing_name(root) != "btrfs":
            raise System(
                "driver not supported: btrfs: prerequisites for driver not satisfied"
                f" (wrong filesystem?): {root}"
            )

    def _check_options(self, options: Mapping[str, str]) -> None:
        super()._check_options({k: v for k, v in options.items() if k.lower() != "size"})
        for value in options.values():
            parse_size(value, least=self._min_space, name="btrfs.min_space")

    def _make(self, entry: Entry, path: str, options: Mapping[str, str]) -> None:
        at = os.open(path, _FOLDER)
        try:
            if entry.parent is None:
                _ioctl(at, _CREATE, _arguments("fs"))
                os.chmod("fs", 0o755, dir_fd=at)
            else:
                source = os.open(self._path(self._parent(entry.parent), "fs"), _FOLDER)
                try:
                    _ioctl(at, _SNAPSHOT, _arguments("fs", source))
                finally:
                    os.close(source)
            for value in options.values():
                self._limit(path + "/fs", parse_size(value))
        finally:
            os.close(at)

    def _limit(self, subvolume: str, size: int) -> None:
        fd = os.open(subvolume, _FOLDER)
        try:
            if not self._quota:
                _ioctl(fd, _QUOTA, struct.pack("QQ", _QUOTA_ENABLE, 0))
                self._quota = True
            _ioctl(fd, _LIMIT, struct.pack("6Q", 0, _MAX_REFERENCED, size, 0, 0, 0))
        finally:
            os.close(fd)

    def _seal(self, entry: Entry, path: str) -> None:
        fd = os.open(path + "/fs", _FOLDER)
        try:
            _ioctl(fd, _SET_FLAGS, struct.pack("Q", _READ_ONLY))
        finally:
            os.close(fd)

    def _delete(self, path: str) -> None:
        fs = path + "/fs"
        if os.path.isdir(fs):
            fd = os.open(fs, _FOLDER)
            try:
                _ioctl(fd, _SET_FLAGS, struct.pack("Q", 0))
            finally:
                os.close(fd)
            _destroy(path, "fs")
        remove_tree(path)

    def _mounts(self, entry: Entry) -> tuple[Mount, ...]:
        if entry.kind is Kind.ACTIVE:
            return (Mount("bind", self._path(entry, "fs"), ("rbind", "rw")),)
        return (Mount("bind", self._path(entry, "fs"), ("rbind", "ro")),)

    def _layer(self, entry: Entry) -> LayerFolder:
        lower = (self._path(self._parent(entry.parent), "fs"),) if entry.parent else ()
        return LayerFolder(self._path(entry, "fs"), Flavour.PLAIN, lower)

    def usage(self, key: str) -> Usage:
        layer = self.layer(key)
        return difference(layer.path, layer.lower[0] if layer.lower else None)

    def status(self) -> Sequence[tuple[str, str]]:
        return [("Btrfs", "")]


def _destroy(parent: str, name: str) -> None:
    """Delete a subvolume with those that a container made inside of it."""
    at = os.open(parent, _FOLDER)
    try:
        try:
            _ioctl(at, _DESTROY, struct.pack("q4088s", 0, name.encode()))
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        for folder, names, _, fd in os.fwalk(os.path.join(parent, name), topdown=False):
            for inner in names:
                info = os.stat(inner, dir_fd=fd, follow_symlinks=False)
                if info.st_ino == _ROOT_INODE:
                    _destroy(folder, inner)
        _ioctl(at, _DESTROY, struct.pack("q4088s", 0, name.encode()))
    finally:
        os.close(at)


def _arguments(name: str, source: int = 0) -> bytes:
    """struct btrfs_ioctl_vol_args_v2."""
    return struct.pack("qQQ4Q4040s", source, 0, 0, 0, 0, 0, 0, name.encode())


def _ioctl(fd: int, request: int, argument: bytes) -> None:
    fcntl.ioctl(fd, request, bytearray(argument), True)
