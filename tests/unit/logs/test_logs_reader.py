"""What is written is read back, as Docker frames, through tail, times and rotation."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.logs import reader as reader_module
from gantry.logs.query import LogQuery
from gantry.logs.reader import LogReader
from gantry.model.task import LogSpec
from gantry.shim.logfile import JsonFileLog, LineLog, LocalLog

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
DRIVERS = ["json-file", "local"]


def writer(
    path: Path, driver: str, *, clock: Callable[[], int] | None = None, **options: object
) -> LineLog:
    spec = LogSpec(driver, str(path))
    spec = spec._replace(**options)  # type: ignore[arg-type]  # test shorthand
    kind = LocalLog if driver == "local" else JsonFileLog
    return kind(spec, now_ns=clock or (lambda: START))


def seconds() -> Callable[[], int]:
    """A clock that advances a second with each look."""
    ticks = count()
    return lambda: START + next(ticks) * SECOND


def frame(stream: int, text: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(text).to_bytes(4, "big") + text


def read(path: Path, driver: str = "json-file", **query: object) -> bytes:
    async def main() -> bytes:
        wanted = replace(LogQuery(), **query)  # type: ignore[arg-type]  # test shorthand
        return b"".join([piece async for piece in LogReader(str(path), driver).read(wanted)])

    return asyncio.run(main())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.parametrize("driver", DRIVERS)
@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.text(max_size=30)), max_size=30))
def test_any_lines_come_back_a_frame_each(
    tmp_path_factory: pytest.TempPathFactory, driver: str, lines: list[tuple[int, str]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    clean = [
        (stream, text.encode("utf-8", "replace").replace(b"\n", b"") + b"\n")
        for stream, text in lines
    ]
    log = writer(path, driver)
    for stream, text in clean:
        log.write(stream, text)
    log.finish()
    assert read(path, driver) == b"".join(frame(*line) for line in clean)


@pytest.mark.parametrize("driver", DRIVERS)
def test_large_reads_come_back_a_frame_a_line(path: Path, driver: str) -> None:
    lines = [b'line %d "quoted" <tag>\n' % number for number in range(50_000)]
    data = b"".join(lines)
    log = writer(path, driver, clock=seconds())
    for start in range(0, len(data), 65536):
        log.write(1, data[start : start + 65536])
    log.finish()
    assert read(path, driver) == b"".join(frame(1, line) for line in lines)
    assert read(path, driver, raw=True) == data


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("tail", [0, 1, 3, 999, 1000, 1001])
def test_tail(path: Path, driver: str, tail: int) -> None:
    lines = [b"%d\n" % number for number in range(1000)]
    log = writer(path, driver)
    for start in range(0, 1000, 7):
        log.write(1, b"".join(lines[start : start + 7]))
    log.finish()
    assert read(path, driver, tail=tail, raw=True) == b"".join(lines[max(0, 1000 - tail) :])


@pytest.mark.parametrize("driver", DRIVERS)
def test_tail_is_found_across_blocks(path: Path, driver: str) -> None:
    lines = [b"%06d " % number + b"x" * 300 + b"\n" for number in range(3000)]
    log = writer(path, driver)
    for line in lines:
        log.write(1, line)
    log.finish()
    assert read(path, driver, tail=1500, raw=True) == b"".join(lines[1500:])


@pytest.mark.parametrize("driver", DRIVERS)
def test_unfinished_lines_have_no_newline(path: Path, driver: str) -> None:
    log = writer(path, driver)
    log.write(1, b"whole\nprompt> ")
    log.finish()
    assert read(path, driver) == frame(1, b"whole\n") + frame(1, b"prompt> ")


@pytest.mark.parametrize("driver", DRIVERS)
def test_streams_are_chosen(path: Path, driver: str) -> None:
    log = writer(path, driver)
    for stream in (1, 2, 1):
        log.write(stream, b"from %d\n" % stream)
    log.finish()
    assert read(path, driver, stdout=False) == frame(2, b"from 2\n")
    assert read(path, driver, stderr=False) == frame(1, b"from 1\n") * 2


@pytest.mark.parametrize("driver", DRIVERS)
def test_since_and_until_are_inclusive(path: Path, driver: str) -> None:
    log = writer(path, driver, clock=seconds())
    for number in range(10):
        log.write(1, b"%d\n" % number)
    log.finish()
    got = read(path, driver, raw=True, since=START + 3 * SECOND, until=START + 5 * SECOND)
    assert got == b"3\n4\n5\n"
    assert read(path, driver, raw=True, since=START + 3 * SECOND + 1) == b"4\n5\n6\n7\n8\n9\n"


@pytest.mark.parametrize("nanoseconds", [0, 1, 250_000_000, 999_999_999])
def test_times_compare_as_times_not_as_text(path: Path, nanoseconds: int) -> None:
    log = writer(path, "json-file", clock=lambda: START + nanoseconds)
    log.write(1, b"x\n")
    log.finish()
    now = START + nanoseconds
    assert read(path, raw=True, since=now) == read(path, raw=True, until=now) == b"x\n"
    assert read(path, raw=True, since=now + 1) == read(path, raw=True, until=now - 1) == b""


@pytest.mark.parametrize("driver", DRIVERS)
def test_timestamps_have_nine_digits(path: Path, driver: str) -> None:
    log = writer(path, driver, clock=lambda: START + 250_000_000)
    log.write(2, b"x\n")
    log.finish()
    stamp = b"2023-11-14T22:13:20.250000000Z "
    assert read(path, driver, timestamps=True) == frame(2, stamp + b"x\n")
    assert read(path, driver, timestamps=True, raw=True) == stamp + b"x\n"


def test_details_are_sorted_and_escaped(path: Path) -> None:
    log = writer(path, "json-file", attrs={"b": "2 &", "a": "1"})
    log.write(1, b"x\n")
    log.finish()
    assert read(path, details=True) == frame(1, b"a=1,b=2+%26 x\n")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("tail", [None, 1, 25, 30])
def test_rotated_files_are_read_in_order(path: Path, driver: str, tail: int | None) -> None:
    lines = [b"line %02d\n" % number for number in range(30)]
    log = writer(path, driver, max_size=500, max_file=10)
    for line in lines:
        log.write(1, line)
    log.finish()
    assert (path.parent / "log.1").exists()
    wanted = lines if tail is None else lines[-tail:]
    assert read(path, driver, raw=True, tail=tail) == b"".join(wanted)


def test_compressed_files_are_read_too(path: Path) -> None:
    log = writer(path, "json-file", max_size=500, max_file=10)
    lines = [b"line %02d\n" % number for number in range(30)]
    for line in lines:
        log.write(1, line)
    log.finish()
    for number in (1, 2):
        plain = path.with_name(f"log.{number}")
        plain.with_name(f"log.{number}.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    assert read(path, raw=True) == b"".join(lines)
    assert read(path, raw=True, tail=20) == b"".join(lines[-20:])


def test_dockers_own_files_are_read(path: Path) -> None:
    entries = [
        {"log": "one\n", "stream": "stdout", "time": "2023-11-14T22:13:20.1Z"},
        {"log": "tw\u00f6 \u2028\n", "stream": "stderr", "time": "2023-11-14T22:13:21Z"},
        {
            "log": "\x00\x01",
            "stream": "stdout",
            "attrs": {"a": "b"},
            "time": "2023-11-14T22:13:22Z",
        },
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    expected = frame(1, b"one\n") + frame(2, "tw\u00f6 \u2028\n".encode()) + frame(1, b"\0\1")
    assert read(path) == expected


def test_damaged_entries_are_left_out(path: Path) -> None:
    good = b'{"log":"good\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}\n'
    path.write_bytes(good + b"\0\0\0\0\n" + good + b'{"log":"cut o')
    assert read(path, raw=True) == b"good\ngood\n"
    assert read(path, raw=True, tail=1) == b"good\n"


def test_an_entry_longer_than_a_block(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "BLOCK", 100)
    log = writer(path, "json-file")
    log.write(1, b"x" * 5000 + b"\n" + b"y\n")
    log.finish()
    assert read(path, raw=True) == b"x" * 5000 + b"\ny\n"


def test_no_log_is_an_empty_log(path: Path) -> None:
    assert read(path) == b""
    assert read(path, "none") == b""


# -- following --------------------------------------------------------------------------


async def follow(
    path: Path, ended: asyncio.Event, driver: str = "json-file", **query: object
) -> bytes:
    wanted = replace(LogQuery(follow=True, raw=True), **query)  # type: ignore[arg-type]  # shorthand
    pieces = LogReader(str(path), driver).read(wanted, ended)
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("driver", DRIVERS)
def test_follow_reads_what_comes_until_the_end(path: Path, driver: str) -> None:
    async def main() -> None:
        log = writer(path, driver)
        log.write(1, b"before\n")
        ended = asyncio.Event()
        got: list[bytes] = []
        heard = asyncio.Event()

        async def client() -> None:
            query = LogQuery(follow=True, raw=True)
            async for piece in LogReader(str(path), driver).read(query, ended):
                got.append(piece)
                heard.set()

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(client())
            for word in (b"one\n", b"two\n"):
                await heard.wait()
                heard.clear()
                log.write(1, word)
            await heard.wait()
            log.write(1, b"last\n")
            log.finish()
            ended.set()
        assert b"".join(got) == b"before\none\ntwo\nlast\n"

    asyncio.run(main())


def test_follow_goes_through_rotations(path: Path) -> None:
    async def main() -> None:
        log = writer(path, "json-file", max_size=300, max_file=50)
        ended = asyncio.Event()
        lines = [b"line %03d\n" % number for number in range(100)]
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            log.write(1, lines[0])
            reading = group.create_task(follow(path, ended))
            for number, line in enumerate(lines[1:]):
                log.write(1, line)
                if number % 3 == 0:  # sometimes several rotations while nobody looks
                    await asyncio.sleep(0.001)
            log.finish()
            ended.set()
        assert reading.result() == b"".join(lines)

    asyncio.run(main())


def test_follow_before_there_is_a_file(path: Path) -> None:
    async def main() -> None:
        ended = asyncio.Event()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            reading = group.create_task(follow(path, ended))
            await asyncio.sleep(0)
            log = writer(path, "json-file")
            log.write(1, b"first\n")
            log.finish()
            ended.set()
        assert reading.result() == b"first\n"

    asyncio.run(main())


def test_follow_from_the_end(path: Path) -> None:
    async def main() -> None:
        log = writer(path, "json-file")
        log.write(1, b"old\n")
        ended = asyncio.Event()
        heard = asyncio.Event()
        got: list[bytes] = []

        async def client() -> None:
            query = LogQuery(follow=True, raw=True, tail=0)
            async for piece in LogReader(str(path)).read(query, ended):
                got.append(piece)
                heard.set()

        written = b""
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(client())
            while not heard.is_set():  # it starts to follow at a time of its own
                log.write(1, b"new\n")
                written += b"new\n"
                await asyncio.sleep(0.001)
            log.finish()
            ended.set()
        assert b"old" not in b"".join(got)
        assert written.endswith(b"".join(got))

    asyncio.run(main())


def test_follow_ends_when_until_has_come(path: Path) -> None:
    async def main() -> None:
        log = writer(path, "json-file", clock=lambda: START)
        log.write(1, b"x\n")
        async with asyncio.timeout(10):
            assert await follow(path, asyncio.Event(), until=START) == b"x\n"

    asyncio.run(main())


def test_nothing_stays_open(path: Path) -> None:
    log = writer(path, "json-file", max_size=100, max_file=5)
    for number in range(20):
        log.write(1, b"%d\n" % number)
    log.finish()
    before = os.listdir("/proc/self/fd")

    async def main() -> None:
        ended = asyncio.Event()
        ended.set()
        await follow(path, ended)

    asyncio.run(main())
    assert os.listdir("/proc/self/fd") == before
