"""How a process ended, told by its pidfd to whoever holds one, not to its parent alone.

Source: pidfd_open(2), include/uapi/linux/pidfd.h (PIDFD_GET_INFO, Linux 6.13; the exit status
since 6.15). The kernel keeps the status for an open pidfd after the process was reaped; until
it was, there is none.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

_INFO: Final = struct.Struct("=QQ11Ii")
_GET_INFO: Final = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, …)
_EXIT: Final = 1 << 3


def exit_status(pidfd: int) -> int | None:
    """The wait status (as waitpid(2) gives it) of a process that has ended and was reaped.

    None: it has not, or the kernel does not tell.
    """
    answer = bytearray(_INFO.pack(_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, answer)
    except OSError:
        return None
    values = _INFO.unpack(answer)
    return values[-1] if values[0] & _EXIT else None


def tells_exit_status() -> bool:
    """Whether this kernel's pidfds do. Forks: to be called by the only thread."""
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        os.waitpid(pid, 0)
        return False
    try:
        os.waitpid(pid, 0)
        return exit_status(pidfd) == 3 << 8
    finally:
        os.close(pidfd)
