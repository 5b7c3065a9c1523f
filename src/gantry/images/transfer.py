"""Blobs on their way in from a registry: shared by all who want them, resumed, in ranges.

One `Transfer` a digest. Its data goes to an ingest of the content store; large blobs are
fetched in several ranges at once. What is there without a gap (the *frontier*) is hashed and
handed to the unpacking while the rest arrives. Broken off, the data stays for the next try,
in this process or the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gantry.content.store import ContentStore, Writer, write_at
from gantry.images.bridge import off_loop
from gantry.images.layers import Layers, Pending
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import Conflict, GantryError, InvalidParameter, NotFound, System
from gantry.oci.image import Descriptor
from gantry.registry.errors import RegistryError
from gantry.registry.remote import Remote

_log = logging.getLogger(__name__)

FRESH: Final = "Pulling fs layer"
WAITING: Final = "Waiting"
DOWNLOADING: Final = "Downloading"
VERIFYING: Final = "Verifying Checksum"
COMPLETE: Final = "Download complete"

_PIECE: Final = 1 << 18
_SPLIT: Final = 64 << 20
"""Bytes from which a blob is fetched in ranges."""
_RANGES: Final = 4
_STREAMS: Final = 6
"""Ranges of all blobs under way at once: each costs some 2 MiB of memory."""
_NOTE: Final = 16 << 20
"""Bytes between two notes of what is missing."""


@dataclass(slots=True)
class Span:
    """Bytes [position, end) are still to come."""

    position: int
    end: int


class Transfer:
    """See the module. phase, current, total: for who shows the progress; `changed` is called
    whenever they change."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.phase = FRESH
        self.current = 0
        self.extracted = 0
        self.total = descriptor.size
        self.pending: Pending | None = None
        self.listeners: set[Callable[[Transfer], None]] = set()
        self.users = 0
        self.task: asyncio.Task[GantryError | None]

    async def wait(self) -> None:
        """Until the blob is in the content store. Raises what went wrong."""
        error = await asyncio.shield(self.task)
        if error is not None:
            raise error

    def show(self, phase: str | None = None) -> None:
        if phase is not None:
            self.phase = phase
        for listener in list(self.listeners):
            listener(self)

    def set_extracted(self, offset: int) -> None:
        self.extracted = offset
        self.show()


class Transfers:
    """All transfers of an engine. One event loop's own."""

    def __init__(self, content: ContentStore, layers: Layers, *, concurrent: int = 3) -> None:
        self._content = content
        self._layers = layers
        self._slots = asyncio.Semaphore(concurrent)
        self._streams = asyncio.Semaphore(max(concurrent, _STREAMS))
        self._running: dict[str, Transfer] = {}
        self._tasks = TaskOwner("transfers")
        self.attempts = 5
        self.retry_delay = 1.0
        """Seconds before the second try; then more."""

    def set_limits(self, concurrent: int, attempts: int) -> None:
        self._slots = asyncio.Semaphore(concurrent)
        self._streams = asyncio.Semaphore(max(concurrent, _STREAMS))
        self.attempts = attempts

    async def aclose(self) -> None:
        await self._tasks.aclose()

    def begin(
        self,
        descriptor: Descriptor,
        remote: Remote,
        *,
        unpack: bool,
        listener: Callable[[Transfer], None],
    ) -> Transfer:
        """Join the transfer of a blob, or start it. Balance with `release`."""
        transfer = self._running.get(descriptor.digest)
        if transfer is None:
            transfer = self._running[descriptor.digest] = Transfer(descriptor)
            transfer.task = self._tasks.spawn(
                self._run(transfer, remote, unpack), descriptor.digest[:19]
            )
        transfer.users += 1
        transfer.listeners.add(listener)
        return transfer

    async def release(self, transfer: Transfer, listener: Callable[[Transfer], None]) -> None:
        """Leave a transfer. With the last user it ends: what was fetched of it stays, an
        unpacking that was not committed does not."""
        transfer.listeners.discard(listener)
        transfer.users -= 1
        if transfer.users:
            return
        if self._running.get(transfer.descriptor.digest) is transfer:
            del self._running[transfer.descriptor.digest]
        if not transfer.task.done():
            transfer.task.cancel()
            await asyncio.wait([transfer.task])
        if transfer.pending is not None:
            await self._layers.drop(transfer.pending)

    # ---- inside

    async def _run(self, transfer: Transfer, remote: Remote, unpack: bool) -> GantryError | None:
        if self._slots.locked():
            transfer.show(WAITING)
        try:
            async with self._slots:
                await self._download(transfer, remote, unpack)
        except GantryError as error:
            return error
        except OSError as error:
            return System(f"cannot download {transfer.descriptor.digest}: {error}")
        finally:
            if transfer.phase != COMPLETE and transfer.pending is not None:
                transfer.pending.job.abort()
        return None

    async def _download(self, transfer: Transfer, remote: Remote, unpack: bool) -> None:
        digest, size = transfer.descriptor.digest, transfer.descriptor.size
        if self._content.exists(digest):
            transfer.show(COMPLETE)
            return
        writer = await off_loop(self._writer, digest)
        with writer:
            writer.keep()
            if writer.offset > size:
                writer.restart()
            if unpack:
                transfer.pending = self._layers.begin(writer.fd, size=size)
                if transfer.pending is not None:
                    transfer.pending.job.progress = transfer.set_extracted
            fetch = _Fetch(transfer, remote, writer, self._streams)
            await self._attempts(transfer, fetch)
            transfer.show(VERIFYING)
            try:
                writer.commit(digest, size, later=True)
            except InvalidParameter:
                raise System(f"filesystem layer verification failed for digest {digest}") from None
        if transfer.pending is not None:
            transfer.pending.job.finish(size)
        transfer.show(COMPLETE)

    def _writer(self, digest: str) -> Writer:
        algorithm = digest.partition(":")[0]
        for ingest in self._content.ingests():
            if ingest.ref == digest:
                with contextlib.suppress(Conflict, NotFound):
                    return self._content.resume(ingest.name, algorithm=algorithm)
        return self._content.writer(digest, algorithm=algorithm)

    async def _attempts(self, transfer: Transfer, fetch: _Fetch) -> None:
        failures = 0
        while True:
            before = fetch.there()
            try:
                await fetch.run()
                return
            except GantryError as error:
                if isinstance(error, RegistryError) and error.final:
                    raise
                failures = 1 if fetch.there() > before else failures + 1
                if failures >= self.attempts or isinstance(error, InvalidParameter):
                    raise
                _log.info("download of %s failed: %s", transfer.descriptor.digest, error)
                delay = self.retry_delay * failures
                seconds = max(1, round(delay))
                unit = "second" if seconds == 1 else "seconds"
                transfer.show(f"Retrying in {seconds} {unit}")
                await asyncio.sleep(delay)


class _Fetch:
    """The tries of one transfer, over the same spans."""

    def __init__(
        self, transfer: Transfer, remote: Remote, writer: Writer, streams: asyncio.Semaphore
    ) -> None:
        self._streams = streams
        self._transfer = transfer
        self._remote = remote
        self._writer = writer
        self._size = transfer.descriptor.size
        self._changed = asyncio.Event()
        self._noted = 0
        missing = writer.missing()
        self._spans = [Span(writer.offset, self._size)]
        if missing is not None and all(end <= self._size for _, end in missing):
            self._spans = [Span(start, end) for start, end in missing if start < end]

    def there(self) -> int:
        """Bytes that have come."""
        return self._size - sum(span.end - span.position for span in self._spans)

    async def run(self) -> None:
        """Fetch what is missing. The error of any range ends all."""
        self._spans = [span for span in self._spans if span.position < span.end]
        self._split()
        self._transfer.current = self.there()
        self._transfer.show(DOWNLOADING)
        try:
            if len(self._spans) <= 1:
                for span in self._spans:
                    await self._range(span, whole=True)
            else:
                await self._parallel()
        finally:
            self._note()
        await self._hash()

    def _split(self) -> None:
        """Divide what is large, so that several ranges are under way."""
        left = sum(span.end - span.position for span in self._spans)
        if left < _SPLIT or len(self._spans) > 1:
            return
        [span] = self._spans
        step = -(-left // _RANGES)
        starts = range(span.position, span.end, step)
        self._spans = [Span(start, min(start + step, span.end)) for start in starts]

    async def _parallel(self) -> None:
        self._note()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hashing())
                for span in self._spans:
                    group.create_task(self._range(span, whole=False))
        except BaseExceptionGroup as group_error:
            first = group_error.exceptions[0]
            if isinstance(first, _NoRanges):
                # It sends all of it whatever we ask for: take that, once.
                self._spans = [Span(0, self._size)]
                await self._range(self._spans[0], whole=True)
                return
            raise first from group_error

    async def _range(self, span: Span, *, whole: bool) -> None:
        """whole: nothing else is under way, so what comes can be hashed as it comes."""
        async with (
            self._streams,
            self._remote.blob(
                self._transfer.descriptor.digest,
                span.position,
                span.end if span.end < self._size else None,
            ) as found,
        ):
            if found.total >= 0 and found.total != self._size:
                raise InvalidParameter(
                    f"blob {self._transfer.descriptor.digest} has {found.total} bytes,"
                    f" expected {self._size}"
                )
            if found.start != span.position:
                if not whole:
                    raise _NoRanges
                span.position = found.start
                if found.start > self._writer.offset:
                    raise RegistryError("the registry sent another range than was asked for")
            await self._take(span, found.response.content.iter_any(), whole)
        if span.position < span.end:
            raise System("unexpected EOF")

    async def _take(self, span: Span, pieces: object, whole: bool) -> None:
        waiting: list[bytes] = []
        size = 0
        try:
            async for piece in pieces:  # type: ignore[attr-defined]  # aiohttp's own iterator
                if span.position + size + len(piece) > span.end:
                    piece = piece[: span.end - span.position - size]
                waiting.append(piece)
                size += len(piece)
                if size >= _PIECE:
                    await self._put(span, waiting, size, whole)
                    waiting, size = [], 0
                if span.position + size >= span.end:
                    break
        finally:
            if waiting:  # also when the connection broke: the next try goes on from here
                await self._put(span, waiting, size, whole)

    async def _put(self, span: Span, pieces: list[bytes], size: int, whole: bool) -> None:
        writer = self._writer
        if whole and span.position == writer.offset:
            await off_loop(writer.write_all, pieces)
        else:
            await off_loop(_pwrite, writer.fd, pieces, span.position)
        span.position += size
        if whole and span.position > writer.offset:
            await off_loop(writer.catch_up, span.position)
        self._transfer.current = self.there()
        self._transfer.show()
        if whole:
            self._advance()
        else:
            self._changed.set()
            if self.there() - self._noted >= _NOTE:
                self._note()

    async def _hashing(self) -> None:
        """Follow the frontier until all is there."""
        while self._writer.offset < self._size:
            await self._changed.wait()
            self._changed.clear()
            await self._hash()
            if all(span.position >= span.end for span in self._spans):
                await self._hash()
                return

    async def _hash(self) -> None:
        frontier = min(
            (span.position for span in self._spans if span.position < span.end),
            default=self._size,
        )
        if frontier > self._writer.offset:
            await off_loop(self._writer.catch_up, frontier)
            self._advance()

    def _advance(self) -> None:
        if self._transfer.pending is not None:
            self._transfer.pending.job.advance(self._writer.offset)

    def _note(self) -> None:
        if len(self._spans) > 1 or self._noted:
            self._noted = self.there()
            left = [(span.position, span.end) for span in self._spans if span.position < span.end]
            self._writer.save_missing(left)


class _NoRanges(Exception):
    """The registry sends whole blobs only."""


def _pwrite(fd: int, pieces: list[bytes], offset: int) -> None:
    try:
        write_at(fd, pieces, offset)
    except OSError as error:
        raise System(f"cannot write blob: {error}") from error
