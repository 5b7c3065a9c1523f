"""`docker logs`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from tests.support.cli import Cli
from tests.support.wait import eventually

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"


def finished(cli: Cli, program: str) -> str:
    created = cli("run", "-d", "busybox", "sh", "-c", program).ok()
    cli("wait", created).ok()
    return created


def test_both_streams(each_cli: Cli) -> None:
    created = finished(each_cli, "echo a; echo b >&2; echo c")
    done = each_cli("logs", created)
    assert (done.code, done.out, done.err) == (0, "a\nc\n", "b\n")


def test_tail(each_cli: Cli) -> None:
    created = finished(each_cli, "seq 1 1000")
    assert each_cli("logs", "--tail", "3", created).ok() == "998\n999\n1000"
    assert each_cli("logs", "--tail", "0", created).ok() == ""
    assert len(each_cli("logs", "--tail", "all", created).ok().splitlines()) == 1000
    assert len(each_cli("logs", "--tail", "5000", created).ok().splitlines()) == 1000


def test_timestamps(each_cli: Cli) -> None:
    created = finished(each_cli, "echo a; echo b")
    lines = each_cli("logs", "-t", created).ok().splitlines()
    assert all(re.fullmatch(rf"{STAMP} [ab]", line) for line in lines), lines


def test_details(cli: Cli) -> None:
    words = ("--log-opt", "labels=kind", "--log-opt", "env=WHO", "-l", "kind=x", "-e", "WHO=me")
    created = cli("run", "-d", *words, "busybox", "echo", "hi").ok()
    cli("wait", created).ok()
    assert cli("logs", "--details", created).ok() == "WHO=me,kind=x hi"


def test_since_and_until(cli: Cli) -> None:
    program = "echo early; while [ ! -e /go ]; do sleep 0.05; done; echo late"
    created = cli("run", "-d", "busybox", "sh", "-c", program).ok()
    eventually(lambda: cli("logs", created).out == "early\n")
    middle = time.time()
    cli("exec", created, "touch", "/go").ok()
    cli("wait", created).ok()
    for moment in (f"{middle:.6f}", datetime.fromtimestamp(middle, UTC).isoformat()):
        stamp = moment.replace("+00:00", "Z")
        assert cli("logs", "--since", stamp, created).ok() == "late"
        assert cli("logs", "--until", stamp, created).ok() == "early"
    assert cli("logs", "--since", "1h", created).ok() == "early\nlate"


def test_follow(each_cli: Cli) -> None:
    program = "i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo $i; sleep 0.1; done"
    created = each_cli("run", "-d", "busybox", "sh", "-c", program).ok()
    assert each_cli("logs", "-f", created).ok() == "1\n2\n3\n4\n5"


def test_follow_shows_lines_as_they_come(cli: Cli) -> None:
    created = cli("run", "-d", "-i", "busybox", "sh", "-c", "echo first; sleep 600").ok()
    with cli.start("logs", "-f", created) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        cli("kill", created).ok()
        assert process.stdout.read() == b""
        assert process.wait(10) == 0


def test_follow_with_tail(cli: Cli) -> None:
    created = cli("run", "-d", "busybox", "sh", "-c", "seq 1 9; sleep 600").ok()
    eventually(lambda: cli("logs", created).out.endswith("9\n"))
    with cli.start("logs", "-f", "--tail", "2", created) as process:
        assert process.stdout is not None
        assert process.stdout.readline() + process.stdout.readline() == b"8\n9\n"
        cli("kill", created).ok()
        assert process.wait(10) == 0


def test_line_without_newline(cli: Cli) -> None:
    created = finished(cli, "printf abc")
    assert cli("logs", created).out == "abc"


def test_long_line_is_whole(cli: Cli) -> None:
    created = finished(cli, "head -c 100000 /dev/zero | tr '\\0' x; echo")
    assert cli("logs", created).out == "x" * 100_000 + "\n"


def test_terminal_output(cli: Cli) -> None:
    created = cli("run", "-d", "-t", "busybox", "sh", "-c", "echo a; echo b >&2").ok()
    cli("wait", created).ok()
    assert cli("logs", created).out == "a\r\nb\r\n"


def test_driver_none(cli: Cli) -> None:
    created = cli("run", "-d", "--log-driver", "none", "busybox", "echo", "x").ok()
    cli("wait", created).ok()
    cli("logs", created).failed(1, "configured logging driver does not support reading")


def test_driver_local(cli: Cli) -> None:
    words = ("--log-driver", "local", "--log-opt", "max-size=1m")
    created = cli("run", "-d", *words, "busybox", "sh", "-c", "echo a; echo b >&2; echo c").ok()
    cli("wait", created).ok()
    done = cli("logs", created)
    assert (done.out, done.err) == ("a\nc\n", "b\n")


def test_rotation(cli: Cli) -> None:
    words = ("--log-opt", "max-size=10k", "--log-opt", "max-file=2")
    created = cli("run", "-d", *words, "busybox", "seq", "1", "2000").ok()
    cli("wait", created).ok()
    lines = cli("logs", created).ok().splitlines()
    assert lines[-1] == "2000"
    assert 50 < len(lines) < 500
    assert lines == [str(n) for n in range(2001 - len(lines), 2001)]


def test_bad_log_driver(cli: Cli) -> None:
    cli("create", "--log-driver", "nope", "busybox").failed(
        1, "no log driver named 'nope' is registered|plugin .nope. not found"
    )


def test_bad_log_option(cli: Cli) -> None:
    cli("create", "--log-opt", "nope=1", "busybox").failed(
        1, "unknown log opt 'nope' for json-file log driver"
    )


def test_log_path(cli: Cli) -> None:
    created = finished(cli, "echo a")
    with open(cli.field(created, "{{.LogPath}}")) as log:
        line = log.readline()
    # The file's stamps end at their last digit that is no zero, which `logs -t` pads.
    stamp = STAMP.replace(r"\.\d{9}", r"(\.\d{0,8}[1-9])?")
    assert re.fullmatch(r'\{"log":"a\\n","stream":"stdout","time":"' + stamp + '"}\n', line)
