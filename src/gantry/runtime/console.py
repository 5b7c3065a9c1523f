"""The container's terminal: made from its own devpts, its master handed to the caller."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from typing import Final

from gantry.kernel.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

_TIOCSPTLCK: Final = 0x40045431
_TIOCGPTPEER: Final = 0x5441


_PTMX: Final = os.makedev(5, 2)


def open_pair(devpts: int | None = None) -> tuple[int, int]:
    """(master, slave) from a devpts, or from the host's; the slave by ioctl, no path is
    believed. Only the devpts's own ptmx is opened: nothing that was mounted over it."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    if devpts is None:
        master = os.open("/dev/ptmx", flags)
    else:
        alone = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS
        master = openat2(devpts, "ptmx", flags, resolve=alone)
    try:
        if os.fstat(master).st_rdev != _PTMX:
            raise OSError(errno.ENODEV, "not a terminal multiplexer", "ptmx")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise
    return master, slave


def set_size(fd: int, height: int, width: int) -> None:
    """TIOCSWINSZ."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def plain_lines(fd: int) -> None:
    """Line ends as the program writes them (ONLCR off): what shows them is a terminal too."""
    settings = termios.tcgetattr(fd)
    settings[1] &= ~termios.ONLCR
    termios.tcsetattr(fd, termios.TCSANOW, settings)


def take(slave: int, *, control: bool = True) -> None:
    """Make `slave` stdio, and the controlling terminal unless somebody else does that: it
    has to be the leader of the session (setsid)."""
    if control:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
