"""Between the event loop and threads: byte streams both ways, with bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Final, TypeVar, cast

from gantry.images.messages import Message, Say
from gantry.ipc.owner import TaskOwner

T = TypeVar("T")

_ROOM: Final = 8 << 20
"""Bytes that wait at most between the two sides."""
_PIECE: Final = 1 << 20


class Inlet:
    """The loop puts bytes in, one thread takes them out.

    ::

        inlet = Inlet()
        task = owner.spawn(inlet.feed(body))        # ends when all was taken or put in
        piece = inlet.read()                        # in the thread: blocks; b"" is the end
        inlet.close()                               # the thread wants no more

    An error of the body is raised by `read`, `fail` makes one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._room = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False

    async def feed(self, body: AsyncIterator[bytes]) -> None:
        try:
            async for piece in body:
                if not piece:
                    continue
                if self._waiting > _ROOM:
                    self._room.clear()
                    while self._waiting > _ROOM and not self._closed:
                        await self._room.wait()
                        self._room.clear()
                if self._closed:
                    break  # drain nothing: the server deals with what it did not read
                with self._changed:
                    self._pieces.append(piece)
                    self._waiting += len(piece)
                    self._changed.notify()
        except BaseException as error:
            self.fail(error)
            raise
        with self._changed:
            self._ended = True
            self._changed.notify()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify()

    def read(self) -> bytes:
        with self._changed:
            while not (self._pieces or self._ended or self._error):
                self._changed.wait()
            if self._error is not None:
                if isinstance(self._error, Exception):
                    raise self._error
                raise ConnectionAbortedError("cancelled")
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            if len(piece) < _PIECE and self._pieces:
                gathered = [piece]
                size = len(piece)
                while self._pieces and size < _PIECE:
                    size += len(self._pieces[0])
                    gathered.append(self._pieces.popleft())
                piece = b"".join(gathered)
            before, self._waiting = self._waiting, self._waiting - len(piece)
        if before > _ROOM >= self._waiting:
            self._wake()
        return piece

    def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._room.set)


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own and wait for its end, also when cancelled.

    Not in the loop's pool: such work waits for other work, and a full pool would be a deadlock.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(value: T | None, error: BaseException | None) -> None:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]  # T: work returned it

    def run() -> None:
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = work()
        except BaseException as error:  # it belongs to who waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(finish, value, failure)

    threading.Thread(target=run, name="images", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        future.exception()
        raise


async def off_loop(work: Callable[..., T], *arguments: object) -> T:
    """As `asyncio.to_thread`, for work that ends by itself; cancelled, it is waited for first:
    what the work uses is then closed by nobody under its hands."""
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, lambda: work(*arguments))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise


async def consume(body: AsyncIterator[bytes], work: Callable[[Inlet], T]) -> T:
    """Run `work(inlet)` in a thread while `body` is fed into the inlet.

    When this returns or raises, both have ended; cancelled, `work` meets
    ConnectionAbortedError at its next read.
    """
    inlet = Inlet()
    tasks = TaskOwner("body")
    tasks.spawn(_quietly(inlet.feed(body)), "feed")
    # What `work` raises is this caller's, no task's: nobody but the caller is to tell of it.
    working = tasks.spawn(_outcome(in_thread(lambda: work(inlet))), "work")
    try:
        value, error = await asyncio.shield(working)
        if error is not None:
            raise error
        return cast("T", value)
    finally:
        inlet.fail(ConnectionAbortedError("cancelled"))
        inlet.close()
        await asyncio.wait([working])
        await tasks.aclose()


@contextlib.asynccontextmanager
async def narrated(
    work: Callable[[Say], Coroutine[object, object, None]],
) -> AsyncIterator[AsyncIterator[Message]]:
    """Run `work(say)`, and iterate over what it says as it says it; its error is raised there,
    in the end. say: for the loop's thread. Leaving cancels the work and waits for its end.
    """
    queue: asyncio.Queue[Message | None] = asyncio.Queue()
    tasks = TaskOwner("narrated")
    working = tasks.spawn(work(queue.put_nowait), "work", report=False)
    working.add_done_callback(lambda _: queue.put_nowait(None))

    async def said() -> AsyncIterator[Message]:
        while (message := await queue.get()) is not None:
            yield message
        await working

    try:
        yield said()
    finally:
        await tasks.aclose()


async def _outcome(working: Coroutine[None, None, T]) -> tuple[T | None, Exception | None]:
    try:
        return await working, None
    except Exception as error:
        return None, error


async def _quietly(feeding: Coroutine[None, None, None]) -> None:
    with contextlib.suppress(Exception):  # the reader gets it
        await feeding


async def outlet(pieces: Iterator[bytes], ahead: int = 2) -> AsyncIterator[bytes]:
    """Take a blocking iterator's values in a thread, a few ahead of the consumer.

    The iterator is closed (if it is a generator) when the consumer stops.
    """
    loop = asyncio.get_running_loop()
    done = threading.Event()
    queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
    slots = threading.Semaphore(ahead)

    def give(item: bytes | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def run() -> None:
        try:
            for piece in pieces:
                slots.acquire()
                if done.is_set():
                    break
                give(piece)
            give(None)
        except BaseException as error:  # it is the consumer's
            give(error)
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=run, name="images", daemon=True)
    thread.start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            slots.release()
            yield item
    finally:
        done.set()
        slots.release()
        await off_loop(thread.join)
