"""The task driver as the containers service sees it (containerd's role).

Life cycle of a task::

    Tasks.start(spec, netns) -> Task     created, started and running at return
    task.wait()                          any number of waiters, at any time, also after the end
    task.delete()                        after the end: the shim forgets it and goes away

A driver that can make a task without starting it uses `start` all the same: Docker's
`create` makes no process. `Tasks.recover()` finds the tasks of an earlier daemon again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from gantry.model.task import ExecSpec, ExitStatus, TaskSpec, TaskState


class Stream(Protocol):
    """One attachment: a duplex byte stream to a process's standard streams.

    Reads give what Docker puts on the wire: raw bytes for a terminal, else frames with
    the 8-byte header (stream type, length). Writes go to the process's stdin.
    """

    async def read(self) -> bytes:
        """The next bytes, b"" when the process's output ended."""

    async def write(self, data: bytes) -> None:
        """To stdin; waits while the process does not read. BrokenPipeError when it is closed."""

    async def close_stdin(self) -> None:
        """No more input (half close)."""

    async def close(self) -> None:
        """Detach; the process goes on."""


class Process(Protocol):
    """An exec'ed process."""

    pid: int

    async def wait(self) -> ExitStatus: ...

    async def resize(self, rows: int, columns: int) -> None: ...

    async def kill(self, signal: int) -> None: ...


class Task(Protocol):
    """A running (or just ended) container.

    on_oom: called, if set, when the kernel kills one of its processes for memory while it
    runs (in the event loop). What is killed together with init shows in the exit status only.
    """

    container_id: str
    pid: int
    started_at: float
    on_oom: Callable[[], None] | None

    async def wait(self) -> ExitStatus: ...

    async def kill(self, signal: int, *, everything: bool = False) -> None:
        """NotFound when init is gone. everything: all processes of the container."""

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> Stream:
        """From now on; output before this call is in the log. Never loses what follows it."""

    async def resize(self, rows: int, columns: int) -> None: ...

    async def exec(
        self, spec: ExecSpec, *, attach: tuple[bool, bool, bool]
    ) -> tuple[Process, Stream | None]:
        """Start a process; `attach` is (stdin, stdout, stderr), all false: no stream.

        The stream is attached before the process runs: nothing is lost. StartFailed.
        """

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def update(self, resources: bytes) -> None:
        """New cgroup limits: OCI `linux.resources` as JSON."""

    async def pids(self) -> Sequence[int]:
        """Host pids of all its processes."""

    async def stats(self) -> bytes:
        """Cgroup figures as JSON (the runtime's `events --stats` data object)."""

    async def checkpoint(self, path: str, config: bytes, *, exit: bool) -> None:
        """Write what it is into the folder `path`, for `TaskSpec.restore`; exit: it ends.

        config: the OCI configuration that it was started with.
        """

    async def state(self) -> TaskState: ...

    async def flush_logs(self) -> None:
        """Returns when all output read so far is in the log file."""

    async def delete(self) -> None:
        """After the end: shim, state and cgroup go away. Idempotent."""


class Tasks(Protocol):
    """The driver."""

    async def start(
        self,
        spec: TaskSpec,
        netns: int | None,
        attachments: Sequence[tuple[bool, bool, bool]] = (),
    ) -> tuple[Task, Sequence[Stream]]:
        """Run a container; `attachments` get their stream before its first instruction.

        netns: fd of its network namespace (stays the caller's), None: as the spec says.
        Raises StartFailed with the runtime's one-line text and nothing left behind.
        """

    def recover(self) -> AsyncIterator[Task]:
        """Tasks found under exec-root after a restart, ended ones too. Dead shims' remains
        are cleaned (processes killed, cgroups removed) and reported as ended with code 137."""

    async def aclose(self) -> None:
        """Let go of all shims, which go on."""
