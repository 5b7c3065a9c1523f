"""A json-file log followed from a stored place, for the drivers that send it elsewhere.

The place is (inode, offset), kept in a file beside the log: a sender that starts again, in
this process or the next one, goes on behind the last entry that was delivered.
"""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from gantry.logs.watch import FileWatch

BLOCK = 1 << 18
POLL = 1.0
"""Seconds after which a file is looked at again though nothing was heard of it."""


class _Entry(msgspec.Struct):
    time: str
    log: str = ""
    stream: str = "stdout"


class Place(msgspec.Struct):
    """What was delivered: all of `inode` before `offset`, and all files before it."""

    inode: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One entry. time: nanoseconds since the epoch. partial: a long line goes on in the next."""

    time: int
    text: str
    stderr: bool
    partial: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that were read together, and the place behind them."""

    messages: Sequence[Message]
    place: Place


_decode = msgspec.json.Decoder(_Entry).decode


class Follower:
    """The entries of the log at `path` that were not delivered yet, then those to come."""

    def __init__(self, path: str, place_path: str) -> None:
        self._path = path
        self._place_path = place_path

    def delivered(self, place: Place) -> None:
        """Remember: what is before `place` need not be sent again."""
        new = f"{self._place_path}.new"
        with contextlib.suppress(OSError):  # the container is being removed
            with open(new, "wb") as file:
                file.write(msgspec.json.encode(place))
            os.replace(new, self._place_path)

    async def read(self, ended: asyncio.Event) -> AsyncIterator[Batch]:
        """Until `ended` is set and all is read."""
        place = self._stored()
        changed = asyncio.Event()
        watch = FileWatch(changed)
        fd = -1
        try:
            while True:
                last = ended.is_set()
                changed.clear()
                if fd < 0:
                    fd, place = self._open(place)
                    if fd >= 0:
                        watch.watch(fd)
                if fd >= 0:
                    while block := _whole(os.pread(fd, BLOCK, place.offset)):
                        place = Place(place.inode, place.offset + len(block))
                        yield Batch(_messages(block), place)
                    following = self._after(place.inode)
                    if following:
                        os.close(fd)
                        fd, place = -1, Place(following, 0)
                        continue
                if last:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await _either(changed, ended)
        finally:
            watch.close()
            if fd >= 0:
                os.close(fd)

    def _stored(self) -> Place:
        try:
            with open(self._place_path, "rb") as file:
                return msgspec.json.decode(file.read(), type=Place)
        except (OSError, msgspec.MsgspecError):
            return Place()

    def _files(self) -> list[tuple[int, str]]:
        """(inode, path) of the log's files, the oldest first."""
        found = []
        number = 0
        while True:
            path = f"{self._path}.{number}" if number else self._path
            try:
                found.append((os.stat(path).st_ino, path))
            except FileNotFoundError:
                if number:
                    return found[::-1]
            number += 1

    def _open(self, place: Place) -> tuple[int, Place]:
        """The file of `place`, else (it was rotated away) the oldest; -1 where there is none."""
        files = self._files()
        chosen = next((file for file in files if file[0] == place.inode), None)
        if chosen is None:
            if not files:
                return -1, place
            chosen, place = files[0], Place(files[0][0], 0)
        try:
            fd = os.open(chosen[1], os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1, place
        inode = os.fstat(fd).st_ino
        return fd, place if inode == place.inode else Place(inode, 0)

    def _after(self, inode: int) -> int:
        """The inode of the file that was begun after this one, 0 while this one is the last."""
        files = [each for each, _ in self._files()]
        if inode in files:
            at = files.index(inode)
            return files[at + 1] if at + 1 < len(files) else 0
        return files[0] if files else 0


async def _either(first: asyncio.Event, second: asyncio.Event) -> None:
    if second.is_set():
        return
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(event.wait()) for event in (first, second)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _whole(block: bytes) -> bytes:
    return block[: block.rfind(b"\n") + 1]


def _messages(block: bytes) -> list[Message]:
    found = []
    for line in block.splitlines():
        try:
            entry = _decode(line)
        except msgspec.MsgspecError:
            continue  # a machine lost power here
        text = entry.log.removesuffix("\n")
        partial = not entry.log.endswith("\n")
        found.append(Message(_nanoseconds(entry.time), text, entry.stream == "stderr", partial))
    return found


def _nanoseconds(text: str) -> int:
    """Of RFC 3339 in UTC."""
    head, _, fraction = text.removesuffix("Z").partition(".")
    try:
        seconds = time.strptime(head, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return 0
    return calendar.timegm(seconds) * 1_000_000_000 + int((fraction + "0" * 9)[:9] or 0)


def moment_of(nanoseconds: int) -> datetime:
    """In UTC, cut to microseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
