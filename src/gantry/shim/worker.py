"""Work in a child of its own, so that what it leaves in memory goes away with it.

Making a container takes a few megabytes of parsed specifications and plans, which a
Python process never quite gives back. So the shim forks for it: the child does the work,
sends the result and is gone; the container's init, born to the child, is adopted by the
shim, the subreaper. The shim itself stays as small as it was when it was forked.

The child has none of the shim's fds but those that it is given: a container's process,
before its execve, holds no socket of ours.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence

from gantry.ipc import wire
from gantry.ipc.channel import Channel
from gantry.ipc.frames import Message
from gantry.kernel import syscalls
from gantry.model.errors import System

NAME = b"gantry-shim"
Result = tuple[wire.Head, bytes, Sequence[int]]


def run(work: Callable[[], Result], keep: Sequence[int] = ()) -> tuple[int, Message]:
    """Do `work` in a child: its pid (for the caller to wait for) and its answer.

    The answer's head has an "error" when `work` raised. keep: fds that the child shall
    have. System: the child was killed.
    """
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            # With the shim dies its work: a cleaner waits for this process and then cleans.
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            gc.disable()
            _close_others([theirs.fileno(), *keep])
            _answer(Channel(theirs), work)
        finally:
            os._exit(0)
    theirs.close()
    channel = Channel(ours)
    try:
        message = channel.receive()
    finally:
        channel.close()
    if message is None:
        os.waitpid(pid, 0)
        raise System("the process that was to do this was killed")
    return pid, message


def _answer(channel: Channel, work: Callable[[], Result]) -> None:
    try:
        head, body, fds = work()
    except Exception as error:
        channel.send({"error": wire.error_to_wire(error)})
    else:
        channel.send(head, body, fds)


def fork(work: Callable[[], None]) -> int:
    """Do `work` in a child in the background, at low priority: its pid. Nobody hears how it went
    but by its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.nice(10)
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def wait_gone(pid: int) -> None:
    """Kill a dead shim's worker, which may still be dying, and wait till it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            if file.read().strip() != NAME:
                return  # somebody else by now
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 5.0)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _close_others(keep: Sequence[int]) -> None:
    first = 3
    for fd in sorted(keep):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = max(first, fd + 1)
    syscalls.close_range(first)
