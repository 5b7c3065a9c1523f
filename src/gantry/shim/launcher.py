"""The launcher: a warm interpreter that forks shims, and starters to make their containers.

Started by the daemon from a sealed copy of the interpreter in memory, with one socket.
Everything that a shim needs is imported before the first fork and then frozen, so that
a shim costs a fork (its pages stay shared) and loads nothing later.

One fork a shim, not two: the launcher reaps shims when they end, so there is no need for
them to be init's from the start. It reaps the first processes of containers, too, which a
starter makes its siblings.
"""

from __future__ import annotations

import ctypes

from gantry.ipc.launcher import READY, READY_ALL, SHIM, STARTER
from gantry.kernel import pidfd, syscalls
from gantry.shim import forking, idle, starter
from gantry.shim.attendant import attend
from gantry.shim.rehearsal import rehearse
from gantry.shim.service import Shim

# As bare as ctypes can: no conversions, no errno. It is all that a shim calls by it.
_prctl = ctypes.PyDLL(None).prctl


def main(fd: int, folder: str) -> None:
    """Serve the daemon at the other end of socket `fd` until it goes away.

    folder: for the rehearsal, which makes and removes it.
    """
    ready = READY_ALL if pidfd.tells_exit_status() else READY  # before children are reaped
    forking.settle()
    rehearse(folder)
    children = {SHIM: ("gantry-shim", run_shim), STARTER: ("gantry-starter", _run_starter)}
    forking.serve(fd, children, ready)


def run_shim(fd: int, hand: int) -> None:
    """Be the shim whose control socket is `fd`.

    hand: where its container comes from; -1: it has it made by a child.
    """
    _prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if hand < 0:
        woken = idle.wait_for_child(fd, starter.for_one)
    else:
        woken = idle.wait(fd, hand, starter.for_one)
    attend(Shim, fd, woken)


def _run_starter(requests: int, _none: int) -> None:
    starter.for_many(requests)
