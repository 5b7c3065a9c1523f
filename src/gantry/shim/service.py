"""The shim: what stays beside one container, for as long as there is anything of it.

A process with one thread. It reads its container's output and writes the log, answers
the daemon (the one that started it, by a socket it was born with, and any later one, by
shim.sock), reports every exit once, after the output is in the log, and goes away when
the daemon has said delete. A daemon that dies is not noticed.

How it came to have a container: `gantry.shim.idle` and `gantry.shim.starter`.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence

from gantry.cgroups.oom import kills_in
from gantry.ipc import wire
from gantry.ipc.channel import Channel
from gantry.ipc.frames import Message, close_all
from gantry.kernel import pidfd, procfs
from gantry.model.errors import Conflict, GantryError, NotFound, System
from gantry.model.task import ExecSpec, ExitStatus, TaskState
from gantry.shim import oom, pipes, worker
from gantry.shim.attendant import Attendant
from gantry.shim.backend import Backend, RuntimeFailed, exec_failed
from gantry.shim.handover import Handover
from gantry.shim.logfile import NoLog, open_log
from gantry.shim.loop import GONE, READ
from gantry.shim.running import Running
from gantry.shim.runtimes import GANTRY, make_backend
from gantry.shim.stdio import ProcessIO

REAPED_SECONDS = 0.2
"""How long the launcher may take to reap a container's first process."""

UNKNOWN = 255 << 8
"""The wait status of a process that was reaped without the kernel's telling how it ended."""


class Shim(Attendant):
    """One container, from its first event on. `serve` returns when it is over."""

    def __init__(self, control: socket.socket, made: Handover) -> None:
        super().__init__(made.folder)
        self.spec = spec = made.spec
        self._started_at = made.started_at
        self._own_pids = made.own_pids
        self._oom_files = made.oom_files
        self._execs: dict[str, Running] = {}
        self._unseen: dict[str, ExitStatus] = {}
        self._paused = False
        self._exit_kept = False
        self._cleared = False
        io = ProcessIO(
            self._loop,
            spec.stdio,
            made.stdio,
            open_log(spec.log, self._fork),
            spill_folder=os.path.dirname(spec.log.path) or made.folder,
            on_end=self._output_ended,
        )
        for fd, wants in made.attachments:
            io.attach(socket.socket(fileno=fd), wants)
        self._init = Running("", made.pid, io, made.pidfd)
        self._processes = {}
        if made.pidfd < 0:
            self._processes[made.pid] = self._init
        else:
            self._loop.watch(made.pidfd, READ, self._init_ended)
        self._peers.listen(socket.socket(fileno=made.listener))
        self._oom, self._oom_kills, self._oom_happened = made.oom, 0, False
        if made.oom >= 0:
            self._loop.watch(made.oom, READ, self._out_of_memory)
        self._peers.add(Channel(control))

    def _all(self) -> Iterable[Running]:
        return (self._init, *self._execs.values())

    @property
    def _backend(self) -> Backend:
        """For workers: made there, and gone with them."""
        spec = self.spec
        return make_backend(
            spec.runtime,
            spec.runtime_args,
            spec.container_id,
            self.folder.path,
            spec.systemd_cgroup,
        )

    def _work(self, work: Callable[[], worker.Result], keep: Sequence[int] = ()) -> Message:
        pid, message = worker.run(work, keep)
        self._helpers[pid] = _nothing
        return wire.raise_error(message)

    def _do(self, call: Callable[[Backend], None]) -> None:
        """A call of the backend that has no result."""

        def work() -> worker.Result:
            call(self._backend)
            return {}, b"", ()

        self._work(work)

    def _answer(self, message: Message) -> worker.Result:
        op = OPERATIONS.get(message.text("op"))
        if op is None:
            raise System(f"the shim knows no {message.text('op')!r}")
        return op(self, message)

    def _out_of_memory(self, _events: int) -> None:
        """Nobody hears of it after init's end: that says so itself."""
        happened, self._oom_kills = oom.happened(self._oom, self._oom_files, self._oom_kills)
        self._oom_happened |= happened
        if happened and self._init.exit is None:
            self._peers.publish({"event": "oom"})

    # -- children ---------------------------------------------------------------------

    def _init_ended(self, events: int) -> None:
        """Of an init that is the launcher's child: the kernel tells once it was reaped."""
        init = self._init
        status = pidfd.exit_status(init.pidfd)
        if status is None and not events & GONE:
            self._loop.change(init.pidfd, 0)
            self._loop.later(REAPED_SECONDS, self._not_reaped)
            return
        self._loop.unwatch(init.pidfd)
        self._ended(init, UNKNOWN if status is None else status)

    def _not_reaped(self) -> None:
        """The launcher is stopped, or was killed and nobody reaps orphans here."""
        init = self._init
        if init.exit is not None:
            return
        status = procfs.zombie_status(init.pid)
        if status is None:  # just now, then
            self._loop.later(REAPED_SECONDS, self._not_reaped)
            return
        self._loop.unwatch(init.pidfd)
        self._ended(init, status)

    def child_ended(self, pid: int, status: int) -> None:
        """Init, an exec, a worker, or an orphan of the container, which came to us, the
        subreaper."""
        process = self._processes.pop(pid, None)
        if process is None:
            super().child_ended(pid, status)
        else:
            self._ended(process, status)

    def _ended(self, process: Running, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        is_init = process is self._init
        for_memory = is_init and (self._oom_happened or kills_in(self._oom_files) > 0)
        ended = ExitStatus(code if code >= 0 else 128 - code, time.time(), for_memory)
        if is_init:
            self._end_others()
        self._endings.ended(process, ended)

    def _end_others(self) -> None:
        """Without a pid namespace of its own, what init leaves behind goes on without us."""
        if self._own_pids:
            return
        try:
            self._do(lambda backend: backend.kill_all(signal.SIGKILL))
        except GantryError:
            pass  # nobody was left

    def _tell(self, name: str, status: ExitStatus) -> None:
        self._peers.publish({"event": "exit", "exec": name, "exit": wire.exit_to_wire(status)})
        self._execs.pop(name, None)
        if not name:
            self._keep_exit()
            self._look_for_folder()
            self._loop.later(0, self._clear)
        elif not self._peers:
            self._unseen[name] = status  # for the daemon that comes next

    def _keep_exit(self) -> None:
        """How init ended, for a daemon that finds us dead; one that is here has been told."""
        ended = self._init.exit if self._init.told else None
        if ended is not None and not (self._peers or self._exit_kept or self._deleted):
            self._exit_kept = True
            self.folder.write_exit(ended)

    def _clear(self) -> None:
        """Cgroup and the runtime's state, while the daemon does its part of the end."""
        try:
            self._remove_container()
        except (GantryError, OSError, RuntimeFailed):
            pass  # `delete` tries again, and tells

    def _remove_container(self) -> None:
        if not self._cleared:
            self._backend.delete()
            self._cleared = True

    def _leave_when_done(self) -> None:
        self._keep_exit()
        super()._leave_when_done()

    # -- requests ---------------------------------------------------------------------

    def _process(self, message: Message) -> Running:
        name = message.text("exec", "")
        process = self._execs.get(name) if name else self._init
        if process is None or process.exit is not None:
            raise NotFound("process already finished")
        return process

    def _refuse_ended(self) -> None:
        if self._init.exit is not None:
            raise Conflict(f"container {self.spec.container_id} is not running")

    def _attach(self, message: Message) -> worker.Result:
        wants = wire.attachments_from_wire([message.head.get("wants")])[0]
        ours, theirs = socket.socketpair()
        self._init.io.attach(ours, wants)
        return {}, b"", [theirs.detach()]

    def _exec(self, message: Message) -> worker.Result:
        spec = wire.exec_from_wire(message)
        wanted = wire.attachments_from_wire(message.head.get("attachments", []))
        self._refuse_ended()
        if spec.exec_id in self._execs:
            raise Conflict(f"exec {spec.exec_id} is already running")
        child, ours = pipes.make(spec.stdio)
        try:
            started = self._launch(spec, child)
        except BaseException:
            close_all(ours.fds())
            raise
        finally:
            close_all(child.fds())
        if started.fds:
            ours.console = started.fds[0]
        pid = started.number("pid")
        folder = self.folder.path
        io = ProcessIO(
            self._loop, spec.stdio, ours, NoLog(), spill_folder=folder, on_end=self._output_ended
        )
        self._processes[pid] = self._execs[spec.exec_id] = Running(spec.exec_id, pid, io)
        # Nothing was read yet: who is attached now has missed nothing.
        peers = []
        for wants in wanted:
            mine, theirs = socket.socketpair()
            io.attach(mine, wants)
            peers.append(theirs.detach())
        return {"pid": pid}, b"", peers

    def _launch(self, spec: ExecSpec, ends: pipes.ChildFds) -> Message:
        def work() -> worker.Result:
            try:
                started = self._backend.exec(spec, ends)
            except RuntimeFailed as error:
                raise exec_failed(error) from None
            if started.console is None:
                return {"pid": started.pid}, b"", ()
            os.set_blocking(started.console, False)
            return {"pid": started.pid}, b"", [started.console]

        if self.spec.runtime == GANTRY:
            # Little is left of it in memory, and a fork would cost more than all of it.
            head, body, fds = work()
            return Message(head, body, tuple(fds))
        return self._work(work, ends.fds())

    def _kill(self, message: Message) -> worker.Result:
        number = message.number("signal")
        process = self._process(message)
        if message.flag("all"):
            self._do(lambda backend: backend.kill_all(number))
        else:
            process.signal(number)
        if number == signal.SIGKILL and self._paused:
            self._thaw()
        return {}, b"", []

    def _thaw(self) -> None:
        """On cgroup v1 a frozen process dies when it is thawed; on v2 it has died already."""
        self._paused = False
        try:
            self._do(lambda backend: backend.resume())
        except GantryError:
            pass

    def _resize(self, message: Message) -> worker.Result:
        self._process(message).io.resize(message.number("rows"), message.number("columns"))
        return {}, b"", []

    def _pause(self, _message: Message) -> worker.Result:
        self._do(lambda backend: backend.pause())
        self._paused = True
        return {}, b"", []

    def _resume(self, _message: Message) -> worker.Result:
        self._do(lambda backend: backend.resume())
        self._paused = False
        return {}, b"", []

    def _update(self, message: Message) -> worker.Result:
        self._do(lambda backend: backend.update(message.body))
        return {}, b"", []

    def _checkpoint(self, message: Message) -> worker.Result:
        path, leave = message.text("path"), not message.flag("exit")
        self._do(lambda backend: backend.checkpoint(message.body, path, leave_running=leave))
        return {}, b"", []

    def _pids(self, _message: Message) -> worker.Result:
        self._refuse_ended()

        def work() -> worker.Result:
            return {"pids": list(self._backend.pids())}, b"", ()

        return {"pids": self._work(work).head.get("pids")}, b"", []

    def _stats(self, _message: Message) -> worker.Result:
        self._refuse_ended()
        return {}, self._work(lambda: ({}, self._backend.stats(), ())).body, []

    def _flush(self, _message: Message) -> worker.Result:
        self._init.io.drain()
        return {}, b"", []

    def _state(self, _message: Message) -> worker.Result:
        status = "paused" if self._paused else "running"
        exited = self._init.exit if self._init.told else None
        state = TaskState(
            container_id=self.spec.container_id,
            status="stopped" if exited else status,
            pid=self._init.pid,
            started_at=self._started_at,
            exit=exited,
            execs={**dict.fromkeys(self._execs), **self._unseen},
            shim=os.getpid(),
        )
        self._unseen.clear()
        return wire.state_to_wire(state), b"", []

    def _delete(self, _message: Message) -> worker.Result:
        if self._init.exit is None:
            raise Conflict(f"container {self.spec.container_id} is running")
        self._remove_container()
        self._peers.stop_listening()
        self.folder.remove()
        self._deleted = True
        return {}, b"", []


Operation = Callable[[Shim, Message], worker.Result]

OPERATIONS: dict[str, Operation] = {
    name: getattr(Shim, f"_{name}")
    for name in (
        *("attach", "checkpoint", "delete", "exec", "flush", "kill", "pause", "pids"),
        *("resize", "resume", "state", "stats", "update"),
    )
}
"""What a daemon may ask for: one method each."""


def _nothing() -> None:
    """A worker has ended."""
