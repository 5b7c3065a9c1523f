"""Named pipes as a process's standard streams: containerd's shim is at their other ends."""

from __future__ import annotations

import os

from gantry.ipc.frames import close_all
from gantry.model.task import StdioSpec
from gantry.shim.pipes import OurFds

_INIT = "init"
_EXEC = "exec-"


class Fifos:
    """The pipes of one process: the first one ("") or an exec. Paths; "" for a stream that it
    has not got. A terminal has one output."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, folder: str, name: str, stdio: StdioSpec) -> None:
        stem = f"{folder}/{_EXEC + name if name else _INIT}"
        self.stdin = f"{stem}.in" if stdio.open_stdin or stdio.terminal else ""
        self.stdout = f"{stem}.out"
        self.stderr = "" if stdio.terminal else f"{stem}.err"

    def paths(self) -> dict[str, str]:
        """By the streams' names."""
        return {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr}

    def make(self) -> None:
        """Make them; those of a keeper that was killed are there."""
        for path in (self.stdin, self.stdout, self.stderr):
            if path:
                try:
                    os.mkfifo(path, 0o600)
                except FileExistsError:
                    pass

    def open(self) -> OurFds:
        """Our ends. An output does not end before somebody has begun to write."""
        ours = OurFds()
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        try:
            if self.stdin:
                # For reading, too: nobody reads yet, and data would be lost with a last reader.
                ours.stdin = os.open(self.stdin, os.O_RDWR | flags)
            ours.stdout = os.open(self.stdout, os.O_RDONLY | flags)
            if self.stderr:
                ours.stderr = os.open(self.stderr, os.O_RDONLY | flags)
        except BaseException:
            close_all(ours.fds())
            raise
        return ours

    def remove(self) -> None:
        """Remove them. Idempotent."""
        for path in (self.stdin, self.stdout, self.stderr):
            if path:
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass


def execs_in(folder: str) -> list[tuple[str, StdioSpec]]:
    """Execs whose pipes are there, and which streams they have."""
    entries = set(os.listdir(folder))
    found = []
    for entry in sorted(entries):
        stem, _, kind = entry.rpartition(".")
        if kind == "out" and stem.startswith(_EXEC):
            stdio = StdioSpec(
                terminal=f"{stem}.err" not in entries, open_stdin=f"{stem}.in" in entries
            )
            found.append((stem.removeprefix(_EXEC), stdio))
    return found
