"""Makes containers: for one shim, its first child; or, for many, one after the other.

    launcher ── forks ──▶ starter (for many) ── vfork ──▶ init
        └────── forks ──▶ shim ◀── handover ──┘             a child of the launcher

A starter for many is warm: Python has written to the pages that it looks at once, and a
start takes a third of the time that it takes in a process that was just forked. It is no
parent of what it starts (CLONE_PARENT): the launcher reaps init, and the shim hears of its
end by a pidfd. That takes Linux 6.15, cgroup v1 and a container for which init needs nothing
more from its starter; where it cannot be, the shim forks a starter of its own (`for_one`),
whose orphan init becomes the shim's.

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
from typing import Final

from gantry.ipc import wire
from gantry.ipc.channel import Channel
from gantry.ipc.frames import Message, ProtocolError, close_all
from gantry.kernel import syscalls
from gantry.model.errors import GantryError
from gantry.model.task import TaskSpec
from gantry.runtime.errors import NoSibling
from gantry.shim import handover, oom, pipes, worker
from gantry.shim.backend import Backend, RuntimeFailed, Started, create_failed
from gantry.shim.folder import Folder
from gantry.shim.handover import Handover, hand_over
from gantry.shim.runtimes import make_backend

_COLLECT: Final = 16
"""Starts between two garbage collections."""

_FAILURES = (GantryError, OSError, ProtocolError, RuntimeFailed)


def for_one(control_fd: int, shim_fd: int) -> None:
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
    except _FAILURES as error:
        try:
            control.send({**answer, "error": wire.error_to_wire(error)})
        except OSError:
            pass  # nobody is there to hear of it


def for_many(fd: int) -> None:
    """Start what comes on the socket, until the daemon closes it.

    Not even the launcher's death interrupts a start: who is found running has its shim.
    """
    gc.disable()  # not while a child runs in this memory: what it closed would be ours
    daemon = Channel(socket.socket(fileno=fd))
    served = 0
    while (message := daemon.receive()) is not None:
        serve(daemon, message)
        served += 1
        if served % _COLLECT == 0:
            gc.collect()


def serve(daemon: Channel, message: Message) -> None:
    """One start; fds: the shim's end of its handover, then the network namespace's."""
    shim = socket.socket(fileno=message.fds[0])
    answer: wire.Head = {"id": message.head.get("id")}
    try:
        start(daemon, shim, message, answer, sibling=True)
    except NoSibling as error:
        _tell(daemon, {**answer, "no_sibling": True, "always": error.always})
    except _FAILURES as error:
        _tell(daemon, {**answer, "error": wire.error_to_wire(error)})
    finally:
        shim.close()
        close_all(message.fds[1:])


def _tell(daemon: Channel, head: wire.Head) -> None:
    try:
        daemon.send(head)
    except OSError:
        pass  # nobody is there to hear of it


def start(
    control: Channel,
    shim: socket.socket,
    message: Message,
    answer: wire.Head,
    *,
    sibling: bool = False,
) -> None:
    """Make the container that the message describes, hand it over, and answer.

    Raises what the callers answer with; nothing is left behind then.
    """
    spec = wire.task_from_wire(message)
    folder = Folder(message.text("bundle"))
    wants = wire.attachments_from_wire(message.head.get("attachments", []))
    # Told by itself, for it is no relative of ours.
    shim_pid = int.from_bytes(shim.recv(handover.PID_BYTES), "big") if sibling else os.getppid()
    folder.create()
    with ExitStack() as scope, ExitStack() as undo:
        undo.callback(folder.remove)
        listener = scope.enter_context(folder.listen())
        pairs = [_pair(scope) for _ in wants]
        child, ours = pipes.make(spec.stdio)
        scope.callback(_close, child, ours)
        netns = message.fds[-1] if len(message.fds) > sibling else None
        backend = make_backend(
            spec.runtime, spec.runtime_args, spec.container_id, folder.path, spec.systemd_cgroup
        )
        try:
            started, own_pids = _create(
                backend, spec, folder, netns, child, shim=shim_pid, sibling=sibling
            )
        except RuntimeFailed as error:
            raise create_failed(error) from None
        close_all(child.fds())
        child.stdin = child.stdout = child.stderr = -1
        if started.console is not None:
            os.set_blocking(started.console, False)
            ours.console = started.console
        if started.pidfd is not None:
            scope.callback(os.close, started.pidfd)
            undo.callback(backend.delete)  # the shim may be gone: its starter goes on
        oom_files = tuple(backend.oom_files(started.pid))
        told = oom.watch(oom_files)
        if told >= 0:
            scope.callback(os.close, told)
        made = Handover(
            spec=spec,
            folder=folder.path,
            pid=started.pid,
            started_at=time.time(),
            own_pids=own_pids,
            oom_files=oom_files,
            listener=listener.fileno(),
            oom=told,
            stdio=ours,
            attachments=tuple(
                (mine.fileno(), wanted) for (mine, _), wanted in zip(pairs, wants, strict=True)
            ),
            pidfd=-1 if started.pidfd is None else started.pidfd,
        )
        hand_over(shim, made)
        undo.pop_all()
        answer |= {"pid": started.pid, "started_at": made.started_at, "shim": shim_pid}
        try:
            control.send(answer, b"", [theirs.fileno() for _, theirs in pairs])
        except OSError:
            pass  # the daemon died meanwhile: the next one finds the container


def _pair(scope: ExitStack) -> tuple[socket.socket, socket.socket]:
    mine, theirs = socket.socketpair()
    scope.callback(mine.close)
    scope.callback(theirs.close)
    return mine, theirs


def _close(child: pipes.ChildFds, ours: pipes.OurFds) -> None:
    close_all(child.fds())
    close_all(ours.fds())


def _create(
    backend: Backend,
    spec: TaskSpec,
    folder: Folder,
    netns: int | None,
    child: pipes.ChildFds,
    *,
    shim: int,
    sibling: bool,
) -> tuple[Started, bool]:
    """Init, and whether it has a pid namespace of its own."""
    prepared = backend.prepare(spec)
    folder.write_state(
        {
            "v": wire.VERSION,
            "container": spec.container_id,
            "shim": shim,
            # Whoever cleans waits for it: but one for many has nothing of this container.
            "starter": 0 if sibling else os.getpid(),
            "runtime": spec.runtime,
            "runtime_args": list(spec.runtime_args),
            "systemd_cgroup": spec.systemd_cgroup,
            "prepared": prepared,
        }
    )
    started = backend.start(spec, netns, child, sibling=sibling)
    return started, bool(prepared.get("own_pids"))


def clean(folder: Folder) -> str:
    """In place of a dead shim: end its container, remove its traces, give its last words."""
    words = folder.last_words()
    state = folder.read_state()
    args, prepared, starter = state.get("runtime_args"), state.get("prepared"), state.get("starter")
    if isinstance(starter, int) and starter:
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
