"""What the shim writes is what Docker's json-file driver would have written."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.model.task import LogSpec
from gantry.shim.jsonlog import Clock, escape
from gantry.shim.logfile import LINE_LIMIT, JsonFileLog, LineLog, LocalLog, NoLog, open_log

NOW = 1_700_000_000_250_000_000
STAMP = "2023-11-14T22:13:20.25Z"


def go_escape(data: bytes) -> bytes:
    """A slow transcription of what moby's jsonlogbytes.go does, byte by byte."""
    out = bytearray()
    position = 0
    while position < len(data):
        byte = data[position]
        if byte < 0x80:
            position += 1
            if byte in b'\\"':
                out += b"\\" + bytes((byte,))
            elif byte == 0x0A:
                out.append(byte)  # lines are cut at newlines before
            elif byte == 0x0D:
                out += b"\\r"
            elif byte < 0x20 or byte in b"<>&":
                out += b"\\u00%02x" % byte
            else:
                out.append(byte)
            continue
        for size in (2, 3, 4):
            piece = data[position : position + size]
            try:
                char = piece.decode()
            except UnicodeDecodeError:
                continue
            out += {"\u2028": b"\\u2028", "\u2029": b"\\u2029"}.get(char, piece)
            position += size
            break
        else:
            out += b"\\ufffd"
            position += 1
    return bytes(out)


@given(st.binary())
def test_escapes_any_bytes_as_go_does(data: bytes) -> None:
    assert escape(data) == go_escape(data)


@given(st.text())
def test_escapes_any_text_as_go_does(text: str) -> None:
    assert escape(text.encode("utf-8", "replace")) == go_escape(text.encode("utf-8", "replace"))


def test_stamps_have_no_trailing_zeros() -> None:
    clock = Clock()
    assert clock.stamp(NOW) == STAMP.encode()
    assert clock.stamp(1_700_000_000_000_000_000) == b"2023-11-14T22:13:20Z"
    assert clock.stamp(1_700_000_001_000_000_001) == b"2023-11-14T22:13:21.000000001Z"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c-json.log"


def make(path: Path, **options: object) -> JsonFileLog:
    spec = LogSpec("json-file", str(path), **options)  # type: ignore[arg-type]  # test shorthand
    return JsonFileLog(spec, now_ns=lambda: NOW)


def entries(path: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [(line["stream"], line["log"]) for line in lines]


def test_one_line_is_dockers_byte_for_byte(path: Path) -> None:
    log = make(path)
    log.write(1, b'say "hi" <b>\t\n')
    log.finish()
    expected = rb'{"log":"say \"hi\" \u003cb\u003e\u0009\n","stream":"stdout","time":"%b"}'
    assert path.read_bytes() == expected % STAMP.encode() + b"\n"


def test_attrs_come_before_the_time(path: Path) -> None:
    log = make(path, attrs={"env": "x"})
    log.write(2, b"a\n")
    log.finish()
    expected = b'{"log":"a\\n","stream":"stderr","attrs":{"env":"x"},"time":"%b"}\n'
    assert path.read_bytes() == expected % STAMP.encode()


def test_streams_do_not_mix_their_unfinished_lines(path: Path) -> None:
    log = make(path)
    log.write(1, b"out ")
    log.write(2, b"err ")
    log.write(1, b"put\nnext")
    log.write(2, b"or\n")
    log.finish()
    assert entries(path) == [
        ("stdout", "out put\n"),
        ("stderr", "err or\n"),
        ("stdout", "next"),
    ]


def moby_lines(data: bytes) -> list[str]:
    """What moby's copier.go makes of a stream."""
    found = []
    for line in data.split(b"\n")[:-1]:
        found += [line[i : i + LINE_LIMIT] for i in range(0, len(line) + 1, LINE_LIMIT)]
        if len(line) % LINE_LIMIT == 0 and line:
            found[-1] = b""
        found[-1] += b"\n"
    rest = data.split(b"\n")[-1]
    found += [rest[i : i + LINE_LIMIT] for i in range(0, len(rest), LINE_LIMIT)]
    return [text.decode() for text in found]


sizes = st.sampled_from(
    [0, 1, 5, LINE_LIMIT - 1, LINE_LIMIT, LINE_LIMIT + 1, 2 * LINE_LIMIT, 3 * LINE_LIMIT + 7]
)


@given(st.lists(sizes, max_size=6), sizes, st.sampled_from([1000, 8192, 16384, 65536]))
def test_long_lines_are_split_where_docker_splits_them(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], last: int, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    data = b"".join(b"x" * length + b"\n" for length in lengths) + b"y" * last
    log = make(path)
    for start in range(0, len(data), chunk):
        log.write(1, data[start : start + chunk])
    log.finish()
    assert [text for _, text in entries(path)] == moby_lines(data)


def test_pieces_of_a_line_have_the_time_of_the_first(path: Path) -> None:
    times = iter((NOW, NOW + 1_000_000_000, NOW + 2_000_000_000))
    log = JsonFileLog(LogSpec("json-file", str(path)), now_ns=lambda: next(times))
    log.write(1, b"x" * (LINE_LIMIT + 1))
    log.write(1, b"end\nnew\n")
    stamps = [json.loads(line)["time"] for line in path.read_bytes().splitlines()]
    assert stamps == [STAMP, STAMP, STAMP.replace(":20", ":21")]


def test_rotation_counts_as_dockers_does(path: Path) -> None:
    log = make(path, max_size=300, max_file=3)
    for number in range(20):
        log.write(1, b"line %02d\n" % number)
    log.finish()
    one = len(path.with_name(path.name + ".1").read_bytes().splitlines()[0]) + 1
    per_file = -(-300 // one)  # rotated before the first entry after 300 bytes
    kept = [*entries(Path(f"{path}.2")), *entries(Path(f"{path}.1")), *entries(path)]
    assert [text for _, text in kept] == [f"line {n:02}\n" for n in range(20)][-len(kept) :]
    assert len(entries(Path(f"{path}.2"))) == len(entries(Path(f"{path}.1"))) == per_file
    assert not Path(f"{path}.3").exists()


def test_rotation_cuts_a_large_read_as_it_cuts_lines(tmp_path: Path) -> None:
    lines = [b"line %02d\n" % number for number in range(20)]
    for name, writes in (("one", [b"".join(lines)]), ("many", lines)):
        log = make(tmp_path / name, max_size=300, max_file=3)
        for data in writes:
            log.write(1, data)
        log.finish()
    for suffix in ("", ".1", ".2"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"many{suffix}").read_bytes()


def test_one_file_only_is_started_anew(path: Path) -> None:
    log = make(path, max_size=100, max_file=1)
    for number in range(5):
        log.write(1, b"%d\n" % number)
    log.finish()
    assert not Path(f"{path}.1").exists()
    assert entries(path)[-1] == ("stdout", "4\n")


def test_compression_that_is_late_finds_its_file_again(path: Path) -> None:
    waiting: list[Callable[[], None]] = []

    def fork(work: Callable[[], None], then: Callable[[], None]) -> None:
        work()
        waiting.append(then)

    log = JsonFileLog(LogSpec("json-file", str(path), 100, 4, True), fork, lambda: NOW)
    for number in range(4):
        log.write(1, b"first %d\n" % number)
    (then,) = waiting
    first = Path(f"{path}.1").read_bytes()
    while not Path(f"{path}.2").exists():
        log.write(1, b"second\n")
    then()
    assert not Path(f"{path}.2").exists()
    assert zlib.decompress(Path(f"{path}.2.gz").read_bytes(), 31) == first
    log.finish()


def test_a_full_disk_loses_output_but_stops_nobody() -> None:
    log = JsonFileLog(LogSpec("json-file", "/dev/full"))
    log.write(1, b"lost\n")
    log.write(1, b"lost too\n")
    log.finish()
    assert log.file.dropped > 0


def test_a_log_goes_on_where_it_was(path: Path) -> None:
    for word in (b"one\n", b"two\n"):
        log = make(path, max_size=10_000)
        log.write(1, word)
        log.finish()
    assert entries(path) == [("stdout", "one\n"), ("stdout", "two\n")]
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("driver", "kind"),
    [("json-file", JsonFileLog), ("local", LocalLog), ("none", NoLog), ("syslog", JsonFileLog)],
)
def test_driver_names(path: Path, driver: str, kind: type[LineLog]) -> None:
    log = open_log(LogSpec(driver, str(path)))
    assert isinstance(log, kind)
    log.finish()
