"""Ends of processes, and what they said before."""

from __future__ import annotations

import os
import signal

from gantry.kernel import syscalls
from gantry.runtime.errors import RuntimeFailure

UNABLE = "unable to start container process: "


def failure_of(body: bytes) -> RuntimeFailure:
    """The error that a FAILED message carries, introduced as runc does."""
    return RuntimeFailure(UNABLE + body[1:].decode("utf-8", "replace"), body[0] if body else 128)


def wait_exit(pid: int, seconds: float) -> bool:
    """Wait for any process to end (not reaping it); False when the time is over."""
    try:
        pidfd = syscalls.pidfd_open(pid)
    except OSError:
        return True
    try:
        return _ended(pidfd, seconds)
    finally:
        os.close(pidfd)


def _ended(pidfd: int, seconds: float) -> bool:
    import select  # a library of its own, that few commands need

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def kill_sibling(pidfd: int) -> None:
    """End a process that its parent, not we, will reap; wait for that, and forget it."""
    try:
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
        _ended(pidfd, 5)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def kill_and_reap(pid: int) -> None:
    """End a child of ours and wait for it."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return
