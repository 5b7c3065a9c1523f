"""Set a shim free that waits for a process which somebody has stopped; or end it.

On its way into a container an exec'ed process may be visible there, and root in the container
may send it a SIGSTOP before it is ready. Its shim waits for that, and would wait for ever: no
stop, no kill, no logs. So when a shim does not answer, those of its children that are stopped
and still it are killed, which is the end of that exec, no more.

What a process does on its way may also take for ever by itself: looking at files of a file
system that does not answer. Nobody can tell from outside when that is over, but a container
that is to be killed is killed: together with its shim, when there is no other way.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from gantry.kernel import syscalls

_NAME = "gantry-shim"


def free(shim: int) -> int:
    """Kill what holds up the shim with this pid; how many."""

    def stopped(state: str, parent: int, name: str) -> bool:
        return parent == shim and state in "Tt" and name == _NAME

    return sum(_kill(pid, stopped) for pid in _children(shim))


def end(shim: int) -> bool:
    """Kill the shim with this pid; whether it was one."""
    return _kill(shim, lambda _state, _parent, name: name == _NAME)


def _kill(pid: int, wanted: Callable[[str, int, str], bool]) -> bool:
    try:
        pidfd = syscalls.pidfd_open(pid)
    except OSError:
        return False
    try:
        # With the pidfd open the pid is nobody else's, so what /proc says is of it.
        if not wanted(*_stat(pid)):
            return False
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


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
