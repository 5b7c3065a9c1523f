"""Processes that run, and when their ends are told: as soon as their output is complete."""

from __future__ import annotations

import os
from collections.abc import Callable

from gantry.kernel import syscalls
from gantry.model.errors import NotFound
from gantry.model.task import ExitStatus
from gantry.shim.loop import Loop
from gantry.shim.stdio import ProcessIO

DRAIN_SECONDS = 2.0
"""How long outputs that others still hold open are read after the process's end (moby's)."""


class Running:
    """A process of the container: init ("") or exec'ed. exit is set when it has ended.

    pidfd: of one that others reap, -1 for a child of ours.
    """

    __slots__ = ("exit", "io", "name", "pid", "pidfd", "told")

    def __init__(self, name: str, pid: int, io: ProcessIO, pidfd: int = -1) -> None:
        self.name = name
        self.pid = pid
        self.pidfd = pidfd
        self.io = io
        self.exit: ExitStatus | None = None
        self.told = False

    def signal(self, number: int) -> None:
        """NotFound when it has ended: the launcher may have reaped what we have yet to hear of."""
        try:
            if self.pidfd < 0:
                os.kill(self.pid, number)  # not reaped yet: the pid can be nobody else's
            else:
                syscalls.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            raise NotFound("process already finished") from None


class Endings:
    """tell: called once for each process that has ended, after all its output was read."""

    def __init__(self, loop: Loop, tell: Callable[[str, ExitStatus], None]) -> None:
        self._loop = loop
        self._tell = tell

    def ended(self, process: Running, status: ExitStatus) -> None:
        """A process has ended; others may still hold its output open, and go on writing."""
        process.exit = status
        process.io.drain()
        self.look(process)
        if not process.told:
            self._wait(process, process.io.activity)

    def look(self, process: Running) -> None:
        """Tell, if there is something to tell. To be called when a process's output ended."""
        if process.exit is not None and process.io.ended and not process.told:
            process.told = True
            self._tell(process.name, process.exit)

    def _wait(self, process: Running, activity: int) -> None:
        def later() -> None:
            if process.told:
                return
            if process.io.activity == activity:
                process.io.finish()
            else:
                self._wait(process, process.io.activity)

        self._loop.later(DRAIN_SECONDS, later)
