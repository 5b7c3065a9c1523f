"""Hearing of the kernel's kills for memory while they happen.

cgroup v1 signals an eventfd when a cgroup runs out of memory (memory.oom_control), and when
it is removed; cgroup v2 changes memory.events, which inotify(7) tells of.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Final

from gantry.cgroups.oom import kills_in
from gantry.kernel import libc

_V1: Final = "memory.oom_control"
_MODIFIED: Final = 2  # IN_MODIFY
_INIT: Final = libc.libc.inotify_init1
_ADD: Final = libc.libc.inotify_add_watch
_ADD.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


def watch(files: Sequence[str]) -> int:
    """An fd that is readable after each kill (and may be for less); -1: there is none.

    files: as `cgroups.oom.files_of` gives them.
    """
    for path in files:
        try:
            if path.endswith(_V1):
                return _eventfd(path)
            return _inotify(path)
        except OSError:
            continue  # the container has ended, or the kernel has no such thing
    return -1


def _eventfd(path: str) -> int:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    opened: list[int] = []
    try:
        opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        folder = os.path.dirname(path)
        opened.append(os.open(f"{folder}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC))
        os.write(opened[1], f"{fd} {opened[0]}".encode())
    except OSError:
        os.close(fd)
        raise
    finally:
        for one in opened:
            os.close(one)
    return fd


def _inotify(path: str) -> int:
    fd = int(_INIT(os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        raise libc.failed("inotify_init1")
    if _ADD(fd, path.encode(), _MODIFIED) < 0:
        error = libc.failed("inotify_add_watch", path)
        os.close(fd)
        raise error
    return fd


def happened(fd: int, files: Sequence[str], before: int) -> tuple[bool, int]:
    """Take what made `fd` readable: whether it was a kill, and how many there have been.

    before: how many there had been at the last call.
    """
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        return False, before
    kills = kills_in(files)
    if any(path.endswith(_V1) for path in files):
        # v1 tells before it kills, so the count says nothing; and of the cgroup's removal.
        return any(os.path.exists(path) for path in files), kills
    return kills > before, kills
