"""The launcher: a warm interpreter that forks shims, and starters to make their containers.

Started by the daemon from a sealed copy of the interpreter in memory, with one socket.
Everything that a shim needs is imported before the first fork and then frozen, so that
a shim costs a fork (its pages stay shared) and loads nothing later. No threads, no
loop, no state: for each SHIM byte with the shim's end of a control socket it forks, and
the shim reads the rest from that socket. It ends when the daemon closes its socket;
shims are then adopted by init and go on.

One fork a shim, not two: the launcher reaps shims when they end, so there is no need for
them to be init's from the start. It reaps the first processes of containers, too, which a
starter makes its siblings: it is the only process here that never waits for anybody.

Every page that a shim writes to is its own, and Python writes to what it merely looks at
(reference counts). So what can be done once is done here, before the fork (signal
handlers), and shims keep to code that is plain: no enum operators, few modules.
"""

from __future__ import annotations

import _socket
import ctypes
import gc
import os
import signal
import socket
import sys
from typing import NoReturn

from gantry.ipc.launcher import MODULES, READY, READY_ALL, SHIM, STARTER
from gantry.kernel import pidfd, syscalls
from gantry.shim import handover, idle, starter
from gantry.shim.folder import Folder
from gantry.shim.rehearsal import rehearse
from gantry.shim.service import Shim

_SPACE = 24  # CMSG_SPACE(one fd or two)
_CMSG_CLOEXEC = 0x40000000

# As bare as ctypes can: no conversions, no errno. It is all that a shim calls by it.
_prctl = ctypes.PyDLL(None).prctl

_is_launcher = True


def main(fd: int, folder: str) -> None:
    """Serve the daemon at the other end of socket `fd` until it goes away.

    folder: for the rehearsal, which makes and removes it.
    """
    sock = _socket.socket(fileno=fd)
    ready = READY_ALL if pidfd.tells_exit_status() else READY  # before children are reaped
    _settle("gantry-launch")
    rehearse(folder)
    gc.collect()
    gc.freeze()
    os.write(fd, ready)
    while True:
        # One byte a time: each comes with its fds, and the kernel keeps them together.
        data, ancillary, _, _ = sock.recvmsg(1, _SPACE, _CMSG_CLOEXEC)
        if data in (SHIM, STARTER) and ancillary:
            passed = ancillary[0][2]
            control = int.from_bytes(passed[:4], sys.byteorder)
            hand = int.from_bytes(passed[4:], sys.byteorder) if len(passed) > 4 else -1
            # The child's: it would own the pages that this takes.
            set_name("gantry-shim" if data == SHIM else "gantry-starter")
            if os.fork() == 0:
                if data == SHIM:
                    _be_shim(fd, control, hand)
                _be_starter(fd, control)
            set_name("gantry-launch")
            os.close(control)
            if hand >= 0:
                os.close(hand)
        elif data == MODULES:
            os.write(fd, " ".join(sys.modules).encode() + b"\n")
        else:
            return


def _be_starter(daemon: int, requests: int) -> NoReturn:
    global _is_launcher
    code = 1
    try:
        _is_launcher = False
        os.close(daemon)
        os.setsid()
        starter.for_many(requests)
        code = 0
    finally:
        os._exit(code)


def _be_shim(daemon: int, control: int, hand: int) -> NoReturn:
    global _is_launcher
    code = 1
    try:
        _is_launcher = False
        os.close(daemon)
        os.setsid()
        _prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        run_shim(control, hand)
        code = 0
    finally:
        # Never back into the launcher's frames, no flush of inherited buffers.
        os._exit(code)


def run_shim(fd: int, hand: int) -> None:
    """Be the shim whose control socket is `fd`; its last words go to the task's folder.

    hand: where its container comes from; -1: it has it made by a child.
    """
    woken = idle.wait_for_child(fd) if hand < 0 else idle.wait(fd, hand)
    if woken is None:
        return
    made = handover.unpack(*woken)
    try:
        Shim(socket.socket(fileno=fd), made).serve()
    except BaseException:
        _last_words(Folder(made.folder))
        raise


def set_name(name: str) -> None:
    """The name that ps and top show (at most 15 bytes)."""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, name.encode())
    os.close(fd)


def _settle(name: str) -> None:
    """Nothing of the daemon's surroundings but its credentials."""
    set_name(name)
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


def _go_on(_number: int, _frame: object) -> None:
    """The handler of signals that nobody here dies of."""


def _child_ended(_number: int, _frame: object) -> None:
    """The launcher reaps at once; a shim's loop hears of its children by itself."""
    try:
        while _is_launcher and os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _last_words(folder: Folder) -> None:
    try:
        os.dup2(folder.open_error_log(), 2)
        sys.__excepthook__(*sys.exc_info())
    except OSError:
        pass
