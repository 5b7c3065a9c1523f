"""Staying with a container in the foreground: signals in, terminal both ways, exit status out."""

from __future__ import annotations

import os
import signal

from gantry.kernel import syscalls

_NOT_PASSED = frozenset(
    (
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGURG,
        signal.SIGWINCH,
    )
)


_target: list[int] = []
_early: list[int] = []


def prepare(*, subreaper: bool) -> None:
    """Before the start: be the parent of what the container leaves behind, and keep
    signals that come while there is nobody yet to pass them to."""
    if subreaper:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    for number in signal.valid_signals():
        if number not in _NOT_PASSED and number < signal.SIGRTMIN:
            try:
                signal.signal(number, _forward)
            except (OSError, ValueError):
                continue


def _forward(number: int, _frame: object) -> None:
    if not _target:
        _early.append(number)
        return
    try:
        os.kill(_target[0], number)
    except ProcessLookupError:
        return


def attend(pid: int, console: int | None) -> int:
    """Wait for `pid`, a child; its exit status as a shell has it (128 + signal)."""
    _target.append(pid)
    while _early:
        _forward(_early.pop(0), None)
    if console is not None:
        from gantry.runtime.commands import terminal

        with terminal.attached(console):
            terminal.copy(console, pid)
            return _wait(pid)
    return _wait(pid)


def _wait(pid: int) -> int:
    """Reap everything that ends, until it is `pid`."""
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return 255
        if ended == pid:
            return status_of(status)


def status_of(status: int) -> int:
    """128 plus the signal, or the exit status."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
