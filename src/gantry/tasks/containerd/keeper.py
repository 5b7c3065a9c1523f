"""A container's keeper (`gantry.shim.keeper`), seen from the daemon."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from gantry.ipc import wire
from gantry.ipc.aio import Disconnected, Requester
from gantry.ipc.frames import Message
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import GantryError, Unavailable
from gantry.model.task import ExitStatus, StdioSpec, TaskSpec
from gantry.tasks.containerd.api import Stdio
from gantry.tasks.driver import connect
from gantry.tasks.launcher import Launcher
from gantry.tasks.stream import SocketStream

_log = logging.getLogger(__name__)

_FACTS: Final = "task.json"

Wants = tuple[bool, bool, bool]


class Kept(NamedTuple):
    """What is known of a container whose keeper was found again.

    started_at, oom_files: as `started` was told, 0.0 when that never came. execs: whose streams
    it has; stdin_ended: processes that get no more input.
    """

    started_at: float
    oom_files: Sequence[str]
    execs: Sequence[str]
    stdin_ended: Sequence[str]


class Keeper:
    """The streams of one container; a keeper that is killed is replaced.

    on_exit(exec, status): a process that `ended` named is over, and all its output read.
    on_stdin_end(exec): a process gets no more input.
    """

    def __init__(
        self,
        folder: Path,
        launcher: Launcher,
        owner: TaskOwner,
        on_exit: Callable[[str, ExitStatus], None],
        on_stdin_end: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._launcher = launcher
        self._owner = owner
        self._on_exit = on_exit
        self._on_stdin_end = on_stdin_end
        self._requester: Requester | None = None
        self._ended: dict[str, ExitStatus] = {}
        self._finding = asyncio.Lock()
        self._leaving = False

    async def keep(
        self, spec: TaskSpec, attachments: Sequence[Wants]
    ) -> tuple[Stdio, Sequence[SocketStream]]:
        """Make a new container's streams; the folder must not be there."""
        self._connect((await self._launcher.fork()).control)
        reply = await self._call(
            "keep",
            folder=str(self._folder),
            container=spec.container_id,
            stdio=wire.stdio_to_wire(spec.stdio),
            log=wire.log_to_wire(spec.log),
            attachments=[list(wants) for wants in attachments],
        )
        return _stdio(reply), [SocketStream(fd) for fd in reply.fds]

    async def find(self) -> Kept | None:
        """The keeper of an earlier daemon, or another one in its place; None: no folder."""
        if not self._folder.is_dir():
            return None
        state = await self._call("state")
        started_at, oom_files = self._facts()
        return Kept(started_at, oom_files, _names(state, "execs"), _names(state, "stdin_ended"))

    async def exec(
        self, exec_id: str, stdio: StdioSpec, attachments: Sequence[Wants]
    ) -> tuple[Stdio, Sequence[SocketStream]]:
        """Streams for a process that is about to start."""
        reply = await self._call(
            "exec",
            exec=exec_id,
            stdio=wire.stdio_to_wire(stdio),
            attachments=[list(wants) for wants in attachments],
        )
        return _stdio(reply), [SocketStream(fd) for fd in reply.fds]

    async def attach(self, wants: Wants) -> SocketStream:
        """One more client of the first process."""
        return SocketStream((await self._call("attach", wants=list(wants))).fds[0])

    async def flush(self) -> None:
        """What was written until now is in the log."""
        await self._call("flush")

    def started(self, started_at: float, oom_files: Sequence[str]) -> None:
        """The first process runs: remember this for a later daemon (`find`)."""
        draft = self._folder / f".{_FACTS}"
        draft.write_bytes(msgspec.json.encode([started_at, oom_files]))
        draft.rename(self._folder / _FACTS)

    def _facts(self) -> tuple[float, Sequence[str]]:
        try:
            text = (self._folder / _FACTS).read_bytes()
            return msgspec.json.decode(text, type=tuple[float, list[str]])
        except (OSError, msgspec.MsgspecError):
            return 0.0, ()

    def ended(self, exec_id: str, status: ExitStatus) -> None:
        """A process has ended: `on_exit` follows when its output is complete."""
        self._ended[exec_id] = status
        self._post("ended", exec=exec_id, exit=wire.exit_to_wire(status))

    def drop(self, exec_id: str) -> None:
        """A process did not start: its streams go."""
        self._post("drop", exec=exec_id)

    async def delete(self) -> None:
        """Everything goes; clients get what they are owed. Idempotent."""
        self._leaving = True
        if self._folder.is_dir():
            await self._call("delete")
        self.let_go()

    def let_go(self) -> None:
        """Hang up; the keeper goes on."""
        self._leaving = True
        if self._requester is not None:
            self._requester.close()

    # -- the connection -----------------------------------------------------------------

    async def _call(self, op: str, **fields: object) -> Message:
        """One request. Unavailable: the keeper died of it."""
        requester = self._requester
        if requester is None or requester.closed:
            requester = await self._find()
        try:
            return wire.raise_error(await requester.request(op, **fields))
        except Disconnected:
            raise Unavailable(f"{self._folder.name}: the keeper of its streams died") from None

    def _post(self, op: str, **fields: object) -> None:
        """A message without reply; lost when the keeper is (its successor is told what counts)."""
        try:
            if self._requester is not None:
                self._requester.post({"op": op, **fields})
        except Disconnected:
            pass

    async def _find(self) -> Requester:
        """Connect to the keeper that is there, or have another one take its folder up."""
        async with self._finding:
            if self._requester is not None and not self._requester.closed:
                return self._requester
            try:
                return self._connect(connect(self._folder))
            except OSError:
                pass
            _log.warning("container %s lost the keeper of its streams", self._folder.name)
            requester = self._connect((await self._launcher.fork()).control)
            reply = await requester.request("keep", folder=str(self._folder), again=True)
            wire.raise_error(reply)
            requester.post({"op": "take_up"})
            return requester

    def _connect(self, sock: socket.socket) -> Requester:
        requester = Requester(sock, on_event=self._event, on_close=self._closed)
        self._requester = requester
        return requester

    def _closed(self) -> None:
        if not self._leaving and not self._owner.closed:
            self._owner.spawn(self._replace(), f"replace the keeper of {self._folder.name[:12]}")

    async def _replace(self) -> None:
        try:
            await self._find()
            for exec_id, status in list(self._ended.items()):
                self._post("ended", exec=exec_id, exit=wire.exit_to_wire(status))
        except (GantryError, Disconnected) as error:
            _log.error("container %s has no keeper: %s", self._folder.name, error)
            for exec_id, status in list(self._ended.items()):
                self._over(exec_id, status)

    def _event(self, message: Message) -> None:
        exec_id = message.text("exec", "")
        status = wire.exit_from_wire(message.head.get("exit"))
        message.close()
        if message.head.get("event") == "stdin":
            self._on_stdin_end(exec_id)
        elif status is not None:
            self._over(exec_id, status)

    def _over(self, exec_id: str, status: ExitStatus) -> None:
        self._ended.pop(exec_id, None)
        self._on_exit(exec_id, status)


def _names(state: Message, key: str) -> list[str]:
    names = state.head.get(key)
    return [str(name) for name in names] if isinstance(names, list) else []


def _stdio(reply: Message) -> Stdio:
    return Stdio(*(reply.text(name) for name in Stdio._fields))
