"""A keeper's first child: makes the pipes, hands them over, answers the daemon, is gone.

As a shim's starter does (and for the same reason): the keeper sleeps with its handover unread.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from contextlib import ExitStack

from gantry.ipc import wire
from gantry.ipc.channel import Channel
from gantry.ipc.frames import Message, ProtocolError, close_all
from gantry.kernel import syscalls
from gantry.model.errors import GantryError
from gantry.model.task import TaskSpec
from gantry.shim.fifos import Fifos
from gantry.shim.folder import SOCKET, Folder
from gantry.shim.handover import Handover, hand_over
from gantry.shim.pipes import OurFds


def main(control_fd: int, keeper_fd: int) -> None:
    """Do what the first message on the control socket says; the keeper gets the streams."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    gc.disable()
    control = Channel(socket.socket(fileno=control_fd))
    message = control.receive()
    if message is None:
        return  # a spare one, whose daemon went away
    answer: wire.Head = {"id": message.head.get("id")}
    try:
        open_streams(control, socket.socket(fileno=keeper_fd), message, answer)
    except (GantryError, OSError, ProtocolError) as error:
        try:
            control.send({**answer, "error": wire.error_to_wire(error)})
        except OSError:
            pass  # nobody is there to hear of it


def open_streams(
    control: Channel, keeper: socket.socket, message: Message, answer: wire.Head
) -> None:
    """Make the streams that the message describes ("again": which are there), hand them over,
    and answer. Raises what `main` answers with; nothing is left behind then."""
    folder = Folder(message.text("folder"))
    with ExitStack() as scope, ExitStack() as undo:
        if message.flag("again"):
            message = Message({**folder.read_state(), **message.head})
            _remove_socket(folder)
        else:
            folder.create()
            undo.callback(folder.remove)
            kept = ("container", "stdio", "log")
            folder.write_state({key: message.head.get(key) for key in kept})
        stdio = wire.stdio_from_wire(message.head.get("stdio"))
        log = wire.log_from_wire(message.head.get("log"))
        wants = wire.attachments_from_wire(message.head.get("attachments", []))
        listener = scope.enter_context(folder.listen())
        fifos = Fifos(folder.path, "", stdio)
        fifos.make()
        ours = fifos.open()
        scope.callback(close_all, ours.fds())
        pairs = [socket.socketpair() for _ in wants]
        made = Handover(
            spec=TaskSpec(message.text("container"), b"", (), stdio, log),
            folder=folder.path,
            pid=0,
            started_at=time.time(),
            own_pids=False,
            oom_files=(),
            listener=listener.fileno(),
            oom=-1,
            stdio=as_console(ours) if stdio.terminal else ours,
            attachments=tuple(
                (mine.fileno(), wanted) for (mine, _), wanted in zip(pairs, wants, strict=True)
            ),
        )
        hand_over(keeper, made)
        undo.pop_all()
        for mine, _ in pairs:
            mine.close()
    with ExitStack() as scope:
        theirs = [scope.enter_context(other) for _, other in pairs]
        try:
            control.send({**answer, **fifos.paths()}, b"", [sock.fileno() for sock in theirs])
        except OSError:
            pass  # the daemon died meanwhile: the next one finds the folder


def as_console(ours: OurFds) -> OurFds:
    """What a handover has for a terminal: one fd for its output."""
    return OurFds(ours.stdin, -1, -1, ours.stdout)


def _remove_socket(folder: Folder) -> None:
    try:
        os.unlink(f"{folder.path}/{SOCKET}")
    except FileNotFoundError:
        pass
