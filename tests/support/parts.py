"""Find gantryd's parts from outside: by /proc, not by its own word."""

from __future__ import annotations

import json
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
    """Return the pid of a container's shim, by its notes: it need not be init's parent."""

    def noted() -> int:
        cgroups = read(f"/proc/{container_pid}/cgroup")
        (task,) = [path for path in engine.exec_root.glob("tasks/*") if path.name in cgroups]
        found = int(json.loads(read(task / "state.json"))["shim"])
        assert read(f"/proc/{found}/comm").strip() == "gantry-shim"
        return found

    return eventually(noted)


def kill(pid: int) -> None:
    """SIGKILL, whether it is still there or not."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
