"""Fakes of the engine behind the routes: small, in memory, no container in sight.

`FakeBackends` remembers what was asked of it (`calls`), answers from plain attributes that
a test sets, and raises `errors[name]` when a test wants a call to fail. Processes are
`FakeStream`s: a test plays the process by `say`, `end` and by reading `heard`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from gantry.api.backend import Filters, Json, Rows, Warnings
from gantry.model.container import (
    CreateRequest,
    CreateResponse,
    EndpointSettings,
    ExecCreate,
    UpdateRequest,
)
from gantry.model.errors import NotFound
from gantry.model.image import ImageSummary

ID = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2"


class FakeStream:
    """A process's streams, the process being the test."""

    def __init__(self) -> None:
        self._output: asyncio.Queue[bytes] = asyncio.Queue()
        self._heard = bytearray()
        self._changed = asyncio.Event()
        self.stdin_closed = False
        self.closed = asyncio.Event()

    def say(self, data: bytes) -> None:
        """Output of the process."""
        self._output.put_nowait(data)

    def end(self) -> None:
        """The process's output ended."""
        self._output.put_nowait(b"")

    @property
    def heard(self) -> bytes:
        """All input so far."""
        return bytes(self._heard)

    async def hear(self, data: bytes) -> None:
        """Wait until the input is (at least) `data`."""
        while len(self._heard) < len(data):
            self._changed.clear()
            await self._changed.wait()

    async def until_stdin_closed(self) -> None:
        """Wait for the end of input."""
        while not self.stdin_closed:
            self._changed.clear()
            await self._changed.wait()

    async def read(self) -> bytes:
        return await self._output.get()

    async def write(self, data: bytes) -> None:
        if self.stdin_closed:
            raise BrokenPipeError
        self._heard += data
        self._changed.set()

    async def close_stdin(self) -> None:
        self.stdin_closed = True
        self._changed.set()

    async def close(self) -> None:
        self.closed.set()


class FakeAttachment:
    """An attachment; `started` set lets `stream` return."""

    def __init__(self, process: FakeStream, *, tty: bool, stdin_once: bool = True) -> None:
        self.tty = tty
        self.stdin = True
        self.stdin_once = stdin_once
        self.process = process
        self.started = asyncio.Event()
        self.closed = asyncio.Event()

    async def stream(self) -> FakeStream:
        await self.started.wait()
        return self.process

    async def close(self) -> None:
        self.closed.set()


class FakeWait:
    """A registered wait; the test sets `done`."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Json] = asyncio.get_running_loop().create_future()

    async def result(self) -> Json:
        return await self.done


class Recorder:
    """Calls and wanted errors, shared by all fakes of one engine."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Json]] = []
        self.errors: dict[str, Exception] = {}

    def note(self, called: str, /, **arguments: Any) -> None:
        """Remember a call; raise what the test wants."""
        self.calls.append((called, arguments))
        if called in self.errors:
            raise self.errors[called]

    def last(self, name: str) -> Json:
        """The arguments of the last call of this name."""
        for called, arguments in reversed(self.calls):
            if called == name:
                return arguments
        raise AssertionError(f"{name} was not called: {[called for called, _ in self.calls]}")


async def _items(items: Sequence[Any]) -> AsyncIterator[Any]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


class FakeContainers:
    """ContainersBackend."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.note = recorder.note
        self.rows: list[bytes] = []
        self.detail: Json = {"Id": ID, "Config": {"Hostname": "h"}, "NetworkSettings": {}}
        self.names = {ID, "c"}
        self.process = FakeStream()
        self.attachment = FakeAttachment(self.process, tty=False)
        self.waits: list[FakeWait] = []
        self.log_items: Sequence[Any] = []
        self.log_gate: asyncio.Event | None = None
        self.log_closed = asyncio.Event()
        self.samples: Sequence[Json] = [{"name": "/c", "os_type": "linux"}]
        self.gate: asyncio.Event | None = None
        self.uploaded = b""

    def _known(self, name: str) -> None:
        if name not in self.names:
            raise NotFound(f"No such container: {name}")

    async def _action(self, action: str, /, name: str, **arguments: Any) -> None:
        self.note(action, name=name, **arguments)
        self._known(name)
        if self.gate is not None:
            await self.gate.wait()
            self.note(f"{action} done")

    async def create(self, request: CreateRequest) -> CreateResponse:
        self.note("create", request=request)
        return CreateResponse(id=ID)

    async def start(self, name: str, *, checkpoint: str = "", checkpoint_dir: str = "") -> None:
        more = {"checkpoint": checkpoint, "checkpoint_dir": checkpoint_dir}
        await self._action("start", name, **{key: word for key, word in more.items() if word})

    async def stop(self, name: str, *, signal: str | None, timeout: int | None) -> None:  # noqa: ASYNC109
        await self._action("stop", name, signal=signal, timeout=timeout)

    async def restart(self, name: str, *, signal: str | None, timeout: int | None) -> None:  # noqa: ASYNC109
        await self._action("restart", name, signal=signal, timeout=timeout)

    async def kill(self, name: str, signal: str) -> None:
        await self._action("kill", name, signal=signal)

    async def pause(self, name: str) -> None:
        await self._action("pause", name)

    async def unpause(self, name: str) -> None:
        await self._action("unpause", name)

    async def rename(self, name: str, new_name: str) -> None:
        await self._action("rename", name, new_name=new_name)

    async def remove(self, name: str, *, force: bool, volumes: bool, link: bool) -> None:
        await self._action("remove", name, force=force, volumes=volumes, link=link)

    async def update(self, name: str, request: UpdateRequest) -> Warnings:
        await self._action("update", name, request=request)
        return []

    async def resize(self, name: str, rows: int, columns: int) -> None:
        await self._action("resize", name, rows=rows, columns=columns)

    async def measure(self, name: str = "") -> None:
        self.note("measure", name=name)

    def inspect(self, name: str, *, size: bool) -> Json:
        self.note("inspect", name=name, size=size)
        self._known(name)
        return self.detail

    def list(
        self, *, everything: bool, limit: int, size: bool, filters: Filters
    ) -> Sequence[bytes]:
        self.note("list", everything=everything, limit=limit, size=size, filters=filters)
        return self.rows

    async def top(self, name: str, ps_args: str) -> Json:
        await self._action("top", name, ps_args=ps_args)
        return {"Titles": ["PID"], "Processes": [["1"]]}

    async def wait(self, name: str, condition: str) -> FakeWait:
        self.note("wait", name=name, condition=condition)
        self._known(name)
        self.waits.append(FakeWait())
        return self.waits[-1]

    def tty(self, name: str) -> bool:
        self._known(name)
        return self.attachment.tty

    async def logs(self, name: str, **options: Any) -> AsyncIterator[bytes]:
        self.note("logs", name=name, **options)
        try:
            async for item in _items(self.log_items):
                yield item
            if self.log_gate is not None:
                await self.log_gate.wait()
        finally:
            self.log_closed.set()

    async def attach(self, name: str, **options: Any) -> FakeAttachment:
        self.note("attach", name=name, **options)
        self._known(name)
        return self.attachment

    def stats(self, name: str, *, stream: bool, one_shot: bool) -> AsyncIterator[Json]:
        self.note("stats", name=name, stream=stream, one_shot=one_shot)
        return _items(self.samples)

    async def changes(self, name: str) -> Rows:
        self._known(name)
        return [{"Path": "/a", "Kind": 1}]

    def export(self, name: str) -> AsyncIterator[bytes]:
        self._known(name)
        return _items([b"tar", b"ball"])

    async def archive_stat(self, name: str, path: str) -> Json:
        self._known(name)
        if path == "/none":
            raise NotFound(f"Could not find the file {path} in container {name}")
        return {"name": "etc", "size": 3, "mode": 0o755, "mtime": "", "linkTarget": ""}

    def archive_get(self, name: str, path: str) -> AsyncIterator[bytes]:
        return _items([b"tar:" + path.encode()])

    async def archive_put(
        self, name: str, path: str, body: AsyncIterator[bytes], **options: bool
    ) -> None:
        self.note("archive_put", name=name, path=path, **options)
        self.uploaded = b"".join([part async for part in body])

    async def prune(self, filters: Filters) -> Json:
        self.note("prune", filters=filters)
        return {"ContainersDeleted": None, "SpaceReclaimed": 0}

    async def commit(
        self, query: Mapping[str, str], config: Json | None, changes: Sequence[str]
    ) -> Json:
        self.note("commit", query=query, config=config, changes=changes)
        return {"Id": "sha256:" + ID}


class FakeExecs:
    """ExecBackend."""

    def __init__(self, recorder: Recorder) -> None:
        self.note = recorder.note
        self.terminal = False
        self.stdin = True
        self.process = FakeStream()
        self.known = {"e"}

    async def create(self, container: str, request: ExecCreate) -> str:
        self.note("exec_create", container=container, request=request)
        return "e"

    async def start(
        self, exec_id: str, *, detach: bool, tty: bool | None, console_size: Sequence[int] | None
    ) -> FakeStream | None:
        self.note("exec_start", exec_id=exec_id, detach=detach, tty=tty, size=console_size)
        return None if detach else self.process

    def tty(self, exec_id: str) -> bool:
        if exec_id not in self.known:
            raise NotFound(f"No such exec instance: {exec_id}")
        return self.terminal

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        self.note("exec_resize", exec_id=exec_id, rows=rows, columns=columns)

    def inspect(self, exec_id: str) -> Json:
        return {"ID": exec_id, "Running": False, "ExitCode": 0, "OpenStdin": self.stdin}


class FakeImages:
    """ImagesBackend."""

    def __init__(self, recorder: Recorder) -> None:
        self.note = recorder.note
        self.rows: list[Json] = []
        self.detail: Json = {"Id": "sha256:" + ID, "Size": 7, "Config": {}}
        self.messages: Sequence[Any] = [{"status": "Pulling"}, {"status": "Done"}]
        self.uploaded = b""

    async def list(self, filters: Filters, **options: bool) -> Sequence[Any]:
        self.note("images", filters=filters, **options)
        return self.rows

    async def inspect(self, name: str, *, platform: str = "") -> Any:
        self.note("image", name=name)
        return msgspec.to_builtins(self.detail)

    async def history(self, name: str, *, platform: str = "") -> Sequence[Any]:
        return []

    async def tag(self, source: str, repo: str, tag: str) -> None:
        self.note("tag", source=source, repo=repo, tag=tag)

    async def remove(self, name: str, *, force: bool, noprune: bool) -> Sequence[Json]:
        self.note("rmi", name=name, force=force, noprune=noprune)
        return [{"Deleted": name}]

    async def prune(self, filters: Filters) -> Json:
        return {"ImagesDeleted": None, "SpaceReclaimed": 0}

    async def load(
        self, body: AsyncIterator[bytes], *, quiet: bool, platform: str = ""
    ) -> AsyncIterator[Json]:
        self.uploaded = b"".join([part async for part in body])
        self.note("load", quiet=quiet)
        async for message in _items(self.messages):
            yield message

    def save(self, names: Sequence[str], *, platform: str) -> AsyncIterator[bytes]:
        self.note("save", names=names, platform=platform)
        return _items([b"tar"])

    async def import_(
        self, source: AsyncIterator[bytes] | str, **options: Any
    ) -> AsyncIterator[Json]:
        if not isinstance(source, str):
            self.uploaded = b"".join([part async for part in source])
        self.note("import", **options)
        async for message in _items(self.messages):
            yield message

    def pull(self, ref: str, **options: Any) -> AsyncIterator[Json]:
        self.note("pull", ref=ref, **options)
        return _items(self.messages)

    def push(self, name: str, **options: Any) -> AsyncIterator[Json]:
        self.note("push", name=name, **options)
        return _items(self.messages)

    async def search(self, term: str, **options: Any) -> Rows:
        self.note("search", term=term, **options)
        return []

    async def distribution(self, name: str, *, auth: Json) -> Json:
        return {"Descriptor": {}, "Platforms": []}


class FakeNetworks:
    """NetworksBackend."""

    def __init__(self, recorder: Recorder) -> None:
        self.note = recorder.note
        self.detail: Json = {"Id": "n", "Name": "net", "EnableIPv4": True, "Status": {}}

    async def list(self, filters: Filters) -> Rows:
        self.note("networks", filters=filters)
        return [self.detail]

    async def inspect(self, name: str, *, verbose: bool, scope: str) -> Json:
        self.note("network", name=name, verbose=verbose, scope=scope)
        return self.detail | {"Containers": {}}

    async def create(self, body: Json) -> Json:
        self.note("network_create", body=body)
        return {"Id": "n", "Warning": ""}

    async def remove(self, name: str) -> None:
        self.note("network_remove", name=name)

    async def connect(self, network: str, container: str, config: EndpointSettings | None) -> None:
        self.note("connect", network=network, container=container, config=config)

    async def disconnect(self, network: str, container: str, *, force: bool) -> None:
        self.note("disconnect", network=network, container=container, force=force)

    async def prune(self, filters: Filters) -> Json:
        return {"NetworksDeleted": None}

    async def egress(self, name: str) -> Json:
        self.note("egress", name=name)
        return {"Allow": None, "Refused": []}


class FakeVolumes:
    """VolumesBackend."""

    def __init__(self, recorder: Recorder) -> None:
        self.note = recorder.note

    async def list(self, filters: Filters) -> Json:
        self.note("volumes", filters=filters)
        return {"Volumes": [], "Warnings": None}

    async def inspect(self, name: str) -> Json:
        raise NotFound(f"get {name}: no such volume")

    async def create(self, body: Json) -> Json:
        self.note("volume_create", body=body)
        return {"Name": body.get("Name", "")}

    async def remove(self, name: str, *, force: bool) -> None:
        self.note("volume_remove", name=name, force=force)

    async def prune(self, filters: Filters) -> Json:
        self.note("volume_prune", filters=filters)
        return {"VolumesDeleted": None, "SpaceReclaimed": 0}


class FakeCheckpoints:
    """CheckpointsBackend."""

    def __init__(self, recorder: Recorder) -> None:
        self.note = recorder.note
        self.names = ["one"]

    async def create(self, name: str, checkpoint: str, *, folder: str, exit: bool) -> None:
        self.note("checkpoint", name=name, checkpoint=checkpoint, folder=folder, exit=exit)

    def list(self, name: str, *, folder: str) -> Sequence[str]:
        self.note("checkpoints", name=name, folder=folder)
        return self.names

    async def delete(self, name: str, checkpoint: str, *, folder: str) -> None:
        self.note("checkpoint_delete", name=name, checkpoint=checkpoint, folder=folder)


class FakeSystem:
    """SystemBackend."""

    def __init__(self, recorder: Recorder) -> None:
        self.note = recorder.note
        self.facts: Json = {"ID": "x", "CgroupVersion": "1", "Runtimes": {"gantry": {"path": "g"}}}
        self.messages: asyncio.Queue[Json | None] = asyncio.Queue()
        self.events_closed = asyncio.Event()

    def version(self) -> Json:
        return {"Version": "29.0.0", "ApiVersion": "1.55"}

    def info(self) -> Json:
        return self.facts

    async def disk_usage(self, types: Sequence[str], *, verbose: bool) -> Json:
        self.note("df", types=types, verbose=verbose)
        return {
            "LayersSize": 5,
            "Images": [
                ImageSummary(
                    containers=1,
                    created=0,
                    id="i",
                    labels=None,
                    parent_id="",
                    repo_digests=[],
                    repo_tags=[],
                    shared_size=0,
                    size=5,
                )
            ],
            "Containers": [{"State": "exited", "SizeRw": 3, "Health": {"Status": "none"}}],
            "Volumes": [],
            "BuildCache": [],
        }

    async def auth(self, body: Json) -> Json:
        self.note("auth", body=body)
        return {"Status": "Login Succeeded", "IdentityToken": ""}

    async def events(self, *, since: str, until: str, filters: Filters) -> AsyncIterator[Json]:
        self.note("events", since=since, until=until, filters=filters)
        try:
            while (message := await self.messages.get()) is not None:
                yield message
        finally:
            self.events_closed.set()


class FakeBackends:
    """A whole engine of fakes."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.containers = FakeContainers(self.recorder)
        self.checkpoints = FakeCheckpoints(self.recorder)
        self.execs = FakeExecs(self.recorder)
        self.images = FakeImages(self.recorder)
        self.networks = FakeNetworks(self.recorder)
        self.volumes = FakeVolumes(self.recorder)
        self.system = FakeSystem(self.recorder)
