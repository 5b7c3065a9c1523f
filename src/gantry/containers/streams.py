"""Attach, logs and resize: what goes to and comes from a container's standard streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from gantry.containers import keys
from gantry.containers.clock import parse_moment
from gantry.containers.core import Core
from gantry.containers.record import Container, PendingAttach
from gantry.containers.tasks import Stream
from gantry.logs.query import LogQuery
from gantry.logs.reader import LogReader
from gantry.model.errors import Conflict, GantryError, InvalidParameter

_UNREADABLE: Final = ("none",)
_LINGER: Final = 10.0  # seconds that an attachment waits for the end of the run


class Ended:
    """A stream without anything: of a container that ended before it could be attached to."""

    async def read(self) -> bytes:
        return b""

    async def write(self, data: bytes) -> None:
        raise BrokenPipeError("the container does not run")

    async def close_stdin(self) -> None:
        return

    async def close(self) -> None:
        return


class Preceded:
    """A stream with the log so far in front of it."""

    def __init__(self, past: AsyncIterator[bytes], inner: Stream) -> None:
        self._past: AsyncIterator[bytes] | None = past
        self._inner = inner

    async def read(self) -> bytes:
        while self._past is not None:
            try:
                data = await anext(self._past)
            except StopAsyncIteration:
                self._past = None
            else:
                if data:
                    return data
        return await self._inner.read()

    async def write(self, data: bytes) -> None:
        await self._inner.write(data)

    async def close_stdin(self) -> None:
        await self._inner.close_stdin()

    async def close(self) -> None:
        await self._inner.close()


class Lasting:
    """A stream that ends no sooner than the run: who reads its end may then ask for the exit
    code, or remove the network, as with dockerd."""

    def __init__(self, inner: Stream, ended: asyncio.Future[None] | None) -> None:
        self._inner = inner
        self._ended = ended

    async def read(self) -> bytes:
        data = await self._inner.read()
        if not data and self._ended is not None:
            await asyncio.wait({self._ended}, timeout=_LINGER)
        return data

    async def write(self, data: bytes) -> None:
        await self._inner.write(data)

    async def close_stdin(self) -> None:
        await self._inner.close_stdin()

    async def close(self) -> None:
        await self._inner.close()


class Attached:
    """An attachment (see `gantry.api.backend.Attachment`)."""

    def __init__(
        self,
        container: Container,
        source: Stream | PendingAttach,
        wrap: Callable[[Stream], Stream],
        on_close: Callable[[], None],
        *,
        stdin: bool,
    ) -> None:
        self.stdin = stdin
        self.tty = container.tty
        self.stdin_once = container.record.config.stdin_once
        self._container = container
        self._source = source
        self._wrap = wrap
        self._on_close = on_close
        self._open: Stream | None = None

    async def stream(self) -> Stream:
        """Waits for the start if need be; a container that is never started gives an end."""
        if self._open is None:
            found: Stream | None
            if isinstance(self._source, PendingAttach):
                found = await self._source.future
            else:
                found = self._source
            if found is None or isinstance(found, Ended):
                self._open = self._wrap(Ended())
            else:
                self._open = self._wrap(Lasting(found, self._container.live.exited))
        return self._open

    async def close(self) -> None:
        """Leave; the container goes on."""
        source = self._source
        if isinstance(source, PendingAttach):
            if source in self._container.live.attaching:
                self._container.live.attaching.remove(source)
            if not source.future.done():
                source.future.cancel()
            elif not source.future.cancelled():
                early = source.future.result()
                if self._open is None and early is not None:
                    await early.close()
        elif self._open is None:
            await source.close()
        if self._open is not None:
            await self._open.close()
        self._on_close()


class Streams:
    """POST attach, GET logs, POST resize."""

    def __init__(self, core: Core) -> None:
        self._core = core

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
    ) -> Attached:
        """Registers at once: nothing that the container says after this is lost."""
        core = self._core
        container = core.table.get(name)
        sequence = keys.parse(detach_keys)
        if container.state.paused:
            raise Conflict(f"container {name} is paused, unpause the container before attach")
        if container.state.restarting:
            raise Conflict(f"container {name} is restarting, wait until the container is running")
        wants = (stdin and container.record.config.open_stdin, stdout, stderr)
        source: Stream | PendingAttach = Ended()
        if stream:
            task = container.live.task
            if task is not None:
                try:
                    source = await task.attach(stdin=wants[0], stdout=stdout, stderr=stderr)
                except GantryError:
                    source = Ended()
            else:
                future = asyncio.get_running_loop().create_future()
                source = PendingAttach(wants, future)
                container.live.attaching.append(source)
        # What comes after this is the stream's: it must not come from the log once more.
        until = time.time_ns()
        core.event(container, "attach")

        typed: list[keys.KeyStream] = []

        def wrap(inner: Stream) -> Stream:
            if container.tty and wants[0]:
                inner = keys.KeyStream(inner, sequence)
                typed.append(inner)
            if logs:
                query = LogQuery(stdout=stdout, stderr=stderr, until=until, raw=container.tty)
                inner = Preceded(self._reader(container).read(query), inner)
            return inner

        def left() -> None:
            if any(stream.detached for stream in typed):
                core.event(container, "detach")

        return Attached(container, source, wrap, left, stdin=wants[0])

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
        """Errors are raised here, before the first piece is asked for."""
        container = self._core.table.get(name)
        if not stdout and not stderr:
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        if container.state.dead or container.state.removing:
            raise Conflict("can not get logs from container which is dead or marked for removal")
        if container.record.host_config.log_config.type in _UNREADABLE:
            raise NotConfigured("configured logging driver does not support reading")
        query = LogQuery(
            stdout=stdout,
            stderr=stderr,
            since=parse_moment(since) if since not in ("", "0") else None,
            until=parse_moment(until) if until not in ("", "0") else None,
            tail=_tail(tail),
            follow=follow,
            timestamps=timestamps,
            details=details,
            raw=container.tty,
        )
        return self._logs(container, query)

    async def _logs(self, container: Container, query: LogQuery) -> AsyncIterator[bytes]:
        ended: asyncio.Event | None = None
        if query.follow:
            ended = asyncio.Event()
            exited = container.live.exited
            if not container.state.running or exited is None:
                ended.set()
            else:
                waiter: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
                waiter.add_done_callback(lambda _: ended.set())
                container.live.not_running.append(waiter)
        elif container.live.task is not None:
            try:
                await container.live.task.flush_logs()
            except GantryError:
                pass  # it has just ended: all is written
        async for piece in self._reader(container).read(query, ended):
            yield piece

    def _reader(self, container: Container) -> LogReader:
        driver = container.record.host_config.log_config.type
        return LogReader(self._core.log_path(container), driver)

    async def resize(self, name: str, rows: int, columns: int) -> None:
        """Conflict when it does not run."""
        container = self._core.table.get(name)
        task = container.live.task
        if task is None:
            raise Conflict(f"container {container.id} is not running")
        await task.resize(rows, columns)
        self._core.event(container, "resize", {"height": str(rows), "width": str(columns)})


class NotConfigured(InvalidParameter):
    """The log driver keeps nothing that could be read."""


def _tail(text: str) -> int | None:
    if text in ("", "all"):
        return None
    try:
        number = int(text)
    except ValueError:
        return None
    return number if number >= 0 else None
