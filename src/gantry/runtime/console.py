"""The container's terminal: made from its own devpts, its master handed to the caller."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import Final

_TIOCSPTLCK: Final = 0x40045431
_TIOCGPTPEER: Final = 0x5441


def open_pair(ptmx: str, *, dirfd: int | None = None) -> tuple[int, int]:
    """(master, slave) from a ptmx file; the slave by ioctl, no path is believed."""
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dirfd)
    try:
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
