"""What the shim asks of an OCI runtime, in-process or a binary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gantry.model import failures
from gantry.model.errors import StartFailed
from gantry.model.task import ExecSpec, TaskSpec
from gantry.shim.pipes import ChildFds


class Started(NamedTuple):
    """A process, a child of this one or (pidfd is there) of its parent.

    console: its terminal's other side. Both fds are the caller's.
    """

    pid: int
    console: int | None
    pidfd: int | None = None


Prepared = Mapping[str, object]
"""JSON; kept in the task's state.json."""


class Backend(Protocol):
    """One container. All calls block, and all are made in children of the shim
    (`gantry.shim.worker`): what one call remembers, the next one does not know.
    RuntimeFailed, GantryError or OSError where the runtime says no.
    """

    def prepare(self, spec: TaskSpec) -> Prepared:
        """Before anything is made: what `clean` has to know, should we die.

        "own_pids": whether it has a pid namespace that ends with its init.
        """

    def start(
        self, spec: TaskSpec, netns: int | None, stdio: ChildFds, *, sibling: bool = False
    ) -> Started:
        """Create and start, right after `prepare`; at an error nothing is left behind.

        sibling: as a child of our parent. NoSibling: it cannot be, and nothing was made.
        """

    def oom_files(self, pid: int) -> list[str]:
        """Files whose `oom_kill` counter is the container's, after `start`."""

    def exec(self, spec: ExecSpec, stdio: ChildFds) -> Started: ...

    def kill_all(self, signal: int) -> None:
        """Every process of the container."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def update(self, resources: bytes) -> None: ...

    def pids(self) -> Sequence[int]: ...

    def stats(self) -> bytes: ...

    def checkpoint(self, config: bytes, path: str, *, leave_running: bool) -> None:
        """Write the container into a folder that is there; without `leave_running` it is
        killed then. config: what it was started with."""

    def delete(self) -> None:
        """Kill what is left, remove cgroup and state. Idempotent."""

    def clean(self, prepared: Prepared) -> None:
        """`delete`, for a container that a dead shim has left behind, however far it was."""


class RuntimeFailed(Exception):
    """`str` is the runtime's one line; exit_code 126, 127 or 128. verb: what it was to do."""

    def __init__(self, message: str, exit_code: int, verb: str = "create") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.verb = verb


def create_failed(error: RuntimeFailed) -> StartFailed:
    """A container that could not be started, as dockerd says it."""
    text = f"failed to create shim task: OCI runtime {error.verb} failed: {error}: unknown"
    return failures.create_failed(text, error.exit_code)


def exec_failed(error: RuntimeFailed) -> StartFailed:
    """An exec that could not be started, as dockerd says it."""
    return failures.exec_failed(f"OCI runtime exec failed: {error}: unknown", error.exit_code)


def has_own_pids(namespaces: Iterable[tuple[str, str]]) -> bool:
    """Whether (type, path) pairs hold a new pid namespace."""
    return ("pid", "") in set(namespaces)
