"""The launcher: a warm interpreter that forks shims.

Started by the daemon from a sealed copy of the interpreter in memory, with one socket.
Everything that a shim needs is imported before the first fork and then frozen, so that
a shim costs a fork (its pages stay shared) and loads nothing later. No threads, no
loop, no state: for each message "shim" with the shim's end of a control socket it forks,
and the shim reads the rest from that socket. It ends when the daemon closes its socket;
shims are then adopted by init and go on.

One fork a shim, not two: the launcher reaps shims when they end, so there is no need for
them to be init's from the start.

Every page that a shim writes to is its own, and Python writes to what it merely looks at
(reference counts). So what can be done once is done here, before the fork (signal
handlers), and shims keep to code that is plain: no enum operators, few modules.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence

from gantry.ipc.channel import Channel, peer_credentials
from gantry.ipc.frames import Message, ProtocolError
from gantry.kernel import syscalls
from gantry.shim.backend import Backend
from gantry.shim.external import ExternalContainer
from gantry.shim.folder import Folder
from gantry.shim.inprocess import InProcessContainer
from gantry.shim.service import Shim

GANTRY = "gantry"

_is_shim = False


def main(fd: int) -> None:
    """Serve the daemon at the other end of socket `fd` until it goes away."""
    channel = Channel(socket.socket(fileno=fd))
    _settle("gantry-launch")
    if peer_credentials(channel.sock)[1] not in (0, os.geteuid()):
        return
    gc.collect()
    gc.freeze()
    channel.send({"event": "ready", "pid": os.getpid()})
    while True:
        try:
            message = channel.receive()
        except (OSError, ProtocolError):
            return
        if message is None:
            return
        if message.head.get("op") == "modules":
            channel.send({"id": message.head.get("id"), "modules": sorted(sys.modules)})
            message.close()
        elif _fork_shim(channel, message):
            return


def _fork_shim(channel: Channel, message: Message) -> bool:
    """Fork; true in the shim, after its end."""
    global _is_shim
    pid = os.fork()
    if pid:
        message.close()
        return False
    code = 1
    try:
        _is_shim = True
        channel.sock.close()
        os.setsid()
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        set_name("gantry-shim")
        run_shim(message.fds[0])
        code = 0
    finally:
        # Never back into the launcher's frames, no flush of inherited buffers.
        os._exit(code)


def run_shim(fd: int) -> None:
    """Be the shim whose control socket is `fd`; its last words go to the task's folder."""
    shim = Shim(socket.socket(fileno=fd), make_backend)
    try:
        shim.serve()
    except BaseException:
        _last_words(shim.folder)
        raise


def make_backend(
    runtime: str, args: Sequence[str], container_id: str, bundle: str, systemd_cgroup: bool
) -> Backend:
    """The runtime of that name: our own, or a binary's path."""
    if runtime == GANTRY:
        return InProcessContainer(
            container_id=container_id, bundle=bundle, systemd_cgroup=systemd_cgroup
        )
    return ExternalContainer(
        runtime, args, container_id=container_id, bundle=bundle, systemd_cgroup=systemd_cgroup
    )


def set_name(name: str) -> None:
    """The name that ps and top show (at most 15 bytes)."""
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)


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
    """The launcher reaps shims at once; a shim's loop hears of its children by itself."""
    try:
        while not _is_shim and os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _last_words(folder: Folder) -> None:
    try:
        os.dup2(folder.open_error_log(), 2)
        sys.__excepthook__(*sys.exc_info())
    except OSError:
        pass
