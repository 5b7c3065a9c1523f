"""A container's whole file system, held by fd, for those who copy, compare or look.

A running container's is `/proc/<pid>/root`: everything that is mounted in it, seen through
its own mount namespace. That of a container that does not run is mounted in a namespace
that only this process holds: nothing of it is ever visible on the host, and it is gone
with the last fd. A thread makes it (unshare(2) of CLONE_NEWNS is a thread's own affair).

Paths are resolved by the kernel inside the root (openat2 RESOLVE_IN_ROOT); nothing of the
container is ever run or loaded.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from gantry.kernel.mountapi import MS_PRIVATE, MS_REC
from gantry.kernel.syscalls import CLONE_NEWNS, mount, unshare
from gantry.model.errors import System
from gantry.model.mount import Mount
from gantry.mounts import apply
from gantry.mounts.resolve import open_in_root

_READ_LIMIT = 4 << 20

_PLACE = "/sys"
"""Where trees are mounted in their namespaces: a folder that every machine has."""


class Tree:
    """A root directory by fd. Close it, or use it as a context manager."""

    def __init__(self, root: int, keep: Sequence[int] = ()) -> None:
        self.root = root
        self._fds = [root, *keep]

    @classmethod
    def of_process(cls, pid: int) -> Self:
        """The root of a running process. System when it is gone."""
        try:
            return cls(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise System(f"cannot open the container's root: {error.strerror}") from error

    @classmethod
    def mounted(cls, mounts: Sequence[Mount]) -> Self:
        """A private mount of a snapshot with what else `mounts` puts in it. Blocks; System."""
        made: list[int] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                made.extend(_mount_privately(mounts))
            except BaseException as error:
                failure.append(error)

        # The namespace is the thread's: it must end with it, so no pool's thread will do.
        thread = threading.Thread(target=work, name="private-mounts")
        thread.start()
        thread.join()
        if failure:
            raise System(f"cannot mount the container's file system: {failure[0]}") from failure[0]
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
