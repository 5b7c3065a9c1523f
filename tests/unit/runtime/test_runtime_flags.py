"""runc's command-line syntax, its log, and the small parsers of its commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.runtime.commands.control import ram_in_bytes, signal_number
from gantry.runtime.commands.dispatch import dispatch
from gantry.runtime.commands.execute import sub_cgroups
from gantry.runtime.commands.flags import BOOL, INT, LIST, STRING, UsageError, parse
from gantry.runtime.commands.log import Log
from gantry.runtime.errors import RuntimeFailure

FLAGS = {"bundle": STRING, "detach": BOOL, "env": LIST, "preserve-fds": INT}
SHORT = {"b": "bundle", "d": "detach", "e": "env"}


@pytest.mark.parametrize(
    "words",
    [
        ["--bundle", "/x", "-d", "name"],
        ["-b", "/x", "--detach", "name"],
        ["-bundle=/x", "-detach=true", "name"],
        ["--b=/x", "-d=1", "--", "name"],
        ["name", "-b", "/x", "-d"],
    ],
)
def test_forms(words: list[str]) -> None:
    found = parse(words, FLAGS, short=SHORT, stop_after=99)
    assert found.string("bundle") == "/x"
    assert found.flag("detach")
    assert found.rest == ["name"]


def test_lists_and_defaults() -> None:
    found = parse(["-e", "A=1,2", "--env", "B"], FLAGS, short=SHORT, stop_after=99)
    assert found.strings("env") == ["A=1,2", "B"]
    assert found.string("bundle", "x") == "x"
    assert found.number("preserve-fds") == 0
    assert not found.given("bundle")


def test_what_follows_the_name_is_the_command_s() -> None:
    found = parse(["-d", "name", "sh", "-d", "--", "-x"], FLAGS, short=SHORT, stop_after=1)
    assert found.rest == ["name", "sh", "-d", "--", "-x"]


@pytest.mark.parametrize(
    "words",
    [["--nonesuch"], ["--bundle"], ["--preserve-fds", "x"], ["--detach=maybe"]],
)
def test_mistakes(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words, FLAGS, short=SHORT, stop_after=99)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("512", 512), ("1k", 1024), ("1K", 1024), ("2kb", 2048), ("3KiB", 3072),
        ("64m", 64 << 20), ("1.5g", 3 << 29), ("1 G", 1 << 30), ("7b", 7), ("1t", 1 << 40),
    ],
)  # fmt: skip
def test_sizes(text: str, number: int) -> None:
    assert ram_in_bytes(text) == number


@pytest.mark.parametrize("text", ["", "x", "1x", "-5", "1mm", "m"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError):
        ram_in_bytes(text)


@pytest.mark.parametrize("text", ["9", "KILL", "SIGKILL", "sigkill", "kill"])
def test_signals(text: str) -> None:
    assert signal_number(text) == 9


def test_unknown_signal() -> None:
    with pytest.raises(RuntimeFailure, match='unknown signal "NOPE"'):
        signal_number("NOPE")


def test_sub_cgroups() -> None:
    assert sub_cgroups([]) == {}
    assert sub_cgroups(["/in"]) == {"": "/in"}
    assert sub_cgroups(["cpu,memory:/a", "pids:/b"]) == {"cpu": "/a", "memory": "/a", "pids": "/b"}
    for bad in (["cpu:/a", "cpu:/b"], [":/a"], ["/a", "/b"]):
        with pytest.raises(RuntimeFailure):
            sub_cgroups(bad)


def test_text_log_is_logrus_s(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"))
    log.write("error", 'a "quoted" \\ line')
    log.write("debug", "not shown")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(
        r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" level=error msg="a \\"quoted\\" \\\\ line"', line
    )


def test_json_log(tmp_path: Path) -> None:
    Log(str(tmp_path / "log"), "json", debug=True).write("debug", "x\ny")
    entry = json.loads((tmp_path / "log").read_text())
    assert (entry["level"], entry["msg"]) == ("debug", "x\ny")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--version"], 0, "gantry-runc version"),
        (["--help"], 0, "COMMANDS:"),
        (["create", "--help"], 0, "--bundle value"),
        (["nonesuch"], 3, "No help topic for 'nonesuch'"),
        (["state"], 1, '"state" requires exactly 1 argument(s)'),
        (["--root", "/", "list"], 1, "Option --root argument should not be set to /"),
        (["--log-format", "xml", "list"], 1, "invalid log-format: xml"),
        (["--nonesuch"], 1, "flag provided but not defined: -nonesuch"),
        (["kill"], 1, "requires a minimum of 1"),
        (["kill", "a", "b", "c"], 1, "requires a maximum of 2"),
    ],
)
def test_main(capfd: pytest.CaptureFixture[str], words: list[str], code: int, text: str) -> None:
    assert dispatch(words) == code
    out, err = capfd.readouterr()
    assert text in (out + err).replace('\\"', '"')


def test_commands_on_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    for command in ("state", "start", "kill", "delete", "pause", "resume", "ps", "events"):
        assert dispatch(["--root", root, command, "none"]) == 1
        assert "container does not exist" in capfd.readouterr().err
    assert dispatch(["--root", root, "exec", "none", "true"]) == 255
    assert dispatch(["--root", root, "delete", "-f", "none"]) == 0
    assert dispatch(["--root", root, "list"]) == 1


@given(st.lists(st.text(max_size=6), max_size=5))
def test_any_words_are_parsed_or_refused(words: list[str]) -> None:
    try:
        parse(words, FLAGS, short=SHORT, stop_after=99)
    except UsageError:
        pass


def test_features_are_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["features"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert "rro" in document["mountOptions"]
    assert document["linux"]["intelRdt"]["enabled"] is False
    # Every annotation that changes what is done with the host.
    unsafe = document["potentiallyUnsafeConfigAnnotations"]
    assert {"org.systemd.property.", "org.criu.config"} <= set(unsafe)


def test_spec_is_written_once(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in (["spec", "-b", str(tmp_path)], ["spec", "--rootless", "-b", str(tmp_path)]):
        assert dispatch(words) == 0
        document = json.loads((tmp_path / "config.json").read_text())
        assert document["process"]["args"] == ["sh"]
        assert dispatch(words) == 1
        assert "File config.json exists. Remove it first" in capfd.readouterr().err
        (tmp_path / "config.json").unlink()
