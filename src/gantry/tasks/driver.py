"""The task driver that runs every container under a shim of its own.

The way of a start: the launcher has forked a shim and a starter ahead; the daemon sends
the starter the whole request and the shim's end of a socket pair, and the starter's answer
is the only thing waited for. Where a starter cannot do it (gantry.shim.starter), the shim
is asked itself. What is not answered because somebody died on the way is cleaned and tried
again.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from gantry.ipc import wire
from gantry.ipc.aio import Disconnected, Requester
from gantry.ipc.frames import Message, close_all
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import GantryError, StartFailed
from gantry.model.task import ExitStatus, TaskSpec
from gantry.tasks import starting
from gantry.tasks.launcher import Launcher
from gantry.tasks.starters import Starters
from gantry.tasks.stream import SocketStream
from gantry.tasks.task import KILLED, ShimTask, parse_exit

_log = logging.getLogger(__name__)

ATTEMPTS = 5


class ShimTasks:
    """`gantry.containers.tasks.Tasks` by launcher and shims.

    exec_root: where `tasks/<id>/` folders are. python: the interpreter that launcher and
    shims run on, None for the present one's. starters: whether warm ones are used where they
    can be; else each shim has its own, as on older kernels.
    """

    version: tuple[str, str] = ("", "")
    """Of a containerd below: there is none."""

    def __init__(
        self, exec_root: Path, *, python: str | None = None, starters: bool = True
    ) -> None:
        self._folder = Path(exec_root) / "tasks"
        self._launcher = Launcher(python, str(Path(exec_root) / "rehearsal"))
        self._starters = Starters(self._launcher, wanted=starters)
        self._owner = TaskOwner("tasks")
        self._tasks: set[ShimTask] = set()
        self._starting = 0

    async def warm(self) -> None:
        """Have a launcher ready before the first start."""
        self._folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        await self._launcher.warm()
        await self._launcher.refill()
        await self._starters.refill()

    @property
    def launcher(self) -> Launcher:
        return self._launcher

    async def start(
        self,
        spec: TaskSpec,
        netns: int | None,
        attachments: Sequence[tuple[bool, bool, bool]] = (),
    ) -> tuple[ShimTask, Sequence[SocketStream]]:
        own = None if netns is None else os.dup(netns)
        start = self._start(spec, own, attachments)
        return await starting.whole(self._owner, start, spec.container_id[:12])

    async def recover(self) -> AsyncIterator[ShimTask]:
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return
        for name in names:
            task = await self._found(name)
            if task is not None:
                yield task

    async def settled(self) -> None:
        """Wait until all that goes on in the background (undoing, cleaning) is done."""
        await self._owner.drain()

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.let_go()
        await self._owner.aclose()
        self._starters.close()
        self._launcher.close()

    # -- starting -----------------------------------------------------------------------

    async def _start(
        self, spec: TaskSpec, netns: int | None, attachments: Sequence[tuple[bool, bool, bool]]
    ) -> tuple[ShimTask, Sequence[SocketStream]]:
        self._starting += 1
        try:
            for attempt in range(ATTEMPTS):
                generation = self._launcher.generation
                try:
                    return await self._start_once(spec, netns, attachments)
                except Disconnected:
                    # The launcher's death (before it forked), the starter's or the shim's own?
                    await self._clean(spec.container_id)
                    if attempt and self._launcher.alive and generation == self._launcher.generation:
                        break
            raise StartFailed(
                "failed to create task for container: the shim died before it answered", 128
            )
        finally:
            self._starting -= 1
            if netns is not None:
                os.close(netns)
            if not self._starting:
                self._refill()

    def _refill(self) -> None:
        if not self._owner.closed:
            self._owner.spawn(self._launcher.refill(), "refill")

    async def _start_once(
        self, spec: TaskSpec, netns: int | None, attachments: Sequence[tuple[bool, bool, bool]]
    ) -> tuple[ShimTask, Sequence[SocketStream]]:
        if not self._launcher.generation:
            await self.warm()
        shim = await self._launcher.fork()
        if self._starting == 1:
            # The next one while the starter is at work: later the launcher has this init to
            # reap. (Of many starts at once each has its own to wait for.)
            self._refill()
        task = self._connected(spec.container_id, shim.control)
        head = wire.task_to_wire(spec, str(self._folder / spec.container_id))
        head["attachments"] = [list(wants) for wants in attachments]
        try:
            reply = None
            if shim.hand is not None and self._starters.can_start(spec):
                reply = await self._starters.start(spec.spec, netns, shim.hand, head)
                if task.requester.closed:
                    if reply is not None:
                        reply.close()
                    raise Disconnected("the shim was killed")
            shim.let_go()  # with a handover or without: then it looks at its control socket
            if reply is None:
                fds = () if netns is None else (os.dup(netns),)
                reply = await task.requester.request("start", spec.spec, fds, **head)
            wire.raise_error(reply)
        except BaseException:
            self._forget(task)
            raise
        finally:
            shim.let_go()
        streams = [SocketStream(fd) for fd in reply.fds]
        task.running(reply.number("pid"), reply.seconds("started_at"), shim=reply.number("shim", 0))
        return task, streams

    def _connected(self, container_id: str, sock: socket.socket) -> ShimTask:
        task = ShimTask(container_id, self._lost)

        def closed() -> None:
            self._tasks.discard(task)
            task.on_close()

        task.connect(Requester(sock, on_event=task.on_event, on_close=closed))
        self._tasks.add(task)
        return task

    def _forget(self, task: ShimTask) -> None:
        self._tasks.discard(task)
        task.let_go()

    # -- finding again, cleaning --------------------------------------------------------

    async def _found(self, name: str) -> ShimTask | None:
        """The task whose folder is `name`; None when it has just gone away by itself."""
        try:
            sock = connect(self._folder / name)
        except OSError:
            return await self._remains(name)
        task = self._connected(name, sock)
        try:
            state = wire.state_from_wire(wire.raise_error(await task.requester.request("state")))
        except Disconnected:
            self._forget(task)
            return await self._remains(name)
        task.adopt(state)
        return task

    async def _remains(self, name: str) -> ShimTask | None:
        if not (self._folder / name).is_dir():
            return None
        status = await self._clean(name)
        task = ShimTask(name, self._lost)
        task.ended(status)
        return task

    def _lost(self, task: ShimTask) -> None:
        """A shim was killed: so are its processes, and then its end is known."""

        async def finish() -> None:
            task.ended(await self._clean(task.container_id))

        if not self._owner.closed:
            self._owner.spawn(finish(), f"clean {task.container_id[:12]}")

    async def _clean(self, container_id: str) -> ExitStatus:
        """Kill and remove what a dead shim left; how the container ended."""
        folder = self._folder / container_id
        known = None
        try:
            known = parse_exit((folder / "exit.json").read_bytes())
        except OSError:
            pass
        for attempt in range(1, ATTEMPTS + 1):
            if not folder.is_dir():
                break
            shim = await self._launcher.fork()
            requester = Requester(shim.control, on_event=Message.close, on_close=lambda: None)
            shim.let_go()
            try:
                reply = await requester.request("clean", bundle=str(folder))
                wire.raise_error(reply)
                words = reply.text("last_words", "")
                _log.warning("container %s lost its shim%s", container_id, words and f": {words}")
                break
            except GantryError as error:
                _log.error("container %s: its dead shim's remains: %s", container_id, error)
                break
            except Disconnected as error:  # the cleaner was killed, too
                if attempt == ATTEMPTS:
                    _log.error("container %s: its dead shim's remains: %s", container_id, error)
            finally:
                requester.close()
        return known or ExitStatus(KILLED, time.time())


def connect(folder: Path) -> socket.socket:
    """A connection to the shim of a task's folder. OSError: none listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = -1
    try:
        directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # By the folder's fd: its path may be longer than a socket's may be (108).
        sock.connect(f"/proc/self/fd/{directory}/shim.sock")
    except OSError:
        sock.close()
        raise
    finally:
        close_all([directory] if directory >= 0 else [])
    return sock
