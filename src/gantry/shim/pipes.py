"""The two sides of a process's standard streams."""

from __future__ import annotations

import fcntl
import os

from gantry.ipc.frames import close_all
from gantry.model.task import StdioSpec

_PIPE_SIZE = 1 << 18
_SETPIPE = 1031  # fcntl.F_SETPIPE_SZ; not in Python 3.11's module on every build


class ChildFds:
    """The process's ends: all three -1 for a terminal, which the runtime makes."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: int = -1, stdout: int = -1, stderr: int = -1) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    def fds(self) -> list[int]:
        return [fd for fd in (self.stdin, self.stdout, self.stderr) if fd >= 0]


class OurFds:
    """The other ends, all non-blocking; console: the terminal's, else -1."""

    __slots__ = ("console", "stderr", "stdin", "stdout")

    def __init__(
        self, stdin: int = -1, stdout: int = -1, stderr: int = -1, console: int = -1
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.console = console

    def fds(self) -> list[int]:
        return [fd for fd in (self.stdin, self.stdout, self.stderr, self.console) if fd >= 0]


def make(spec: StdioSpec) -> tuple[ChildFds, OurFds]:
    """Pipes for a process that is about to start; a terminal comes from the runtime."""
    child, ours = ChildFds(), OurFds()
    if spec.terminal:
        return child, ours
    try:
        if spec.open_stdin:
            child.stdin, ours.stdin = os.pipe2(os.O_CLOEXEC)
        else:
            child.stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        ours.stdout, child.stdout = os.pipe2(os.O_CLOEXEC)
        ours.stderr, child.stderr = os.pipe2(os.O_CLOEXEC)
        for fd in ours.fds():
            os.set_blocking(fd, False)
    except BaseException:
        close_all([*child.fds(), *ours.fds()])
        raise
    try:
        fcntl.fcntl(child.stdout, _SETPIPE, _PIPE_SIZE)
    except OSError:
        pass  # the user's limit (pipe-user-pages-soft); 64 KiB is fine too
    return child, ours
