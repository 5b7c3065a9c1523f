"""A container's terminal shown in ours: raw mode, its size, bytes both ways."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def attached(console: int) -> Iterator[None]:
    """Our terminal, if stdin is one, in raw mode; the container's follows its size, and is
    closed in the end."""
    saved = None
    if os.isatty(0):
        saved = termios.tcgetattr(0)
        _raw(0)
        _resize(console)
        signal.signal(signal.SIGWINCH, lambda *_: _resize(console))
    try:
        yield
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


def copy(console: int, pid: int) -> None:
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
