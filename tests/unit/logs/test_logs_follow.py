"""Following a log from a stored place, through rotation and restarts."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from gantry.logs.follow import Follower, Place


def write(path: Path, *texts: str) -> None:
    with path.open("a") as file:
        for text in texts:
            line = {"log": text, "stream": "stderr", "time": "2026-01-02T03:04:05.5Z"}
            file.write(json.dumps(line) + "\n")


async def rest(follower: Follower, *, note: bool = True) -> list[str]:
    """What is there, the log having ended."""
    ended = asyncio.Event()
    ended.set()
    found = []
    async for batch in follower.read(ended):
        found += [message.text for message in batch.messages]
        if note:
            follower.delivered(batch.place)
    return found


def follower(path: Path) -> Follower:
    return Follower(str(path), f"{path}.sent")


def test_each_entry_once(tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def scenario() -> None:
        assert await rest(follower(path)) == []  # no log yet
        write(path, "one\n", "two\n")
        assert await rest(follower(path), note=False) == ["one", "two"]
        assert await rest(follower(path)) == ["one", "two"]  # not delivered: once more
        write(path, "three\n")
        with path.open("a") as file:
            file.write('{"log":"half')
        assert await rest(follower(path)) == ["three"]
        assert await rest(follower(path)) == []

    asyncio.run(scenario())


def test_rotated_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def scenario() -> None:
        write(path, "one\n")
        assert await rest(follower(path)) == ["one"]
        write(path, "two\n")
        os.rename(path, f"{path}.2")
        write(Path(f"{path}.1"), "three\n")
        write(path, "four\n")
        assert await rest(follower(path)) == ["two", "three", "four"]
        os.unlink(f"{path}.2")
        assert await rest(follower(path)) == []

    asyncio.run(scenario())


def test_rotated_away(tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def scenario() -> None:
        write(path, "kept\n")
        follower(path).delivered(Place(1, 99))  # a file that is no more
        assert await rest(follower(path)) == ["kept"]

    asyncio.run(scenario())


def test_what_comes(tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def scenario() -> None:
        write(path, "one\n")
        ended = asyncio.Event()
        found = []
        async with asyncio.timeout(10):
            async for batch in follower(path).read(ended):
                for message in batch.messages:
                    found.append((message.text, message.stderr, message.partial, message.time))
                if len(found) == 1:
                    write(path, "part")
                elif len(found) == 2:
                    os.rename(path, f"{path}.1")
                    write(path, "last\n")
                else:
                    ended.set()
        moment = 1_767_323_045_500_000_000
        assert found == [
            ("one", True, False, moment),
            ("part", True, True, moment),
            ("last", True, False, moment),
        ]

    asyncio.run(scenario())
