"""Staying with a container in the foreground: signals in, terminal both ways, exit status out."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import tty

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
    if console is None:
        return _wait(pid)
    return _with_terminal(pid, console)


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


def _with_terminal(pid: int, console: int) -> int:
    """Our terminal in raw mode, copied to the container's and back."""
    saved = None
    if os.isatty(0):
        saved = termios.tcgetattr(0)
        _raw(0)
        _resize(console)
        signal.signal(signal.SIGWINCH, lambda *_: _resize(console))
    try:
        _copy(console, pid)
        return _wait(pid)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSANOW, saved)
        os.close(console)


def _raw(fd: int) -> None:
    """Raw mode, but for what the terminal does to the ends of lines."""
    tty.setraw(fd, termios.TCSANOW)
    settings = termios.tcgetattr(fd)
    settings[1] |= termios.OPOST
    termios.tcsetattr(fd, termios.TCSANOW, settings)


def _resize(console: int) -> None:
    size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    fcntl.ioctl(console, termios.TIOCSWINSZ, size)


def _copy(console: int, pid: int) -> None:
    """Both ways until the other side has no process any more (EIO), or init has ended."""
    poll = select.poll()
    poll.register(console, select.POLLIN)
    poll.register(0, select.POLLIN)
    pidfd = os.pidfd_open(pid)
    poll.register(pidfd, select.POLLIN)
    try:
        ended = False
        while True:
            events = poll.poll(0 if ended else None)
            if ended and not any(fd == console for fd, _ in events):
                return
            for fd, _ in events:
                if fd == pidfd:
                    ended = True
                    poll.unregister(pidfd)
                elif fd == console:
                    try:
                        data = os.read(console, 65536)
                    except OSError:
                        return
                    _write_all(1, data)
                elif not _feed(console):
                    poll.unregister(0)
    finally:
        os.close(pidfd)


def _feed(console: int) -> bool:
    """Some of our stdin to the terminal; False at its end (which is passed on as ^D)."""
    try:
        data = os.read(0, 65536)
    except OSError:
        return False
    try:
        _write_all(console, data or b"\x04")
    except OSError:
        return False
    return bool(data)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
