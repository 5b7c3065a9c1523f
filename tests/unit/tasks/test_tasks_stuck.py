"""A shim whose child was stopped before it executed is set free."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from gantry.tasks import stuck


def child(name: str, *, stopped: bool) -> int:
    """A process that sleeps, or has been stopped."""
    pid = os.fork()
    if pid == 0:
        Path("/proc/self/comm").write_text(name)
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)
        os._exit(0)
    return pid


def test_only_the_stopped_that_are_still_shims_are_killed() -> None:
    init = child("sleep", stopped=False)  # this process is the shim
    entrant = child("gantry-shim", stopped=True)
    program = child("sh", stopped=True)
    worker = child("gantry-shim", stopped=False)
    try:
        for pid in (entrant, program):
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert stuck.free(stuck.parent_of(init)) == 1
        assert os.waitstatus_to_exitcode(os.waitpid(entrant, 0)[1]) == -signal.SIGKILL
        assert stuck.free(stuck.parent_of(init)) == 0
    finally:
        for pid in (init, program, worker):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_shim_that_hangs_is_killed_and_nobody_else() -> None:
    mine = child("sleep", stopped=False)
    try:
        assert not stuck.end(stuck.parent_of(mine))  # its parent, this process, is no shim
    finally:
        os.kill(mine, signal.SIGKILL)
        os.waitpid(mine, 0)
    told, tell = os.pipe()
    shim = os.fork()
    if shim == 0:
        Path("/proc/self/comm").write_text("gantry-shim")
        os.write(tell, b"%d" % child("sleep", stopped=False))
        time.sleep(60)
        os._exit(0)
    init = int(os.read(told, 20))
    os.close(told)
    os.close(tell)
    try:
        assert stuck.end(stuck.parent_of(init))
        assert os.waitstatus_to_exitcode(os.waitpid(shim, 0)[1]) == -signal.SIGKILL
    finally:
        os.kill(init, signal.SIGKILL)


def test_a_container_that_is_gone() -> None:
    gone = child("sleep", stopped=False)
    os.kill(gone, signal.SIGKILL)
    os.waitpid(gone, 0)
    assert stuck.free(stuck.parent_of(gone)) == 0
    assert not stuck.end(stuck.parent_of(gone))
