"""Unpacking on other processors: a pool of worker processes, and a thread for what is small.

A job is begun while its blob still arrives: `advance` says how much is there, from any
thread. Workers are started when needed, used again, and end a while after the last job, so an
idle engine has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from gantry.archive.apply import Limits
from gantry.archive.compression import Compression
from gantry.archive.errors import ArchiveError, NeedsParents
from gantry.archive.unpack import FileSource, Unpacked, unpack
from gantry.images.bridge import in_thread, off_loop
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import System
from gantry.model.snapshot import Flavour

SMALL: Final = 2 << 20
"""Bytes of blob: below, a thread is done before a worker is there."""
_IDLE: Final = 10.0
"""Seconds."""
_MESSAGE: Final = 1 << 20


class Job:
    """One layer being unpacked into the folder that was given.

    ::

        job = workers.begin(data_fd, folder_fd, Flavour.OVERLAY, size=None)
        job.advance(4096); ...; job.finish(8192)      # any thread, does not block
        unpacked = await job.result()

    `abort` makes `result` raise ArchiveError("cancelled"). Both fds are duplicated.
    """

    def __init__(self, data: int, folder: int, flavour: Flavour, fresh: bool, hashed: bool) -> None:
        self.data = os.dup(data)
        self.folder = os.dup(folder)
        self.flavour = flavour
        self.fresh = fresh
        self.hashed = hashed
        self.task: asyncio.Task[Unpacked | Exception]
        self.progress: Callable[[int], None] | None = None
        """Called on the loop with how many bytes of the blob have been applied."""
        self._changed = threading.Condition()
        self._there = 0
        self._end: int | None = None
        self._aborted = False
        self._worker: _Worker | None = None
        self._wanted: int | None = None
        self._loop = asyncio.get_running_loop()
        self.sized = asyncio.Event()
        """Set when it is known whether the blob is small."""

    def advance(self, to: int) -> None:
        with self._changed:
            if self._there < SMALL <= to:
                self._set_sized()
            self._there = max(self._there, to)
            self._answer()
            self._changed.notify()

    def finish(self, total: int) -> None:
        with self._changed:
            self._there = self._end = total
            self._set_sized()
            self._answer()
            self._changed.notify()

    def abort(self) -> None:
        with self._changed:
            self._aborted = True
            self._set_sized()
            if self._worker is not None:
                self._worker.process.kill()
            self._changed.notify()

    async def result(self) -> Unpacked:
        """ArchiveError, NeedsParents (see `gantry.archive`), System."""
        outcome = await asyncio.shield(self.task)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @property
    def small(self) -> bool:
        return self._end is not None and self._end < SMALL

    def available(self, offset: int) -> int:
        """For the thread that does the job."""
        with self._changed:
            while not self._aborted and self._end is None and offset >= self._there:
                self._changed.wait()
            if self._aborted:
                raise ArchiveError("cancelled")
            return self._there if self._end is None else self._end

    @property
    def aborted(self) -> bool:
        return self._aborted

    def give(self, worker: _Worker) -> None:
        """Let a worker do it, from now until `take`."""
        with self._changed:
            if self._aborted:
                raise ArchiveError("cancelled")
            message = {
                "op": "unpack",
                "flavour": self.flavour.value,
                "fresh": self.fresh,
                "hashed": self.hashed,
                "to": self._there,
                "end": self._end,
            }
            socket.send_fds(
                worker.channel, [json.dumps(message).encode()], [self.data, self.folder]
            )
            self._worker = worker

    def want(self, offset: int) -> None:
        """The worker has used what is before `offset` and waits for more."""
        with self._changed:
            self._wanted = offset
            self._answer()

    def take(self) -> None:
        with self._changed:
            self._worker = None

    def close(self) -> None:
        os.close(self.data)
        os.close(self.folder)

    def _set_sized(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.sized.set)

    def _answer(self) -> None:
        """One answer a question, so the socket is never full."""
        if self._wanted is None or self._worker is None:
            return
        if self._end is not None or self._there > self._wanted:
            self._wanted = None
            note = {"to": self._there, "end": self._end}
            with contextlib.suppress(ConnectionError, BrokenPipeError):
                self._worker.channel.send(json.dumps(note).encode())


class _Worker:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "gantry.archive.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        ours.setblocking(False)
        self.channel = ours
        self.idle: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.idle is not None:
            self.idle.cancel()
        self.channel.close()
        threading.Thread(target=self.process.wait, name="reap", daemon=True).start()


class Workers:
    """See the module. Belongs to one event loop."""

    def __init__(self, count: int | None = None) -> None:
        """count: processes at most; by default one a processor."""
        self.count = count or max(2, len(os.sched_getaffinity(0)))
        self._slots = asyncio.Semaphore(self.count)
        self._free: list[_Worker] = []
        self._tasks = TaskOwner("unpack")

    def begin(
        self,
        data: int,
        folder: int,
        flavour: Flavour,
        *,
        size: int | None,
        fresh: bool = True,
        hashed: bool = False,
    ) -> Job:
        """Start a job; it waits for a free worker. size: of the blob, where it is known.
        hashed: see `gantry.archive.unpack`.

        For the loop's thread.
        """
        job = Job(data, folder, flavour, fresh, hashed)
        small = None if size is None else size < SMALL
        job.task = self._tasks.spawn(self._run(job, small), "layer")
        return job

    async def aclose(self) -> None:
        await self._tasks.aclose()
        for worker in self._free:
            worker.close()
        self._free.clear()

    async def _run(self, job: Job, small: bool | None) -> Unpacked | Exception:
        try:
            if small is None:
                await job.sized.wait()
                small = job.small
            if small or job.aborted:
                return await in_thread(lambda: _in_thread(job))
            async with self._slots:
                return await self._in_worker(job)
        except Exception as error:  # it is for who asks for the result, if anybody does
            return error
        finally:
            job.abort()
            job.close()

    async def _in_worker(self, job: Job) -> Unpacked:
        worker = self._free.pop() if self._free else _Worker()
        if worker.idle is not None:
            worker.idle.cancel()
            worker.idle = None
        healthy = False
        try:
            job.give(worker)
            result = await self._results(worker, job)
            healthy = True
            return result
        except (ArchiveError, NeedsParents):
            healthy = not job.aborted
            raise
        except OSError as error:
            raise System(f"the unpack worker failed: {error}") from error
        finally:
            job.take()
            if healthy:
                self._rest(worker)
            else:
                worker.close()

    async def _results(self, worker: _Worker, job: Job) -> Unpacked:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(worker.channel, _MESSAGE)
            if not data:
                if job.aborted:
                    raise ArchiveError("cancelled")
                code = await off_loop(worker.process.wait)
                raise System(f"the unpack worker ended unexpectedly ({code})")
            message = json.loads(data)
            if "want" in message:
                job.want(message["want"])
            elif "at" in message:
                if job.progress is not None:
                    job.progress(message["at"])
            else:
                return _unpacked(message)

    def _rest(self, worker: _Worker) -> None:
        def leave() -> None:
            self._free.remove(worker)
            worker.close()

        self._free.append(worker)
        worker.idle = asyncio.get_running_loop().call_later(_IDLE, leave)


def _in_thread(job: Job) -> Unpacked:
    try:
        return unpack(
            FileSource(job.data, job.available),
            job.folder,
            job.flavour,
            fresh=job.fresh,
            hashed=job.hashed,
        )
    except OSError as error:
        raise System(f"cannot unpack layer: {error}") from error


def _unpacked(message: dict[str, Any]) -> Unpacked:
    kind = message.get("error")
    if kind == "parents":
        raise NeedsParents(message["message"])
    if kind == "archive":
        raise ArchiveError(message["message"])
    if kind is not None:
        raise System(f"cannot unpack layer: {message['message']}")
    return Unpacked(
        message["diff_id"],
        message["size"],
        message["entries"],
        tuple(name.encode("latin-1") for name in message["implicit"]),
        Compression(message["compression"]),
    )


__all__ = ["SMALL", "Job", "Limits", "Workers"]
