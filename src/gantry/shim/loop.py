"""The shim's event loop: epoll, timers and children, in one thread."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
GONE = select.EPOLLHUP | select.EPOLLERR

Ready = Callable[[int], None]


class Loop:
    """Callbacks by fd, by time and by child.

    An fd may be watched for nothing (mask 0): its callback then hears of GONE alone.
    `on_child` is called with (pid, wait status) for every child that nobody waited for,
    adopted orphans too; it runs between other callbacks, never inside one. SIGCHLD must
    have a handler (any: it makes Python write to the wakeup fd).
    """

    def __init__(self, on_child: Callable[[int, int], None]) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._timers: dict[int, tuple[float, Callable[[], None]]] = {}
        self._last_timer = 0
        self._on_child = on_child
        self._stopped = False
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup, self._writer = reader, writer
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.watch(reader, READ, self._woken)

    def watch(self, fd: int, mask: int, ready: Ready) -> None:
        """Call `ready(events)` while `fd` is ready."""
        self._ready[fd] = ready
        self._epoll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        """Watch for something else."""
        self._epoll.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; to be called before it is closed."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> int:
        """Call once, not before `seconds` have passed; gives a number for `cancel`."""
        self._last_timer += 1
        self._timers[self._last_timer] = (time.monotonic() + seconds, call)
        return self._last_timer

    def cancel(self, timer: int) -> None:
        """Forget a timer; one that has fired is fine."""
        self._timers.pop(timer, None)

    def stop(self) -> None:
        """`run` returns after the present callback."""
        self._stopped = True

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopped:
            self.turn(self._patience())

    def turn(self, patience: float) -> None:
        """Wait that long for what is ready, and serve it once."""
        for fd, events in self._epoll.poll(patience):
            ready = self._ready.get(fd)
            if ready is not None:
                ready(events)
            if self._stopped:
                return
        if self._timers:
            self._expire()

    def close(self) -> None:
        """Forget everything; fds that were watched are their owners' to close."""
        signal.set_wakeup_fd(-1)
        os.close(self._wakeup)
        os.close(self._writer)
        self._epoll.close()

    def _patience(self) -> float:
        if not self._timers:
            return -1
        first = min(due for due, _ in self._timers.values())
        return max(0.0, first - time.monotonic())

    def _expire(self) -> None:
        now = time.monotonic()
        for number, (due, call) in list(self._timers.items()):
            if due <= now and number in self._timers:
                del self._timers[number]
                call()

    def _woken(self, _events: int) -> None:
        try:
            os.read(self._wakeup, 512)
        except BlockingIOError:
            pass
        self.children()

    def children(self) -> None:
        """Report the children that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._on_child(pid, status)


def would_block(error: OSError) -> bool:
    """EAGAIN by any name."""
    return error.errno in (errno.EAGAIN, errno.EINTR)
