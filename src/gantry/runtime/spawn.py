"""Forking a process into namespaces, as a child of the caller."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import NoReturn

from gantry.kernel import syscalls


def fill_stdio() -> None:
    """Make sure that 0, 1 and 2 are open: no fd of ours may come to lie there."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if fd > 2:
            os.close(fd)
            return


def fork(child: Callable[[], NoReturn]) -> int:
    """os.fork whose child runs `child` and never returns here; the child's pid."""
    collecting = gc.isenabled()
    gc.disable()  # a collection in the child would touch, and so copy, every page
    try:
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                os._exit(1)
        return pid
    finally:
        if collecting:
            gc.enable()


def fork_into_pid_namespace(
    child: Callable[[], NoReturn], *, new: bool, fd: int | None, flags: int = syscalls.CLONE_NEWPID
) -> int:
    """Fork a child into a new pid namespace, or the one that `fd` is (or leads to).

    Only children change their pid namespace, so the caller points at it, forks, and
    points back at its own. The caller must have one thread. fd may be a pidfd.
    """
    if not new and fd is None:
        return fork(child)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if fd is not None:
            syscalls.setns(fd, flags)
        else:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            return fork(child)
        finally:
            # Also before the child has done anything: with its init gone, the namespace
            # takes no more processes, and the caller could never fork again.
            syscalls.setns(own, syscalls.CLONE_NEWPID)
    finally:
        os.close(own)
