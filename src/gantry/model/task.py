"""What crosses between the containers service and a task driver.

A *task* is a started container: an init process and the processes exec'ed beside it,
owned by one shim. Values here are neutral: no live handles but file descriptors that
the receiver takes over. Standard library only: the shim speaks these too
(and named tuples: `dataclasses` alone takes 1.5 MiB, a sixth of what a shim copies).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gantry.model.mount import Mount
from gantry.model.record import EMPTY


class LogSpec(NamedTuple):
    """Where and how the shim keeps a container's output.

    driver: "json-file", "local" or "none" (any other driver follows a local file).
    path: absolute path of the current log file; rotated ones are path.1, path.2 ...
    max_size: bytes at which a file is rotated, 0 never. max_file: files kept, at least 1.
    attrs: extra "attrs" of each json-file line (labels, env, tag), usually empty.
    """

    driver: str
    path: str
    max_size: int = 0
    max_file: int = 1
    compress: bool = False
    attrs: Mapping[str, str] = EMPTY


class StdioSpec(NamedTuple):
    """What the init (or exec'ed) process has on 0, 1 and 2.

    terminal: a pseudo terminal (stderr is the same stream). open_stdin: stdin is a pipe
    that attachments write to, else /dev/null. stdin_once: close it when the first
    attachment that had stdin goes away. rows/columns: first size of the terminal, 0 unset.
    """

    terminal: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    rows: int = 0
    columns: int = 0


class TaskSpec(NamedTuple):
    """All that a shim needs to run one container.

    spec: the OCI runtime configuration as UTF-8 JSON (config.json), root.path included.
    rootfs: mounts that make the root file system, applied in the container's own mount
    namespace (runtime gantry) or in the shim's (an external runtime).
    runtime: "gantry" for our own, else the absolute path of a runc-like binary.
    runtime_type: in its place a runtime of containerd's ("io.containerd.kata.v2", or a shim's
    path) with runtime_options, which only a driver over a containerd has.
    restore: the folder of a checkpoint to go on from, "" to begin.
    """

    container_id: str
    spec: bytes
    rootfs: tuple[Mount, ...]
    stdio: StdioSpec
    log: LogSpec
    runtime: str = "gantry"
    runtime_args: tuple[str, ...] = ()
    systemd_cgroup: bool = False
    runtime_type: str = ""
    runtime_options: Mapping[str, object] = EMPTY
    restore: str = ""


class ExecSpec(NamedTuple):
    """A further process in a running container. process: OCI `process` object as JSON."""

    exec_id: str
    process: bytes
    stdio: StdioSpec
    privileged: bool = False


class ExitStatus(NamedTuple):
    """How a process ended. code: 0-255, signals as 128+n (137 for SIGKILL).

    at: seconds since the epoch. oom_killed: the kernel's memory controller killed in it.
    """

    code: int
    at: float
    oom_killed: bool = False


class TaskState(NamedTuple):
    """What a shim answers when it is found again. status: created running paused stopped.

    shim: its own pid; 0 from one of before, which is init's parent.
    """

    container_id: str
    status: str
    pid: int
    started_at: float
    exit: ExitStatus | None
    execs: Mapping[str, ExitStatus | None] = MappingProxyType({})
    shim: int = 0
