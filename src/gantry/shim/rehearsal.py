"""Run a shim's life a few times in the launcher, with a container that is not there.

What Python has run before costs the next process less: bytecode is specialised in place,
method caches are full, so a shim forked afterwards writes to fewer of the pages that it
shares with the launcher (a third less memory once it wakes up) and runs faster.
"""

from __future__ import annotations

import os
import signal
import socket

from gantry.ipc import wire
from gantry.ipc.channel import Channel, send_some
from gantry.ipc.frames import Message, close_all
from gantry.model.errors import GantryError, StartFailed
from gantry.model.mount import Mount
from gantry.model.task import ExitStatus, LogSpec, StdioSpec, TaskSpec
from gantry.runtime import rehearsal
from gantry.runtime.errors import NOT_FOUND
from gantry.shim import handover, idle, pipes, starter
from gantry.shim.folder import Folder, remove_tree
from gantry.shim.handover import Handover
from gantry.shim.service import Shim

ROUNDS = 12
"""CPython 3.11 specialises a function at its eighth call."""


class _NoFolder(Folder):
    def write_exit(self, status: ExitStatus) -> None:
        pass


def rehearse(folder: str) -> None:
    """Leaves no trace but warm code. To be called with signal handlers in place.

    folder: for the state of what is rehearsed; made, and removed again. What this process
    may not do (it is not root, say) stays cold, and works as well.
    """
    try:
        os.mkdir(folder, 0o700)
        os.mkdir(f"{folder}/tasks", 0o700)
        for _ in range(ROUNDS):
            _start(folder)
            _exec_and_delete(folder)
    except (OSError, GantryError):
        pass
    finally:
        remove_tree(folder)
    try:
        for number in range(ROUNDS):
            _life(number)
    finally:
        signal.set_wakeup_fd(-1)


def _start(folder: str) -> None:
    """The starter's part, with a container whose program is nowhere."""
    spec = TaskSpec(
        container_id=f"rehearsal-{os.getpid()}",
        spec=rehearsal.configuration(folder),
        rootfs=(Mount("tmpfs", "tmpfs"),),
        stdio=StdioSpec(),
        log=LogSpec("json-file", "/dev/null"),
    )
    bundle = f"{folder}/tasks/{spec.container_id}"
    network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    head = {**wire.task_to_wire(spec, bundle), "attachments": [[True, True, True]]}
    control, daemon = socket.socketpair()
    shim, other = socket.socketpair()
    with control, daemon, shim, other:
        try:
            starter.start(Channel(control), shim, Message(head, spec.spec, (network,)), {})
        except StartFailed as failure:
            if failure.exit_code != NOT_FOUND:
                raise
        finally:
            os.close(network)


def _exec_and_delete(folder: str) -> None:
    bundle = f"{folder}/tasks/exec"
    os.mkdir(bundle)
    rehearsal.exec_and_delete(f"{folder}/runtime")
    Folder(bundle).remove()


def _life(number: int) -> None:
    stdio = StdioSpec(open_stdin=True, stdin_once=True)
    spec = TaskSpec("c", b"", (), stdio, LogSpec("json-file", "/dev/null"))
    child, ours = pipes.make(stdio)
    listener, other = socket.socketpair()
    mine, client = socket.socketpair()
    control, daemon = socket.socketpair()
    here, there = socket.socketpair()
    made = Handover(
        spec=spec,
        folder="/nonexistent",
        pid=1,
        started_at=1.0,
        own_pids=True,
        oom_files=(),
        listener=listener.detach(),
        oom=-1,
        stdio=ours,
        attachments=((mine.detach(), (True, True, True)),),
    )
    blob, fds = handover.pack(made)
    send_some(there, blob, fds)
    close_all([*ours.fds(), made.listener, made.attachments[0][0]])
    os.write(child.stdout, b"first\n")  # or it would sleep
    with here, there, other, client, daemon:
        woken = idle.wait(control.fileno(), here.detach(), starter.for_one)
        assert woken is not None
        shim = Shim(control, handover.unpack(*woken))
        shim.folder = _NoFolder("")
        try:
            _events(shim, Channel(daemon), client, child)
        finally:
            shim.close()
            close_all(child.fds())


def _events(shim: Shim, daemon: Channel, client: socket.socket, child: pipes.ChildFds) -> None:
    os.write(child.stdout, b'hello "world"\n')
    os.write(child.stderr, b"trouble\n")
    client.send(b"input")
    for request in ("state", "flush"):
        daemon.send({"id": 1, "op": request})
    shim.turn()
    shim.turn()
    daemon.receive()
    client.recv(4096)
    os.read(child.stdin, 4096)
    os.close(child.stdout)
    os.close(child.stderr)
    child.stdout = child.stderr = -1
    shim.turn()
    shim.child_ended(1, 0)
