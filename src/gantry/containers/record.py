"""A container's three parts, kept apart: what was asked, what happened, what is held.

`Record` is written once at create (and by rename and update); `State` is replaced whenever
something happens; `Live` holds what only this process has (tasks, sandboxes, futures) and is
never stored. `Container` merely keeps the three together under one lock.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from gantry.containers.clock import rfc3339
from gantry.containers.tasks import Stream, Task
from gantry.model.container import (
    ContainerConfig,
    ContainerState,
    EndpointSettings,
    Health,
    HostConfig,
)
from gantry.model.network import Sandbox, SandboxState


class MountRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mount, resolved: what a bind, a volume or a tmpfs of the configuration came to.

    kind: bind, volume, tmpfs or image. source: host path; a volume's is looked up at start.
    options: data of a tmpfs mount. create: make the host's folder where it is missing (-v).
    read_only: "" as writable says, else "non-recursive" or "force-recursive".
    configured: came from HostConfig.Mounts (and not from Binds, Tmpfs or the image).
    """

    kind: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    writable: bool = True
    propagation: str = ""
    options: str = ""
    subpath: str = ""
    copy: bool = False
    non_recursive: bool = False
    read_only: str = ""
    create: bool = False
    configured: bool = False
    anonymous: bool = False


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, after the image's defaults were merged in.

    image: id of the image ("sha256:..."); config.image is what the user called it.
    networks: by network name. created: nanoseconds since the epoch.
    """

    id: str
    name: str
    created: int
    image: str
    platform: str
    driver: str
    path: str
    args: list[str]
    config: ContainerConfig
    host_config: HostConfig
    networks: dict[str, EndpointSettings]
    mounts: list[MountRecord]
    runtime: str
    labels_image: dict[str, str] = {}


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened so far. Times in nanoseconds since the epoch, 0 never.

    stopped_by_user: the last end was asked for, which `unless-stopped` remembers.
    network: what `Networks.adopt` needs to find the sandbox again.
    """

    running: bool = False
    paused: bool = False
    restarting: bool = False
    removing: bool = False
    dead: bool = False
    oom_killed: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: int = 0
    finished_at: int = 0
    restart_count: int = 0
    stopped_by_user: bool = False
    health: Health | None = None
    network: SandboxState | None = None
    ended_at_shutdown: bool = False

    @property
    def status(self) -> str:
        """Docker's word for it (moby daemon/container/state.go, State.State)."""
        if self.running:
            if self.paused:
                return "paused"
            return "restarting" if self.restarting else "running"
        if self.dead:
            return "dead"
        if self.removing:
            return "removing"
        return "exited" if self.started_at or self.finished_at else "created"

    def view(self) -> ContainerState:
        """As inspect shows it."""
        return ContainerState(
            status=self.status,
            running=self.running,
            paused=self.paused,
            restarting=self.restarting,
            oom_killed=self.oom_killed,
            dead=self.dead,
            pid=self.pid,
            exit_code=self.exit_code,
            error=self.error,
            started_at=rfc3339(self.started_at),
            finished_at=rfc3339(self.finished_at),
            health=self.health if self.health is not None else msgspec.UNSET,
        )


@dataclass(eq=False)
class PendingAttach:
    """Somebody who attached before the start: which streams, and where to put them.

    The future gets None when the container could not be started or was removed.
    """

    streams: tuple[bool, bool, bool]
    future: asyncio.Future[Stream | None]


@dataclass(eq=False)
class Live:
    """What this process holds of a container.

    exited: done when the present run's end has been worked up; None when it does not run.
    start_again: interrupts a restart policy's pause ("now" by start, "never" by stop).
    """

    task: Task | None = None
    sandbox: Sandbox | None = None
    exited: asyncio.Future[None] | None = None
    attaching: list[PendingAttach] = field(default_factory=list)
    execs: dict[str, Any] = field(default_factory=dict)
    next_exit: list[asyncio.Future[tuple[int, str]]] = field(default_factory=list)
    not_running: list[asyncio.Future[tuple[int, str]]] = field(default_factory=list)
    removed: list[asyncio.Future[tuple[int, str]]] = field(default_factory=list)
    health: asyncio.Task[None] | None = None
    restart_pause: asyncio.Task[None] | None = None
    backoff: float = 0.0
    manual_stop: bool = False
    no_restart: bool = False
    restarting_by_user: bool = False
    host_mounts: list[str] = field(default_factory=list)
    row: tuple[object, str, bytes] | None = None
    row_head: tuple[object, bytes] | None = None


class Container:
    """One container: its parts and the lock under which they change.

    changes: counts what happened to all containers of this process, for caches.
    """

    __slots__ = ("_record", "id", "live", "lock", "state")
    changes: ClassVar[int] = 0

    def __init__(self, record: Record, state: State) -> None:
        self.id = record.id
        self._record = record
        self.state = state
        self.live = Live()
        self.lock = asyncio.Lock()

    @property
    def record(self) -> Record:
        return self._record

    @record.setter
    def record(self, record: Record) -> None:
        Container.changes += 1
        self._record = record

    @property
    def name(self) -> str:
        """Without the leading slash."""
        return self._record.name

    @property
    def tty(self) -> bool:
        return self._record.config.tty

    def change(self, **changes: object) -> None:
        """Replace fields of the state."""
        Container.changes += 1
        self.state = msgspec.structs.replace(self.state, **changes)

    def resolve(self, waiters: list[asyncio.Future[tuple[int, str]]], error: str = "") -> None:
        """Answer all of `waiters` with the exit code."""
        answer = (self.state.exit_code, error)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(answer)
        waiters.clear()
