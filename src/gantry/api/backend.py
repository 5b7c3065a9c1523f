"""What the routes need of the engine: one Protocol a noun, declared by the consumer.

Services return the latest API version's shape (frozen Structs, dicts or bytes already
encoded); `api.versions` turns it into what an older client expects. They raise the
errors of `gantry.model.errors` and never see HTTP. `name` is always what the client
typed: a full id, a unique id prefix or a name (with or without a leading slash).
Streams of JSON messages are async iterators of dicts, raw ones of bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from gantry.model.container import (
    CreateRequest,
    CreateResponse,
    EndpointSettings,
    ExecCreate,
    UpdateRequest,
)

Filters = Mapping[str, Sequence[str]]
"""Decoded `filters` query: {"label": ["a=b"]} (the old {"label": {"a=b": true}} too)."""

Json = dict[str, Any]
Rows = list[Json]
Warnings = list[str]


class ByteStream(Protocol):
    """A duplex stream to a container's stdio (see `gantry.containers.tasks.Stream`).

    A stream that watches for detach keys has an attribute `detached`, and reads b"" after
    a write that had the keys.
    """

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def close(self) -> None: ...


class Attachment(Protocol):
    """An attachment to a container, perhaps one that has not started yet.

    stdin: input goes to the process (it was asked for, and the container has it open).
    stdin_once: the container's stdin ends with the client's input; else the end of the
    client's input only ends the attachment.
    """

    tty: bool
    stdin: bool
    stdin_once: bool

    async def stream(self) -> ByteStream:
        """Waits for the container's start if need be; gives logs first if these were asked."""

    async def close(self) -> None: ...


class ContainersBackend(Protocol):
    async def create(self, request: CreateRequest) -> CreateResponse: ...

    async def start(self, name: str, *, checkpoint: str = "", checkpoint_dir: str = "") -> None:
        """From its beginning, or from a checkpoint. NotModified when it runs already."""

    async def stop(
        self,
        name: str,
        *,
        signal: str | None,
        timeout: int | None,  # noqa: ASYNC109  # seconds until SIGKILL
    ) -> None: ...

    async def restart(
        self,
        name: str,
        *,
        signal: str | None,
        timeout: int | None,  # noqa: ASYNC109  # seconds until SIGKILL
    ) -> None: ...

    async def kill(self, name: str, signal: str) -> None: ...

    async def pause(self, name: str) -> None: ...

    async def unpause(self, name: str) -> None: ...

    async def rename(self, name: str, new_name: str) -> None: ...

    async def remove(self, name: str, *, force: bool, volumes: bool, link: bool) -> None: ...

    async def update(self, name: str, request: UpdateRequest) -> Warnings:
        """Warnings."""

    async def resize(self, name: str, rows: int, columns: int) -> None: ...

    async def measure(self, name: str = "") -> None:
        """Count the files of one container or of all: what `size` shows in `inspect` and `list`."""

    def inspect(self, name: str, *, size: bool) -> Json: ...

    def list(
        self, *, everything: bool, limit: int, size: bool, filters: Filters
    ) -> Sequence[bytes]:
        """One encoded JSON object a container, newest first; cached while nothing changes."""

    async def top(self, name: str, ps_args: str) -> Json: ...

    async def wait(self, name: str, condition: str) -> AsyncWait:
        """Registers at once (so that headers can be sent); condition: "" not-running next-exit
        removed."""

    def tty(self, name: str) -> bool: ...

    def logs(
        self,
        name: str,
        *,
        stdout: bool,
        stderr: bool,
        since: str,
        until: str,
        timestamps: bool,
        follow: bool,
        tail: str,
        details: bool,
    ) -> AsyncIterator[bytes]:
        """Framed for a container without terminal, raw otherwise. InvalidParameter early."""

    async def attach(
        self,
        name: str,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        logs: bool,
        stream: bool,
        detach_keys: str | None,
    ) -> Attachment: ...

    def stats(self, name: str, *, stream: bool, one_shot: bool) -> AsyncIterator[Json]: ...

    async def changes(self, name: str) -> Rows: ...

    def export(self, name: str) -> AsyncIterator[bytes]: ...

    async def archive_stat(self, name: str, path: str) -> Json:
        """{"name", "size", "mode" (Go file mode), "mtime", "linkTarget"}."""

    def archive_get(self, name: str, path: str) -> AsyncIterator[bytes]: ...

    async def archive_put(
        self,
        name: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None: ...

    async def prune(self, filters: Filters) -> Json: ...

    async def commit(
        self, query: Mapping[str, str], config: Json | None, changes: Sequence[str]
    ) -> Json:
        """POST /commit: query container, repo, tag, comment, author, pause."""


class AsyncWait(Protocol):
    """A registered wait."""

    async def result(self) -> Json:
        """{"StatusCode": int} and {"Error": {"Message": text}} when it could not start."""


class ExecBackend(Protocol):
    async def create(self, container: str, request: ExecCreate) -> str:
        """The exec id. Conflict when the container does not run or is paused."""

    async def start(
        self, exec_id: str, *, detach: bool, tty: bool | None, console_size: Sequence[int] | None
    ) -> ByteStream | None: ...

    def tty(self, exec_id: str) -> bool: ...

    async def resize(self, exec_id: str, rows: int, columns: int) -> None: ...

    def inspect(self, exec_id: str) -> Json:
        """`OpenStdin` says whether input goes to the process."""


class ImagesBackend(Protocol):
    """Implemented by `gantry.images.engine.Images`; see there for the shapes."""

    async def list(
        self,
        filters: Filters,
        *,
        everything: bool,
        digests: bool,
        shared_size: bool,
        manifests: bool,
    ) -> Sequence[Any]: ...

    async def inspect(self, name: str, *, platform: str = "") -> Any: ...

    async def history(self, name: str, *, platform: str = "") -> Sequence[Any]: ...

    async def tag(self, source: str, repo: str, tag: str) -> None: ...

    async def remove(self, name: str, *, force: bool, noprune: bool) -> Sequence[Json]: ...

    async def prune(self, filters: Filters) -> Json: ...

    def load(
        self, body: AsyncIterator[bytes], *, quiet: bool, platform: str = ""
    ) -> AsyncIterator[Json]:
        """platform: what alone is loaded, comma-separated where there are several."""

    def save(self, names: Sequence[str], *, platform: str) -> AsyncIterator[bytes]: ...

    def import_(
        self,
        source: AsyncIterator[bytes] | str,
        *,
        repo: str,
        tag: str,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> AsyncIterator[Json]: ...

    def pull(self, ref: str, *, tag: str, platform: str, auth: Json) -> AsyncIterator[Json]: ...

    def push(self, name: str, *, tag: str, platform: str, auth: Json) -> AsyncIterator[Json]: ...

    async def search(self, term: str, *, limit: int, filters: Filters, auth: Json) -> Rows: ...

    async def distribution(self, name: str, *, auth: Json) -> Json: ...


class CheckpointsBackend(Protocol):
    """folder: where they are, "" for beside the container."""

    async def create(self, name: str, checkpoint: str, *, folder: str, exit: bool) -> None: ...

    def list(self, name: str, *, folder: str) -> Sequence[str]: ...

    async def delete(self, name: str, checkpoint: str, *, folder: str) -> None: ...


class NetworksBackend(Protocol):
    """Implemented by `gantry.network.service.Networks` (through `containers` for connect)."""

    async def list(self, filters: Filters) -> Rows: ...

    async def inspect(self, name: str, *, verbose: bool, scope: str) -> Json: ...

    async def create(self, body: Json) -> Json: ...

    async def remove(self, name: str) -> None: ...

    async def connect(
        self, network: str, container: str, config: EndpointSettings | None
    ) -> None: ...

    async def disconnect(self, network: str, container: str, *, force: bool) -> None: ...

    async def prune(self, filters: Filters) -> Json: ...

    async def egress(self, name: str) -> Json: ...


class VolumesBackend(Protocol):
    async def list(self, filters: Filters) -> Json: ...

    async def inspect(self, name: str) -> Json: ...

    async def create(self, body: Json) -> Json: ...

    async def remove(self, name: str, *, force: bool) -> None: ...

    async def prune(self, filters: Filters) -> Json: ...


class SystemBackend(Protocol):
    def version(self) -> Json: ...

    def info(self) -> Json: ...

    async def disk_usage(self, types: Sequence[str], *, verbose: bool) -> Json: ...

    async def auth(self, body: Json) -> Json: ...

    def events(self, *, since: str, until: str, filters: Filters) -> AsyncIterator[Json]: ...


class Backends(Protocol):
    """All of them, as `daemon` wires them."""

    @property
    def containers(self) -> ContainersBackend: ...

    @property
    def checkpoints(self) -> CheckpointsBackend: ...

    @property
    def execs(self) -> ExecBackend: ...

    @property
    def images(self) -> ImagesBackend: ...

    @property
    def networks(self) -> NetworksBackend: ...

    @property
    def volumes(self) -> VolumesBackend: ...

    @property
    def system(self) -> SystemBackend: ...


__all__ = [
    "AsyncWait",
    "Attachment",
    "Backends",
    "ByteStream",
    "CheckpointsBackend",
    "ContainersBackend",
    "ExecBackend",
    "Filters",
    "ImagesBackend",
    "Json",
    "NetworksBackend",
    "SystemBackend",
    "VolumesBackend",
]
