"""The shim's first child: makes the container, answers the daemon, hands over, is gone.

Order: what finds and undoes a container (folder, socket, state.json) exists before it;
the shim knows all before the daemon does; what the daemon is told has happened.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from contextlib import ExitStack

from gantry.ipc import wire
from gantry.ipc.channel import Channel, send_some
from gantry.ipc.frames import Message, ProtocolError, close_all
from gantry.kernel import syscalls
from gantry.model.errors import GantryError
from gantry.model.task import TaskSpec
from gantry.shim import handover, oom, pipes, worker
from gantry.shim.backend import RuntimeFailed, create_failed, oom_kills_of
from gantry.shim.folder import Folder
from gantry.shim.handover import Handover
from gantry.shim.runtimes import make_backend


def main(control_fd: int, shim_fd: int) -> None:
    """Do what the first message on the control socket says; the shim gets the container."""
    # With the shim dies its work: the daemon sees the end of the control socket, and cleans.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    gc.disable()
    control = Channel(socket.socket(fileno=control_fd))
    shim = socket.socket(fileno=shim_fd)
    message = control.receive()
    if message is None:
        return  # the daemon died before it had said what to run
    answer: wire.Head = {"id": message.head.get("id")}
    try:
        if message.text("op") == "clean":
            control.send({**answer, "last_words": clean(Folder(message.text("bundle")))})
        else:
            start(control, shim, message, answer)
    except (GantryError, OSError, ProtocolError, RuntimeFailed) as error:
        try:
            control.send({**answer, "error": wire.error_to_wire(error)})
        except OSError:
            pass  # nobody is there to hear of it


def start(control: Channel, shim: socket.socket, message: Message, answer: wire.Head) -> None:
    """Make the container that the message describes, hand it over, and answer.

    Raises what `main` answers with; nothing is left behind then.
    """
    spec = wire.task_from_wire(message)
    folder = Folder(message.text("bundle"))
    wants = wire.attachments_from_wire(message.head.get("attachments", []))
    folder.create()
    with ExitStack() as undo:
        undo.callback(folder.remove)
        listener = folder.listen()
        pairs = [socket.socketpair() for _ in wants]
        child, ours = pipes.make(spec.stdio)
        undo.callback(_close, child, ours)
        netns = message.fds[0] if message.fds else None
        try:
            pid, own_pids = _create(spec, folder, netns, child, ours)
        except RuntimeFailed as error:
            raise create_failed(error) from None
        undo.pop_all()
    oom_files = tuple(oom_kills_of(pid))
    made = Handover(
        spec=spec,
        folder=folder.path,
        pid=pid,
        started_at=time.time(),
        own_pids=own_pids,
        oom_files=oom_files,
        listener=listener.fileno(),
        oom=oom.watch(oom_files),
        stdio=ours,
        attachments=tuple(
            (mine.fileno(), wanted) for (mine, _), wanted in zip(pairs, wants, strict=True)
        ),
    )
    _hand_over(shim, made)
    answer |= {"pid": pid, "started_at": made.started_at}
    try:
        control.send(answer, b"", [theirs.fileno() for _, theirs in pairs])
    except OSError:
        pass  # the daemon died meanwhile: the next one finds the container


def _close(child: pipes.ChildFds, ours: pipes.OurFds) -> None:
    close_all(child.fds())
    close_all(ours.fds())


def _create(
    spec: TaskSpec,
    folder: Folder,
    netns: int | None,
    child: pipes.ChildFds,
    ours: pipes.OurFds,
) -> tuple[int, bool]:
    """Init's pid, and whether it has a pid namespace of its own; fills in ours.console."""
    backend = make_backend(
        spec.runtime, spec.runtime_args, spec.container_id, folder.path, spec.systemd_cgroup
    )
    prepared = backend.prepare(spec)
    folder.write_state(
        {
            "v": wire.VERSION,
            "container": spec.container_id,
            "shim": os.getppid(),
            "starter": os.getpid(),
            "runtime": spec.runtime,
            "runtime_args": list(spec.runtime_args),
            "systemd_cgroup": spec.systemd_cgroup,
            "prepared": prepared,
        }
    )
    started = backend.start(spec, netns, child)
    close_all(child.fds())
    if started.console is not None:
        os.set_blocking(started.console, False)
        ours.console = started.console
    return started.pid, bool(prepared.get("own_pids"))


def _hand_over(shim: socket.socket, made: Handover) -> None:
    blob, fds = handover.pack(made)
    data = memoryview(blob)
    while data:
        sent = send_some(shim, data, fds)
        data, fds = data[sent:], []


def clean(folder: Folder) -> str:
    """In place of a dead shim: end its container, remove its traces, give its last words."""
    words = folder.last_words()
    state = folder.read_state()
    args, prepared, starter = state.get("runtime_args"), state.get("prepared"), state.get("starter")
    if isinstance(starter, int):
        worker.wait_gone(starter)
    if state:
        make_backend(
            str(state.get("runtime", "")),
            [str(word) for word in args] if isinstance(args, list) else [],
            str(state.get("container", "")),
            folder.path,
            bool(state.get("systemd_cgroup")),
        ).clean(prepared if isinstance(prepared, dict) else {})
    folder.remove()
    return words
