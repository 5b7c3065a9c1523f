"""containerd's services in our words: containers and tasks (API v1 of containerd 1.6 to 2.x).

Field numbers are those of containerd's api/services/{containers,tasks,events}/v1/*.proto and
api/types; a comment names a message where its call does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, NamedTuple

from gantry.ipc.protobuf import Fields, Value, encode, pair
from gantry.model.mount import Mount
from gantry.tasks.containerd.connection import Connection

_CONTAINERS: Final = "containerd.services.containers.v1.Containers"
_TASKS: Final = "containerd.services.tasks.v1.Tasks"
_EVENTS: Final = "containerd.services.events.v1.Events"
_SPEC: Final = "types.containerd.io/opencontainers/runtime-spec/1"
_STATUS: Final = ("unknown", "created", "running", "stopped", "paused", "pausing")


class Any(NamedTuple):
    """google.protobuf.Any: what a value is, and the value."""

    type_url: str
    value: bytes

    def encoded(self) -> bytes:
        return encode([(1, self.type_url), (2, self.value)])

    @classmethod
    def of(cls, fields: Fields) -> Any:
        return cls(fields.text(1), fields.data(2))


class Stdio(NamedTuple):
    """Paths of a process's named pipes, "" for none (all three: it has /dev/null)."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""


class Process(NamedTuple):
    """A task's first process. status: one of `_STATUS`; exited_at: seconds since the epoch."""

    container_id: str
    pid: int
    status: str
    exit_status: int
    exited_at: float


class Ended(NamedTuple):
    """How a process ended. at: seconds since the epoch."""

    code: int
    at: float


class Api:
    """The calls. Ids are the container's and the exec's, "" for the first process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def _task(
        self, call: str, *fields: tuple[int, int | str | bytes | Sequence[bytes]]
    ) -> Fields:
        return await self._connection.call(f"{_TASKS}/{call}", encode(fields))

    # -- containers: what is to run -----------------------------------------------------

    async def create_container(
        self,
        container_id: str,
        labels: Mapping[str, str],
        runtime: str,
        options: Any | None,
        spec: bytes,
    ) -> None:
        """Conflict: there is one of that id."""
        described: list[tuple[int, Value]] = [(1, runtime)]
        if options is not None:
            described.append((2, options.encoded()))
        container = encode(
            [
                (1, container_id),
                (2, [pair(key, value) for key, value in labels.items()]),
                (4, encode(described)),
                (5, Any(f"{_SPEC}/Spec", spec).encoded()),
            ]
        )
        await self._connection.call(f"{_CONTAINERS}/Create", encode([(1, container)]))

    async def delete_container(self, container_id: str) -> None:
        await self._connection.call(f"{_CONTAINERS}/Delete", encode([(1, container_id)]))

    async def container_ids(self, label: str, value: str) -> list[str]:
        """Those whose label has that value."""
        request = encode([(1, [f'labels."{label}"=="{value}"'])])
        stream = self._connection.stream(f"{_CONTAINERS}/ListStream", request)
        return [message.message(1).text(1) async for message in stream]

    # -- tasks: what runs ---------------------------------------------------------------

    async def create(
        self,
        container_id: str,
        rootfs: Sequence[Mount],
        stdio: Stdio,
        *,
        terminal: bool,
        options: Any | None = None,
    ) -> int:
        """Make the first process, which waits for `start`: its pid. options: in the place of
        the container's own."""
        mounts = [
            encode([(1, m.type), (2, m.source), (3, m.target), (4, m.options)]) for m in rootfs
        ]
        reply = await self._task(
            "Create",
            (1, container_id),
            (3, mounts),
            *_numbered(4, stdio),
            (7, terminal),
            (9, [options.encoded()] if options is not None else []),
        )
        return reply.number(2)

    async def start(self, container_id: str, exec_id: str = "") -> int:
        """Let a process run: its pid."""
        return (await self._task("Start", (1, container_id), (2, exec_id))).number(1)

    async def exec(
        self, container_id: str, exec_id: str, process: bytes, stdio: Stdio, *, terminal: bool
    ) -> None:
        """Prepare an exec, for `start`."""
        spec = Any(f"{_SPEC}/Process", process).encoded()
        await self._task(
            "Exec", (1, container_id), *_numbered(2, stdio), (5, terminal), (6, spec), (7, exec_id)
        )

    async def wait(self, container_id: str, exec_id: str = "") -> Ended:
        """Until it has ended; at once when it has."""
        reply = await self._task("Wait", (1, container_id), (2, exec_id))
        return Ended(reply.number(1), _seconds(reply.message(2)))

    async def get(self, container_id: str) -> Process:
        """NotFound: there is no such task."""
        found = (await self._task("Get", (1, container_id))).message(1)
        status = found.number(4)
        return Process(
            container_id,
            found.number(3),
            _STATUS[status] if status < len(_STATUS) else "unknown",
            found.number(9),
            _seconds(found.message(10)),
        )

    async def kill(
        self, container_id: str, signal: int, exec_id: str = "", *, everything: bool = False
    ) -> None:
        """NotFound: it has ended."""
        await self._task("Kill", (1, container_id), (2, exec_id), (3, signal), (4, everything))

    async def delete(self, container_id: str) -> None:
        """After the end: the shim goes, mounts and cgroup with it. Conflict: it runs."""
        await self._task("Delete", (1, container_id))

    async def delete_exec(self, container_id: str, exec_id: str) -> None:
        await self._task("DeleteProcess", (1, container_id), (2, exec_id))

    async def resize(self, container_id: str, exec_id: str, rows: int, columns: int) -> None:
        await self._task("ResizePty", (1, container_id), (2, exec_id), (3, columns), (4, rows))

    async def close_stdin(self, container_id: str, exec_id: str) -> None:
        """The shim's own end of the pipe; the process's input ends when nobody has one."""
        await self._task("CloseIO", (1, container_id), (2, exec_id), (3, True))

    async def pause(self, container_id: str) -> None:
        await self._task("Pause", (1, container_id))

    async def resume(self, container_id: str) -> None:
        await self._task("Resume", (1, container_id))

    async def update(self, container_id: str, resources: bytes) -> None:
        """resources: the specification's linux.resources as JSON."""
        limits = Any(f"{_SPEC}/LinuxResources", resources).encoded()
        await self._task("Update", (1, container_id), (2, limits))

    async def checkpoint(self, container_id: str, path: str, *, exit: bool) -> None:
        """By CRIU into the folder `path` (containerd.runc.v1.CheckpointOptions)."""
        wish = Any("containerd.runc.v1.CheckpointOptions", encode([(1, exit), (8, path)]))
        await self._task("Checkpoint", (1, container_id), (3, wish.encoded()))

    async def pids(self, container_id: str) -> list[int]:
        reply = await self._task("ListPids", (1, container_id))
        return [process.number(1) for process in reply.messages(1)]

    async def metrics(self, container_id: str) -> Any | None:
        """The cgroup's figures; None when there are none (it has ended)."""
        reply = await self._task("Metrics", (1, [f"id=={container_id}".encode()]))
        for metric in reply.messages(1):
            return Any.of(metric.message(3))
        return None

    # -- events -------------------------------------------------------------------------

    async def out_of_memory(self) -> AsyncIterator[str]:
        """The ids of containers in which the kernel kills for memory, from now on."""
        wanted = f'namespace=="{self._connection.namespace}",topic=="/tasks/oom"'
        stream = self._connection.stream(f"{_EVENTS}/Subscribe", encode([(1, [wanted])]))
        async for envelope in stream:
            yield Fields(envelope.message(4).data(2)).text(1)


def _numbered(first: int, stdio: Stdio) -> list[tuple[int, str]]:
    return [(first + number, path) for number, path in enumerate(stdio)]


def _seconds(timestamp: Fields) -> float:
    """google.protobuf.Timestamp."""
    return timestamp.number(1) + timestamp.number(2) / 1e9
