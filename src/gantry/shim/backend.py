"""What the shim asks of an OCI runtime, in-process or a binary."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

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

    def delete(self) -> None:
        """Kill what is left, remove cgroup and state. Idempotent."""

    def clean(self, prepared: Prepared) -> None:
        """`delete`, for a container that a dead shim has left behind, however far it was."""


class RuntimeFailed(Exception):
    """`str` is the runtime's one line; exit_code 126, 127 or 128."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_NOT_FOUND = (
    "executable file not found",
    "no such file or directory",
    "not a directory",
)


def exit_code_of(text: str) -> int:
    """What `docker run` ends with for a runtime's error text (moby `daemon/errors.go`)."""
    lower = text.lower()
    if "permission denied" in lower or "is a directory" in lower:
        return 126
    return 127 if any(words in lower for words in _NOT_FOUND) else 128


def create_failed(error: RuntimeFailed) -> StartFailed:
    """The text that dockerd has for a container that could not be started.

    The additions are moby's: docker/cli looks for "permission denied" to exit with 126.
    """
    text = f"failed to create task for container: failed to create shim task: {_oci('create')}"
    return _decorated(text, error)


def exec_failed(error: RuntimeFailed) -> StartFailed:
    """The text that dockerd has for an exec that could not be started."""
    return _decorated(_oci("exec"), error)


def _oci(verb: str) -> str:
    return f"OCI runtime {verb} failed: "


def _decorated(prefix: str, error: RuntimeFailed) -> StartFailed:
    text = f"{prefix}{error}: unknown"
    lower = text.lower()
    if "is a directory" in lower and "permission denied" not in lower:
        text += ": permission denied"
    elif "not a directory" in lower:
        text += (
            ": Are you trying to mount a directory onto a file (or vice-versa)? "
            "Check if the specified host path exists and is the expected type"
        )
    return StartFailed(text, error.exit_code)


def has_own_pids(namespaces: Iterable[tuple[str, str]]) -> bool:
    """Whether (type, path) pairs hold a new pid namespace."""
    return ("pid", "") in set(namespaces)


def read_if_there(path: str) -> str:
    """A small file's text, "" when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def oom_kills_of(pid: int) -> list[str]:
    """Files whose oom_kill counter is that of the cgroup `pid` is in (v2 and v1)."""
    folders: dict[str, str] = {}
    for line in read_if_there(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folders[""] = f"/sys/fs/cgroup{path}"
        elif "memory" in controllers.split(","):
            folders["memory"] = f"/sys/fs/cgroup/memory{path}"
    return oom_kill_files(folders)


def oom_kill_files(folders: Mapping[str, str]) -> list[str]:
    """The same for cgroups that are known: controller ("" for the unified one) → folder."""
    found = [
        f"{folders[kind]}/{name}"
        for kind, name in (("", "memory.events"), ("memory", "memory.oom_control"))
        if kind in folders
    ]
    return [path for path in found if os.path.exists(path)]


def count_oom_kills(files: Sequence[str]) -> int:
    """The sum of the `oom_kill` counters."""
    total = 0
    for path in files:
        for line in read_if_there(path).splitlines():
            if line.startswith("oom_kill "):
                total += int(line.split()[1])
    return total
