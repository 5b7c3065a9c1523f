"""The engine's state: one SQLite file (WAL), one writer thread, group commit.

Life cycle::

    db = Database("/var/lib/gantry/gantry.db")          # opens or creates, starts the writer
    db.migrate("containers", ("CREATE TABLE ...",))      # before the first use of a table
    row = await db.write(lambda c: c.execute(...))       # durable at return
    await db.write(fn, sync=False)                       # survives our own death, not the power's
    db.write_soon(lambda c: c.execute(...))              # a hint: written soon, no fsync of its own
    rows = db.read(lambda c: c.execute(...).fetchall())  # sync, on this thread's own connection
    await db.aclose()                                    # what was queued is written, durably

Many writers that wait at the same time share one transaction and so one fsync: each function
runs in its own savepoint, so that one which raises takes only its own changes back. Functions
run in the order of the calls, on the writer's thread: they must be quick and touch nothing but
the connection and what they closed over. A reader sees all that was awaited, and perhaps what
was written soon.

Rejected: a connection a caller (SQLite has one writer anyway; each would pay its own fsync),
and synchronous=NORMAL for everything (a create that was answered could be gone after a power cut).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from gantry.model.errors import System

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LINGER: Final = 0.02
"""Seconds that a hint waits for company."""

_CHECKPOINT_PAGES: Final = 1000
"""WAL pages from which an idle writer copies them back into the main file."""

_CHECKPOINT_PAGES_BUSY: Final = 8000
"""WAL pages from which even a busy writer does."""


class _Job(Protocol):
    durable: bool
    urgent: bool

    def run(self, connection: sqlite3.Connection) -> None: ...

    def finish(self, failure: Exception | None) -> None: ...


@dataclass(slots=True)
class _Write(Generic[T]):
    """An awaited write: runs on the writer's thread, is answered on its loop after the commit."""

    fn: Callable[[sqlite3.Connection], T]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[T]
    durable: bool = True
    value: T | None = None
    error: Exception | None = None
    urgent: bool = True

    def run(self, connection: sqlite3.Connection) -> None:
        try:
            self.value = self.fn(connection)
        except Exception as error:
            self.error = error
            raise

    def finish(self, failure: Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self._answer, self.error or failure)

    def _answer(self, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.value)  # type: ignore[arg-type]  # T: fn returned it


@dataclass(slots=True)
class _Hint:
    """A write that nobody waits for."""

    fn: Callable[[sqlite3.Connection], object]
    durable: bool = False
    urgent: bool = False

    def run(self, connection: sqlite3.Connection) -> None:
        try:
            self.fn(connection)
        except Exception:
            _log.exception("a state hint was not written")
            raise

    def finish(self, failure: Exception | None) -> None:
        if failure is not None:
            _log.error("state hints were not written: %s", failure)


class Database:
    """See the module. Thread-safe; `write` needs a running event loop."""

    def __init__(self, path: str) -> None:
        """Open or create the file. System when it cannot be opened or is no database."""
        self.path = path
        self._local = threading.local()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._pages = 0
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(fd)
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute("PRAGMA wal_autocheckpoint=0")
            self._writer.execute("PRAGMA synchronous=FULL")
            self._writer.execute(
                "CREATE TABLE IF NOT EXISTS schema_versions"
                " (component TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"
            )
        except (sqlite3.Error, OSError) as error:
            raise System(f"cannot open the state database {path}: {error}") from error
        self._durable_mode = True
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, fn: Callable[[sqlite3.Connection], T], *, sync: bool = True) -> T:
        """Run `fn` in a transaction; its value once that is on the disk.

        sync: durable whatever happens. Without, it is the kernel's at return: it survives the
        end of this process, and a power cut only if something was written durably since.

        An exception of `fn` undoes what it wrote and is raised here. Cancelling the caller
        does not take the write back.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Write(fn, loop, future, sync))
        return await future

    def write_soon(self, fn: Callable[[sqlite3.Connection], object]) -> None:
        """Queue `fn`, in order with all other writes; after a power cut it may be lost."""
        self._put(_Hint(fn))

    def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on the calling thread's own, read-only connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            connection.execute("PRAGMA query_only=1")
            self._local.connection = connection
        return fn(connection)

    def migrate(self, component: str, statements: Sequence[str]) -> None:
        """Bring a component's tables up to date; blocks, for start-up.

        Each statement is applied once in the life of the file, in order; a new version of the
        program appends statements and never edits one. System when the file is of a newer one.
        """

        def apply(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT version FROM schema_versions WHERE component=?", (component,)
            ).fetchone()
            done = row[0] if row else 0
            if done > len(statements):
                raise System(
                    f"the state database {self.path} was written by a newer version"
                    f" ({component}: {done}, known: {len(statements)})"
                )
            for statement in statements[done:]:
                connection.execute(statement)
            connection.execute(
                "INSERT OR REPLACE INTO schema_versions VALUES (?, ?)",
                (component, len(statements)),
            )

        done = threading.Event()
        blocking = _Blocking(apply, done)
        self._put(blocking)
        done.wait()
        if blocking.error is not None:
            raise blocking.error

    async def aclose(self) -> None:
        """Write what is queued, durably, and close. Idempotent."""
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise System("the state database is closed")
            self._queue.put(job)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=30
        )
        connection.execute("PRAGMA foreign_keys=1")
        return connection

    # ---- the writer's thread

    def _work(self) -> None:
        batch: list[_Job] = []
        going = True
        while going:
            going = self._collect(batch)
            if batch:
                self._commit(batch, durable=not going or any(job.durable for job in batch))
                batch.clear()
            self._checkpoint()
        self._writer.close()

    def _collect(self, batch: list[_Job]) -> bool:
        """Fill `batch`; false when this was the last one."""
        job = self._queue.get()
        if job is None:
            return False
        batch.append(job)
        urgent = job.urgent
        while True:
            try:
                # Hints alone linger for company; who is waited for takes along what is there.
                job = self._queue.get_nowait() if urgent else self._queue.get(timeout=_LINGER)
            except queue.Empty:
                return True
            if job is None:
                return False
            batch.append(job)
            urgent = urgent or job.urgent

    def _commit(self, batch: list[_Job], durable: bool) -> None:
        connection = self._writer
        failure: Exception | None = None
        try:
            if durable != self._durable_mode:
                # With a WAL, NORMAL leaves the fsync of a commit to the next FULL one.
                connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable_mode = durable
            connection.execute("BEGIN IMMEDIATE")
            for job in batch:
                connection.execute("SAVEPOINT job")
                try:
                    job.run(connection)
                except Exception:
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            failure = System(f"cannot write the state database {self.path}: {error}")
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        for job in batch:
            job.finish(failure)

    def _checkpoint(self) -> None:
        """Copy the WAL back where it grew long: after the answers, so that nobody waits for it."""
        try:
            pages = os.stat(self.path + "-wal").st_size // 4096
        except OSError:
            return
        if pages - self._pages < _CHECKPOINT_PAGES:
            return
        if self._queue.empty() or pages - self._pages > _CHECKPOINT_PAGES_BUSY:
            try:
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                _log.warning("checkpoint of %s failed: %s", self.path, error)
            with contextlib.suppress(OSError):
                self._pages = os.stat(self.path + "-wal").st_size // 4096


@dataclass(slots=True)
class _Blocking:
    """A write whose caller blocks its thread for it."""

    fn: Callable[[sqlite3.Connection], object]
    done: threading.Event
    error: Exception | None = None
    durable: bool = True
    urgent: bool = True

    def run(self, connection: sqlite3.Connection) -> None:
        try:
            self.fn(connection)
        except Exception as error:
            self.error = error
            raise

    def finish(self, failure: Exception | None) -> None:
        self.error = self.error or failure
        self.done.set()
