"""Forking a process into namespaces, as a child of the caller."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import NoReturn, Protocol

from gantry.kernel import syscalls
from gantry.kernel.vfork import Program, vfork


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

    The caller must have one thread. fd may be a pidfd.
    """
    return _into_pid_namespace(lambda: fork(child), new=new, fd=fd, flags=flags)


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


def start_in_pid_namespace(child: Child, *, new: bool, fd: int | None, share_memory: bool) -> int:
    """Fork `child` as `fork_into_pid_namespace` does; its pid.

    share_memory: by vfork (kernel/vfork.py): then the child must not have to wait for
    anything from the caller, who sleeps until it has become its program.
    """
    if not share_memory:
        return fork_into_pid_namespace(lambda: run(child), new=new, fd=fd)
    if new and fd is None:
        return vfork(child.prepare, child.failed, flags=syscalls.CLONE_NEWPID)
    return _into_pid_namespace(lambda: vfork(child.prepare, child.failed), new=False, fd=fd)


def _into_pid_namespace(
    forked: Callable[[], int], *, new: bool, fd: int | None, flags: int = syscalls.CLONE_NEWPID
) -> int:
    """Only children change their pid namespace, so the caller points at it, forks, and
    points back at its own."""
    if not new and fd is None:
        return forked()
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if fd is not None:
            syscalls.setns(fd, flags)
        else:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            return forked()
        finally:
            # Also before the child has done anything: with its init gone, the namespace
            # takes no more processes, and the caller could never fork again.
            syscalls.setns(own, syscalls.CLONE_NEWPID)
    finally:
        os.close(own)
