"""Network namespaces, held by file descriptors only.

Nothing is bind-mounted: a namespace lives as long as a process in it, or an fd of it.
So the ones that were made ahead vanish with the daemon by themselves, and a running
container's is found again at /proc/<pid>/ns/net.

unshare(2) and setns(2) act on a thread. All of it happens on one worker thread that is
home again whenever a job is done; the event loop's thread never leaves the host's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from gantry.kernel import syscalls
from gantry.network import netlink

T = TypeVar("T")

_log = logging.getLogger(__name__)

CLONE_NEWNET = 0x40000000


def open_of(pid: int) -> int:
    """An fd of the network namespace of process `pid`. FileNotFoundError when it is gone."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def same(fd: int, other: int) -> bool:
    return os.path.sameopenfile(fd, other)


def _remove_links(indexes: Sequence[int]) -> None:
    try:
        with netlink.Socket() as sock:
            sock.batch([netlink.delete_link(index) for index in indexes])
    except OSError as error:
        _log.warning("cannot remove a network's devices: %s", error)


def _close_result(future: Future[int]) -> None:
    if not future.cancelled() and future.exception() is None:
        os.close(future.result())


class Namespaces:
    """The worker thread, and what is done on it. Home is the namespace of the thread that
    makes this object: the worker inherits it."""

    def __init__(self) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="netns")
        self._remover: ThreadPoolExecutor | None = None
        self._host: netlink.Socket | None = None

    def close(self) -> None:
        """Waits for what was asked for."""
        self._worker.shutdown(wait=True)
        if self._remover is not None:
            self._remover.shutdown(wait=True)
        if self._host is not None:
            self._host.close()
            self._host = None
        if self._home >= 0:
            os.close(self._home)
            self._home = -1

    async def run(self, job: Callable[[], T]) -> T:
        """`job()` on the worker thread. It is carried out even if the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, job)

    def remove_links(self, indexes: Sequence[int]) -> None:
        """Delete links of the host, later. Nobody waits for that: the kernel takes some 30 ms
        to let go of one, most of it without holding up others, so a thread of its own does.
        """
        self._later(partial(_remove_links, tuple(indexes)))

    def close_later(self, fd: int) -> None:
        """Close a packet socket, for which the kernel waits as long."""
        self._later(partial(os.close, fd))

    def _later(self, job: Callable[[], None]) -> None:
        if self._remover is None:
            self._remover = ThreadPoolExecutor(1, thread_name_prefix="netns-remove")
        self._remover.submit(job)

    async def removed(self) -> None:
        """Wait until all that `remove_links` was told is gone."""
        if self._remover is not None:
            await asyncio.get_running_loop().run_in_executor(self._remover, bool)

    async def run_for_fd(self, job: Callable[[], int]) -> int:
        """Like `run` for a job that makes an fd: closed when the caller was cancelled."""
        future = self._worker.submit(job)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancel():
                future.add_done_callback(_close_result)
            raise

    @property
    def home(self) -> int:
        """fd of the host's (the daemon's own) namespace."""
        return self._home

    # The rest runs on the worker thread.

    @property
    def host(self) -> netlink.Socket:
        """The worker's own rtnetlink socket in the host's namespace."""
        if self._host is None:
            self._host = netlink.Socket()
        return self._host

    def create(self, job: Callable[[int], T]) -> tuple[int, T]:
        """A new namespace: its fd, and what `job(fd)`, called inside it, returned."""
        syscalls.unshare(CLONE_NEWNET)
        try:
            fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return fd, job(fd)
            except BaseException:
                os.close(fd)
                raise
        finally:
            syscalls.setns(self._home, CLONE_NEWNET)

    def inside(self, fd: int, job: Callable[[], T]) -> T:
        """`job()` with the thread in the namespace `fd`."""
        syscalls.setns(fd, CLONE_NEWNET)
        try:
            return job()
        finally:
            syscalls.setns(self._home, CLONE_NEWNET)
