"""Forking a process into namespaces, as a child of the caller."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import NoReturn, Protocol

from gantry.kernel import syscalls
from gantry.kernel.vfork import Program


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

    The caller must have one thread. fd may be a pidfd. Who joins a namespace is seen there
    from its first moment on: so the caller, from now on for good, and its child are not
    dumpable, and nobody there can look into them (CVE-2016-9962).
    """
    if not new and fd is None:
        return fork(child)
    if fd is not None:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Only children change their pid namespace: the caller points at it, forks, and
        # points back at its own.
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


class Child(Protocol):
    """A process on its way to a program."""

    def prepare(self) -> Program | int:
        """Do everything but execve(2). What to execute, or after a failure that has been
        reported the code to exit with. Leaves Python's own state as it was."""
        ...

    def failed(self, number: int) -> int:
        """Say that execve(2) has failed with this errno; the code to exit with."""
        ...


def run(child: Child) -> NoReturn:
    """Be `child`."""
    code = 1
    try:
        program = child.prepare()
        if isinstance(program, Program):
            try:
                syscalls.execve(*program)
            except OSError as error:
                code = child.failed(error.errno or 0)
        else:
            code = program
    finally:
        os._exit(code)
