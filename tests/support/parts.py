"""Find gantryd's parts from outside: by /proc, not by its own word."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from tests.support.engine import Engine, read
from tests.support.wait import eventually


def parent(pid: int) -> int:
    """Return a process's parent."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def launcher(engine: Engine) -> int:
    """Return the pid of the daemon's warm launcher."""
    found = [
        pid
        for pid in engine.processes()
        if parent(pid) == engine.pid and "launcher" in read(f"/proc/{pid}/cmdline")
    ]
    assert len(found) == 1, f"{len(found)} launchers: {found}"
    return found[0]


def shim(engine: Engine, container_pid: int) -> int:
    """Return the pid of a container's shim: its first process's parent.

    For a moment that is a helper which the shim forked, so its own parent has to be no shim:
    the launcher, or init where the launcher is gone.
    """

    def settled() -> int:
        found = parent(container_pid)
        assert found in engine.processes(), f"{found} is no process of the engine"
        above = parent(found)
        assert above == 1 or parent(above) in (1, engine.pid), f"{found} is a helper"
        return found

    return eventually(settled)


def kill(pid: int) -> None:
    """SIGKILL, whether it is still there or not."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
