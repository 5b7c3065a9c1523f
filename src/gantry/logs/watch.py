"""Hear of changes of one file (inotify(7)) in an asyncio loop."""

from __future__ import annotations

import asyncio
import os

from gantry.kernel.libc import failed, libc

_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_IN_MOVE_SELF = 0x800
_IN_DELETE_SELF = 0x400
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK


class FileWatch:
    """Set `changed` whenever the watched file is written, renamed or unlinked."""

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._fd = libc.inotify_init1(_FLAGS)
        if self._fd < 0:
            raise failed("inotify_init1")
        self._watched = -1
        self._loop.add_reader(self._fd, self._readable)

    def watch(self, fd: int) -> None:
        """Watch the file that `fd` is, and no longer the one before."""
        if self._watched >= 0:
            libc.inotify_rm_watch(self._fd, self._watched)
        path = f"/proc/self/fd/{fd}"
        mask = _IN_MODIFY | _IN_ATTRIB | _IN_MOVE_SELF | _IN_DELETE_SELF
        self._watched = libc.inotify_add_watch(self._fd, path.encode(), mask)
        if self._watched < 0:
            raise failed("inotify_add_watch", path)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        try:
            os.read(self._fd, 4096)
        except BlockingIOError:
            return
        self._changed.set()
