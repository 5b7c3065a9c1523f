"""Loop devices (loop(4)): a file as a block device."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct
from typing import Final

_CTL_GET_FREE: Final = 0x4C82
_SET_FD: Final = 0x4C00
_CLR_FD: Final = 0x4C01
_SET_STATUS64: Final = 0x4C04
_SET_CAPACITY: Final = 0x4C07
_GET_STATUS64: Final = 0x4C05
_STATUS_SIZE: Final = 232
_TRIES: Final = 50


def attach(path: str) -> str:
    """A loop device of a file, for reading and writing: the one it has, or a free one."""
    found = find(path)
    if found is not None:
        return found
    backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
            try:
                number = fcntl.ioctl(control, _CTL_GET_FREE)
            finally:
                os.close(control)
            device = f"/dev/loop{number}"
            try:
                _bind(device, backing, path)
                return device
            except OSError as error:
                if error.errno != errno.EBUSY:  # somebody else was faster
                    raise
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, "no free loop device", path)


def find(path: str) -> str | None:
    """The loop device whose backing file this is."""
    info = os.stat(path)
    for name in os.listdir("/sys/block"):
        if not name.startswith("loop"):
            continue
        device = "/dev/" + name
        try:
            fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = array.array("B", bytes(_STATUS_SIZE))
            fcntl.ioctl(fd, _GET_STATUS64, status)
            dev, inode = struct.unpack_from("QQ", status.tobytes())
            if inode == info.st_ino and dev == info.st_dev:
                return device
        except OSError:
            continue  # not in use
        finally:
            os.close(fd)
    return None


def detach(device: str) -> None:
    """Let go of the file; with the device's last user at the latest."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _CLR_FD)
    finally:
        os.close(fd)


def grown(device: str) -> None:
    """The backing file has become longer."""
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SET_CAPACITY)
    finally:
        os.close(fd)


def _bind(device: str, backing: int, path: str) -> None:
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SET_FD, backing)
        name = os.fsencode(path)[-63:]
        status = struct.pack("QQQQQ IIII 64s 64s 32s QQ", *[0] * 9, name, b"", b"", 0, 0)
        fcntl.ioctl(fd, _SET_STATUS64, status)
    finally:
        os.close(fd)
