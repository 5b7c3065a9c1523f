"""Mounts that only an fd knows: made in a mount namespace that nobody else is in.

For those who read or write a snapshot's files without any trace on the host. The namespace is
a short-lived thread's; its fd keeps the mounts, and they are gone with it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence

from gantry.kernel import mountapi, syscalls
from gantry.model.errors import System
from gantry.model.mount import Mount
from gantry.model.snapshot import LayerFolder
from gantry.mounts.apply import apply

_PLACE = "/sys"
"""Where the mounts go in their namespace: a folder that every machine has."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def mounted(mounts: Sequence[Mount]) -> Iterator[int]:
    """An fd of the root of `mounts`, for as long as the context lasts. Blocks; System."""
    made: list[int] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", None, mountapi.MS_REC | mountapi.MS_PRIVATE)
            made.append(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
            apply(mounts, _PLACE)
            made.append(os.open(_PLACE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except BaseException as error:  # it belongs to who waits
            failure.append(error)

    thread = threading.Thread(target=work, name="private-mounts")
    thread.start()
    thread.join()
    try:
        if failure:
            raise System(f"cannot mount snapshot: {failure[0]}") from failure[0]
        yield made[1]
    finally:
        for fd in reversed(made):
            os.close(fd)


@contextlib.contextmanager
def opened(folder: LayerFolder) -> Iterator[tuple[int, list[int]]]:
    """A layer's own folder and those below it, as fds, mounted where they have to be."""
    with contextlib.ExitStack() as scope:

        def open_(path: str, mounts: Sequence[Mount]) -> int:
            if mounts:
                return scope.enter_context(mounted(mounts))
            try:
                fd = os.open(path, _FOLDER)
            except OSError as error:
                raise System(f"cannot open snapshot: {error}") from error
            scope.callback(os.close, fd)
            return fd

        own = open_(folder.path, folder.mounts)
        if folder.lower_mounts:
            yield own, [open_("", folder.lower_mounts)]
        else:
            yield own, [open_(path, ()) for path in folder.lower]
