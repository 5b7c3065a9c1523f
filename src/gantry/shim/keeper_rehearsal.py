"""Run a keeper's life a few times in its launcher, on pipes that no container is at.

Why, and how much it saves: `gantry.shim.rehearsal`.
"""

from __future__ import annotations

import os
import signal
import socket

from gantry.ipc import wire
from gantry.ipc.channel import Channel
from gantry.ipc.frames import Message, close_all
from gantry.model.task import ExitStatus, LogSpec, StdioSpec
from gantry.shim import handover, idle, opener
from gantry.shim.folder import remove_tree
from gantry.shim.keeper import Keeper

ROUNDS = 12
"""CPython 3.11 specialises a function at its eighth call."""


def rehearse(folder: str) -> None:
    """Leaves no trace but warm code. folder: for pipes; made, and removed again."""
    try:
        os.mkdir(folder, 0o700)
        for _ in range(ROUNDS):
            _life(f"{folder}/keeper")
    except OSError:
        pass  # it stays cold, and works as well
    finally:
        signal.set_wakeup_fd(-1)
        remove_tree(folder)


def _life(folder: str) -> None:
    stdio = StdioSpec(open_stdin=True, stdin_once=True)
    head: wire.Head = {
        "folder": folder,
        "container": "c",
        "stdio": wire.stdio_to_wire(stdio),
        "log": wire.log_to_wire(LogSpec("json-file", "/dev/null")),
        "attachments": [[True, True, True]],
    }
    control, daemon = socket.socketpair()
    here, there = socket.socketpair()
    with daemon, here, there:
        far = Channel(daemon)
        opener.open_streams(Channel(control), there, Message(head), {"id": 1})
        data, fds = idle.receive(here)
        answer = far.receive()
        assert answer is not None
        keeper = Keeper(control, handover.unpack(data, list(fds)))
        with socket.socket(fileno=answer.fds[0]) as client:
            try:
                _events(keeper, far, answer, client)
            finally:
                keeper.close()


def _events(keeper: Keeper, daemon: Channel, answer: Message, client: socket.socket) -> None:
    ends = [os.open(answer.text(name), os.O_WRONLY) for name in ("stdout", "stderr")]
    os.write(ends[0], b'hello "world"\n')
    os.write(ends[1], b"trouble\n")
    client.send(b"input")
    for request in ("state", "flush"):
        daemon.send({"id": 1, "op": request})
    keeper.turn()
    keeper.turn()
    daemon.receive()
    client.recv(4096)
    close_all(ends)
    keeper.turn()
    daemon.send({"op": "ended", "exec": "", "exit": wire.exit_to_wire(ExitStatus(0, 1.0))})
    daemon.send({"id": 1, "op": "delete"})
    keeper.turn()
    keeper.turn()
