"""The launcher of keepers: a warm interpreter that forks them, as the shims' does."""

from __future__ import annotations

import socket

from gantry.ipc.launcher import SHIM
from gantry.shim import forking, handover, idle, opener
from gantry.shim.folder import Folder
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
    """Be the keeper whose control socket is `fd`; its last words go to its folder."""
    woken = idle.wait_for_child(fd, opener.main)
    if woken is None:
        return
    made = handover.unpack(*woken)
    try:
        Keeper(socket.socket(fileno=fd), made).serve()
    except BaseException:
        forking.last_words(Folder(made.folder))
        raise
