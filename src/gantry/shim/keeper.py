"""The keeper: a container's streams and log, where its processes are containerd's shim's.

That shim copies what a process writes into named pipes, and what it is to read out of one.
Somebody has to hold the other ends, and write the log, whatever becomes of the daemon: for
each container a process like a shim, forked from a warm interpreter, that knows nothing of
runtimes and is nobody's parent::

    daemon                                    keeper
      keep (folder, stdio, log) ────────────▶   makes the pipes, listens in the folder
      ◀───── reply: the pipes' paths; one socket per attachment
             (containerd starts the process on those pipes)
      exec, attach, flush, state … ─────────▶
      ◀───────────────────────────────── reply
      ◀── event stdin: exec       it gets no more input: containerd's shim has an end, too
      ended (exec, exit) ───────────────────▶   reads what is still there
      ◀── event exit: exec, exit  after the output is in the log
      delete ───────────────────────────────▶   removes the folder, and goes when all is sent

A keeper that was killed is replaced (keep "again", then take_up): containerd's shim holds the
pipes meanwhile. How it came to have its streams: `gantry.shim.idle` and `gantry.shim.opener`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from gantry.ipc import wire
from gantry.ipc.channel import Channel
from gantry.ipc.frames import Message, ProtocolError
from gantry.model.errors import Conflict, System
from gantry.model.task import ExitStatus, StdioSpec
from gantry.shim.attendant import Attendant
from gantry.shim.fifos import Fifos, execs_in
from gantry.shim.handover import Handover
from gantry.shim.logfile import Log, NoLog, open_log
from gantry.shim.peers import Reply
from gantry.shim.pipes import OurFds
from gantry.shim.running import Running
from gantry.shim.stdio import ProcessIO


class Kept(Running):
    """A process's streams."""

    __slots__ = ("fifos", "stdin_ended")

    def __init__(self, name: str, io: ProcessIO, fifos: Fifos) -> None:
        super().__init__(name, 0, io)
        self.fifos = fifos
        self.stdin_ended = False


class Keeper(Attendant):
    """One container's streams, from the first event on."""

    def __init__(self, control: socket.socket, made: Handover) -> None:
        super().__init__(made.folder)
        self._spill_folder = os.path.dirname(made.spec.log.path) or made.folder
        self._execs: dict[str, Kept] = {}
        stdio, ours = made.spec.stdio, made.stdio
        if stdio.terminal:
            ours = OurFds(ours.stdin, ours.console)  # the pipe that a terminal's output goes to
        log = open_log(made.spec.log, self._fork)
        self._init = self._kept("", stdio, Fifos(made.folder, "", stdio), ours, log)
        for fd, wants in made.attachments:
            self._init.io.attach(socket.socket(fileno=fd), wants)
        self._peers.listen(socket.socket(fileno=made.listener))
        self._peers.add(Channel(control))

    def _all(self) -> Iterable[Kept]:
        return (self._init, *self._execs.values())

    # -- streams ------------------------------------------------------------------------

    def _kept(self, name: str, stdio: StdioSpec, fifos: Fifos, ours: OurFds, log: Log) -> Kept:
        io = ProcessIO(
            self._loop,
            stdio,
            ours,
            log,
            spill_folder=self._spill_folder,
            on_end=self._output_ended if name else self._first_output_ended,
            on_stdin_end=lambda: self._stdin_ended(name),
        )
        return Kept(name, io, fifos)

    def _open_exec(self, name: str, stdio: StdioSpec) -> Kept:
        fifos = Fifos(self.folder.path, name, stdio)
        fifos.make()
        kept = self._execs[name] = self._kept(name, stdio, fifos, fifos.open(), NoLog())
        return kept

    def _attach_all(self, kept: Kept, message: Message) -> list[int]:
        """Sockets for the clients that the message wants attached."""
        theirs = []
        for wants in wire.attachments_from_wire(message.head.get("attachments", [])):
            ours, other = socket.socketpair()
            kept.io.attach(ours, wants)
            theirs.append(other.detach())
        return theirs

    def _first_output_ended(self) -> None:
        self._output_ended()
        self._look_for_folder()

    def _stdin_ended(self, name: str) -> None:
        kept = self._find(name)
        if kept is not None and not kept.stdin_ended:
            kept.stdin_ended = True
            if kept.exit is None:
                self._peers.publish({"event": "stdin", "exec": name})

    def _find(self, name: str) -> Kept | None:
        return self._execs.get(name) if name else self._init

    def _tell(self, name: str, status: ExitStatus) -> None:
        self._peers.publish({"event": "exit", "exec": name, "exit": wire.exit_to_wire(status)})
        self._drop(name)

    def _drop(self, name: str) -> None:
        """Forget an exec whose streams are over."""
        kept = self._execs.pop(name, None)
        if kept is not None:
            kept.fifos.remove()

    # -- requests -----------------------------------------------------------------------

    def _answer(self, message: Message) -> Reply:
        match message.text("op"):
            case "exec":
                return self._exec(message)
            case "attach":
                wants = {"attachments": [message.head.get("wants")]}
                return {}, b"", self._attach_all(self._init, Message(wants))
            case "take_up":
                for name, stdio in execs_in(self.folder.path):
                    self._open_exec(name, stdio)
            case "ended":
                self._ended(message)
            case "drop":
                self._drop_failed(message.text("exec"))
            case "flush":
                self._init.io.drain()
            case "state":
                return self._tell_state(), b"", ()
            case "delete":
                self._delete()
            case other:
                raise System(f"the keeper knows no {other!r}")
        return {}, b"", ()

    def _exec(self, message: Message) -> Reply:
        name = message.text("exec")
        if name in self._execs:
            raise Conflict(f"exec {name} is already running")
        kept = self._open_exec(name, wire.stdio_from_wire(message.head.get("stdio")))
        return dict(kept.fifos.paths()), b"", self._attach_all(kept, message)

    def _ended(self, message: Message) -> None:
        name = message.text("exec", "")
        status = wire.exit_from_wire(message.head.get("exit"))
        kept = self._find(name)
        if status is None:
            raise ProtocolError("no exit status")
        if kept is None or kept.told:
            told = status if kept is None else kept.exit
            self._peers.publish({"event": "exit", "exec": name, "exit": wire.exit_to_wire(told)})
        elif kept.exit is None:
            self._endings.ended(kept, status)

    def _drop_failed(self, name: str) -> None:
        kept = self._find(name)
        if kept is not None:
            kept.io.finish()
            self._drop(name)

    def _tell_state(self) -> wire.Head:
        return {
            "execs": list(self._execs),
            "stdin_ended": [kept.name for kept in self._all() if kept.stdin_ended],
        }

    def _delete(self) -> None:
        self._peers.stop_listening()
        for kept in [*self._execs.values(), self._init]:
            kept.io.finish()
        self.folder.remove()
        self._deleted = True
