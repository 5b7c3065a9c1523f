"""A warm interpreter that forks, for as long as the daemon holds its socket.

No threads, no loop, no state: for each byte with one end of a socket it forks a child, which
reads the rest from there. It ends when the daemon closes its socket; its children are then
adopted by init and go on. It reaps those that end before, and whoever else is its child: it is
the only process here that never waits for anybody.

Every page that a child writes to is its own, and Python writes to what it merely looks at
(reference counts). So what can be done once is done here, before the fork (signal
handlers), and children keep to code that is plain: no enum operators, few modules.
"""

from __future__ import annotations

import _socket
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from gantry.ipc.launcher import MODULES, READY
from gantry.kernel import syscalls
from gantry.shim.folder import Folder

_SPACE = 24  # CMSG_SPACE(one fd or two)
_CMSG_CLOEXEC = 0x40000000
_NAME = "gantry-launch"

Run = Callable[[int, int], None]
"""What a child does with the fds that came for it; the second one is -1 for none."""

_is_launcher = True


def settle() -> None:
    """Nothing of the daemon's surroundings but its credentials. To be called first."""
    set_name(_NAME)
    os.chdir("/")
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # Handlers, not SIG_IGN: that would be inherited by the container. A shim ends when its
    # container has, not because a service manager or a shutdown signals everybody.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, _go_on)
    signal.signal(signal.SIGCHLD, _child_ended)
    # /proc/PID of launcher and shims is nobody's but root's (CVE-2016-9962, CVE-2019-5736).
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def serve(fd: int, children: Mapping[bytes, tuple[str, Run]], ready: bytes = READY) -> None:
    """Serve the daemon at the other end of socket `fd` until it goes away.

    children: for each byte the name of a child and what it does. ready: what to say first.
    """
    sock = _socket.socket(fileno=fd)
    gc.collect()
    gc.freeze()
    os.write(fd, ready)
    while True:
        # One byte a time: each comes with its fds, and the kernel keeps them together.
        data, ancillary, _, _ = sock.recvmsg(1, _SPACE, _CMSG_CLOEXEC)
        if data in children and ancillary:
            passed = ancillary[0][2]
            first = int.from_bytes(passed[:4], sys.byteorder)
            second = int.from_bytes(passed[4:], sys.byteorder) if len(passed) > 4 else -1
            name, run = children[data]
            set_name(name)  # the child's: it would own the pages that this takes
            if os.fork() == 0:
                _be_child(fd, first, second, run)
            set_name(_NAME)
            os.close(first)
            if second >= 0:
                os.close(second)
        elif data == MODULES:
            os.write(fd, " ".join(sys.modules).encode() + b"\n")
        else:
            return


def _be_child(daemon: int, first: int, second: int, run: Run) -> NoReturn:
    global _is_launcher
    code = 1
    try:
        _is_launcher = False
        os.close(daemon)
        os.setsid()
        run(first, second)
        code = 0
    finally:
        # Never back into the launcher's frames, no flush of inherited buffers.
        os._exit(code)


def set_name(name: str) -> None:
    """The name that ps and top show (at most 15 bytes)."""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, name.encode())
    os.close(fd)


def last_words(folder: Folder) -> None:
    """Into the folder goes the exception that is being handled."""
    try:
        os.dup2(folder.open_error_log(), 2)
        sys.__excepthook__(*sys.exc_info())
    except OSError:
        pass


def _go_on(_number: int, _frame: object) -> None:
    """The handler of signals that nobody here dies of."""


def _child_ended(_number: int, _frame: object) -> None:
    """The launcher reaps its children at once; their own loops hear of theirs by themselves."""
    try:
        while _is_launcher and os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
