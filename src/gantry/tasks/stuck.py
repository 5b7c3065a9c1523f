"""Set a shim free that waits for a process which somebody has stopped.

On its way into a container an exec'ed process is visible there, and root in the container
may send it a SIGSTOP before it executes. Its shim sleeps until it has (kernel/vfork.py), and
would sleep for ever: no stop, no kill, no logs. So when a shim does not answer, those of its
children that are stopped and still it are killed, which is the end of that exec, no more.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gantry.kernel import syscalls

_NAME = "gantry-shim"


def free(shim: int) -> int:
    """Kill what holds up the shim with this pid; how many."""
    killed = 0
    for pid in _children(shim):
        try:
            pidfd = syscalls.pidfd_open(pid)
        except OSError:
            continue
        try:
            # With the pidfd open the pid is nobody else's, so what /proc says is of it.
            state, parent, name = _stat(pid)
            if parent == shim and state in "Tt" and name == _NAME:
                syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
                killed += 1
        except OSError:
            continue
        finally:
            os.close(pidfd)
    return killed


def parent_of(pid: int) -> int:
    """A process's parent, 0 when it is gone."""
    return _stat(pid)[1]


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _stat(pid: int) -> tuple[str, int, str]:
    """State letter, parent and name; ("", 0, "") of a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", 0, ""
    head, _, tail = text.rpartition(")")
    state, parent = tail.split()[:2]
    return state, int(parent), head.partition("(")[2]
