"""Project quotas (quotactl(2), FS_IOC_FSSETXATTR): a limit for one folder and all below it.

For `--storage-opt size=` of overlay2 on a file system that has them: XFS mounted with `pquota`,
ext4 with the `project` and `quota` features and `prjquota`. Each limited folder gets a
project id of its own; files made below inherit it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import threading
from typing import Final

from gantry.kernel.libc import libc
from gantry.model.errors import System

_GET_XATTR: Final = 0x801C581F
_SET_XATTR: Final = 0x401C5820
_INHERIT: Final = 0x200
_PROJECT: Final = 2
_SET_QUOTA: Final = 0x800008
_XFS_SET_LIMITS: Final = 0x5804
_BLOCK_LIMITS: Final = 1
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST: Final = 1 << 20
"""Project ids below are left to the administrator."""


class ProjectQuota:
    """Limits on the file system that `root` is on. System where it has no project quotas.

    backing: the block device's node, made below `root` as Docker does: quotactl(2) wants one.
    """

    def __init__(self, root: str, xfs: bool) -> None:
        self._root = root
        self._xfs = xfs
        self._device = os.path.join(root, "backingFsBlockDev")
        self._lock = threading.Lock()
        self._next = _FIRST
        info = os.stat(root)
        try:
            if os.path.lexists(self._device):
                os.unlink(self._device)
            os.mknod(self._device, stat.S_IFBLK | 0o600, info.st_dev)
        except OSError as error:
            raise System(f"cannot make {self._device}: {error}") from error
        self._limit(_FIRST - 1, 0)
        for name in os.listdir(root):
            self._next = max(self._next, self._project(os.path.join(root, name)) + 1)

    def set(self, folder: str, size: int) -> None:
        """Let `folder`, fresh and empty, hold at most `size` bytes. OSError, System."""
        with self._lock:
            project, self._next = self._next, self._next + 1
        self._limit(project, size)
        fd = os.open(folder, _FOLDER)
        try:
            buffer = bytearray(28)
            fcntl.ioctl(fd, _GET_XATTR, buffer, True)
            flags, extent, extents, _, cow = struct.unpack_from("5I", buffer)
            struct.pack_into("5I", buffer, 0, flags | _INHERIT, extent, extents, project, cow)
            fcntl.ioctl(fd, _SET_XATTR, buffer, True)
        finally:
            os.close(fd)

    def _project(self, folder: str) -> int:
        try:
            fd = os.open(folder, _FOLDER)
        except OSError:
            return 0
        try:
            buffer = bytearray(28)
            fcntl.ioctl(fd, _GET_XATTR, buffer, True)
            return int(struct.unpack_from("5I", buffer)[3])
        except OSError:
            return 0
        finally:
            os.close(fd)

    def _limit(self, project: int, size: int) -> None:
        if self._xfs:
            command = (_XFS_SET_LIMITS << 8) | _PROJECT
            sectors = size // 512
            # struct fs_disk_quota: version, flags, fieldmask, id, hard and soft limits, ...
            data = struct.pack(
                "bbHIQQ", 1, 2, 0b1100, project & 0xFFFFFFFF, sectors, sectors
            ).ljust(112, b"\0")
        else:
            command = (_SET_QUOTA << 8) | _PROJECT
            blocks = -(-size // 1024)
            data = struct.pack("8QI4x", blocks, blocks, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)
        buffer = ctypes.create_string_buffer(data, len(data))
        ctypes.set_errno(0)
        if libc.quotactl(
            ctypes.c_int(command if command < 1 << 31 else command - (1 << 32)),
            os.fsencode(self._device),
            ctypes.c_int(project),
            buffer,
        ):
            number = ctypes.get_errno()
            if number in (errno.ENOSYS, errno.ESRCH, errno.EINVAL, errno.ENOTSUP, errno.ENODEV):
                raise System(f"no project quotas on the file system of {self._root}")
            raise System(f"quotactl: {os.strerror(number)}")
