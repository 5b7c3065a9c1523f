"""The launcher of keepers: a warm interpreter that forks them, as the shims' does."""

from __future__ import annotations

from gantry.ipc.launcher import SHIM
from gantry.shim import forking, idle, opener
from gantry.shim.attendant import attend
from gantry.shim.keeper import Keeper
from gantry.shim.keeper_rehearsal import rehearse


def main(fd: int, folder: str) -> None:
    """Serve the daemon at the other end of socket `fd` until it goes away.

    folder: for the rehearsal, which makes and removes it.
    """
    forking.settle()
    rehearse(folder)
    forking.serve(fd, {SHIM: ("gantry-keeper", run_keeper)})


def run_keeper(fd: int, _none: int) -> None:
    """Be the keeper whose control socket is `fd`."""
    attend(Keeper, fd, idle.wait_for_child(fd, opener.main))
