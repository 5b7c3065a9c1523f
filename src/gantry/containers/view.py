"""A container's whole file system, held by fd, for those who copy, compare or look.

A running container's is seen through a copy of its own mount namespace. That of a container
that does not run is mounted in a namespace that only this process holds: nothing of it is
ever visible on the host, and it is gone with the last fd. A thread makes either (unshare(2)
of CLONE_NEWNS is a thread's own affair).

Paths are resolved by the kernel inside the root (openat2 RESOLVE_IN_ROOT); nothing of the
container is ever run or loaded.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from gantry.kernel.mountapi import (
    MNT_DETACH,
    MS_PRIVATE,
    MS_REC,
    UMOUNT_NOFOLLOW,
    open_tree,
)
from gantry.kernel.syscalls import CLONE_NEWNS, mount, setns, umount2, unshare
from gantry.model.errors import System
from gantry.model.mount import Mount
from gantry.mounts import apply
from gantry.mounts.resolve import open_in_root

_READ_LIMIT = 4 << 20
CLONE_FS = 0x200

_PLACE = "/sys"
"""Where trees are mounted in their namespaces: a folder that every machine has."""


class Tree:
    """A root directory by fd. Close it, or use it as a context manager."""

    def __init__(self, root: int, keep: Sequence[int] = ()) -> None:
        self.root = root
        self._fds = [root, *keep]

    @classmethod
    def of_process(cls, pid: int, *, hide: Sequence[str] = (), alone: bool = False) -> Self:
        """The root of a running process. Blocks; System when it is gone.

        hide: mount points that are left out (/proc, /sys, /dev). alone: nothing that is
        mounted in it at all.
        """
        return cls._made(lambda: _of_process(pid, hide, alone))

    @classmethod
    def mounted(cls, mounts: Sequence[Mount]) -> Self:
        """A private mount of a snapshot with what else `mounts` puts in it. Blocks; System."""
        return cls._made(lambda: _mount_privately(mounts))

    @classmethod
    def _made(cls, make: Callable[[], tuple[int, ...]]) -> Self:
        made: list[int] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                made.extend(make())
            except BaseException as error:
                failure.append(error)

        # The namespace is the thread's: it must end with it, so no pool's thread will do.
        thread = threading.Thread(target=work, name="private-mounts")
        thread.start()
        thread.join()
        if failure:
            raise System(f"cannot open the container's file system: {failure[0]}") from failure[0]
        return cls(made[0], made[1:])

    def close(self) -> None:
        """Let go. Idempotent."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, path: str) -> bytes | None:
        """A small regular file, None where there is none."""
        try:
            held = open_in_root(self.root, path)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(held).st_mode):
                return None
            fd = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(held)
        with open(fd, "rb") as file:
            return file.read(_READ_LIMIT)


def _mount_privately(mounts: Sequence[Mount]) -> tuple[int, int]:
    """(fd of the root, fd of the namespace that keeps it mounted)."""
    unshare(CLONE_NEWNS)
    mount("", "/", None, MS_REC | MS_PRIVATE)
    namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        apply.apply(mounts, _PLACE)
        return os.open(_PLACE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), namespace
    except BaseException:
        os.close(namespace)
        raise


def _of_process(pid: int, hide: Sequence[str], alone: bool) -> tuple[int, ...]:
    """A copy of the process's mount namespace, so that nothing done here is seen in it."""
    this_thread = os.open("/proc/thread-self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            unshare(CLONE_FS)
            setns(theirs, CLONE_NEWNS)
        finally:
            os.close(theirs)
        if alone:
            return (open_tree("/"),)
        unshare(CLONE_NEWNS)
        mount("", "/", None, MS_REC | MS_PRIVATE)
        for path in hide:
            with contextlib.suppress(OSError):
                umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return root, os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=this_thread)
    finally:
        os.close(this_thread)
