"""Commands whose output lives: cidfile, signals, events, stats, prune, update."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.support.cli import Cli
from tests.support.engine import Engine
from tests.support.wait import eventually


def running(cli: Cli, *words: str) -> str:
    return cli("run", "-d", *words, "busybox", "sleep", "600").ok()


def test_cidfile(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    made = cli("create", "--cidfile", str(file), "busybox").ok()
    assert file.read_text() == made
    cli("create", "--cidfile", str(file), "busybox").failed(1, "container ID file found, make sure")


def test_cidfile_of_a_container_that_was_not_made(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    cli("run", "--cidfile", str(file), "--network", "nosuch", "busybox").failed(125, "nosuch")
    assert not file.exists() or file.read_text()


def test_env_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("A=1\n# B=2\nC=3 4\n")
    out = cli("run", "--rm", "--env-file", str(file), "-e", "D=5", "busybox", "env").ok()
    assert {"A=1", "C=3 4", "D=5"} <= set(out.splitlines())


def test_signals_are_passed_on(cli: Cli) -> None:
    program = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with cli.start("run", "--rm", "busybox", "sh", "-c", program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"got\n"
        assert process.wait(20) == 9


def test_without_proxy_only_the_client_ends(cli: Cli) -> None:
    words = ["--sig-proxy=false", "--name", "alive", "busybox", "sh", "-c", "echo ready; sleep 600"]
    with cli.start("run", *words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert cli.field("alive", "{{.State.Running}}") == "true"


def test_removed_when_it_ends(cli: Cli) -> None:
    assert cli("run", "--rm", "--name", "brief", "busybox", "true").code == 0
    cli("inspect", "brief").failed(1, "No such object: brief")


def test_start_attached_gives_the_exit_code(cli: Cli) -> None:
    made = cli("create", "-i", "busybox", "sh", "-c", "cat; exit 4").ok()
    done = cli("start", "-ai", made, stdin=b"typed")
    assert (done.code, done.out) == (4, "typed")


def test_wait_prints_codes(cli: Cli) -> None:
    one = cli("run", "-d", "busybox", "sh", "-c", "exit 3").ok()
    two = cli("run", "-d", "busybox", "true").ok()
    assert cli("wait", one, two).ok() == "3\n0"


def test_events(cli: Cli) -> None:
    cli("run", "--rm", "--name", "noted", "-l", "k=v", "busybox", "true").ok()
    words = ["--since", "1m", "--until", "0s", "-f", "container=noted", "-f", "event=die"]
    line = cli("events", *words).ok()
    assert " container die " in line
    assert "exitCode=0" in line
    assert "k=v" in line
    event = json.loads(cli("events", *words, "--format", "json").ok())
    assert event["Action"] == "die"
    text = cli("events", *words, "--format", "{{.Actor.Attributes.name}} {{.Type}}").ok()
    assert text == "noted container"


def test_stats(cli: Cli) -> None:
    made = running(cli, "--name", "measured", "-m", "64m")
    header, line = cli("stats", "--no-stream", "measured").ok().splitlines()
    assert header.split("   ")[0] == "CONTAINER ID"
    assert line.split()[:2] == [made[:12], "measured"]
    assert "/ 64MiB" in line
    with cli.start("stats", "--format", "{{.Name}}", "measured") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"measured\n"
        assert process.stdout.readline() == b"measured\n"
        process.terminate()


def test_update(cli: Cli) -> None:
    made = running(cli, "-m", "64m")
    assert cli("update", "-m", "96m", "--memory-swap", "96m", made).ok() == made
    assert cli.field(made, "{{.HostConfig.Memory}}") == str(96 << 20)
    cli("update", made).failed(1, "you must provide one or more flags")


def test_rename_pause_restart_kill(cli: Cli) -> None:
    running(cli, "--name", "old")
    cli("rename", "old", "new").ok()
    assert cli("pause", "new").ok() == "new"
    assert cli.field("new", "{{.State.Status}}") == "paused"
    assert cli("unpause", "new").ok() == "new"
    assert cli("restart", "-t", "0", "new").ok() == "new"
    assert cli("kill", "-s", "KILL", "new").ok() == "new"
    eventually(lambda: cli.field("new", "{{.State.ExitCode}}") == "137")


def test_port(cli: Cli) -> None:
    running(cli, "--name", "published", "-p", "127.0.0.1:18080:80", "-p", "127.0.0.1:18053:53/udp")
    assert cli("port", "published").ok() == "53/udp -> 127.0.0.1:18053\n80/tcp -> 127.0.0.1:18080"
    assert cli("port", "published", "80").ok() == "127.0.0.1:18080"
    cli("port", "published", "81").failed(1, "[Nn]o public port '81' published for published")


def test_volumes(cli: Cli) -> None:
    assert cli("volume", "create", "--label", "k=v", "kept").ok() == "kept"
    cli("run", "--rm", "-v", "kept:/v", "busybox", "sh", "-c", "echo text > /v/f").ok()
    out = cli("run", "--rm", "--mount", "src=kept,dst=/v,ro", "busybox", "cat", "/v/f").ok()
    assert out == "text"
    assert cli("volume", "ls", "--format", '{{.Name}} {{.Label "k"}}', "-f", "name=kept").ok() == (
        "kept v"
    )
    assert cli("volume", "inspect", "-f", "{{.Name}}", "kept").ok() == "kept"
    assert cli("volume", "rm", "kept").ok() == "kept"


def test_prune(cli: Cli) -> None:
    made = cli("create", "busybox").ok()
    asked = cli("container", "prune", stdin=b"n\n")
    assert "WARNING! This will remove all stopped containers." in asked.out
    assert cli("ps", "-aq", "--no-trunc").ok() == made
    out = cli("container", "prune", "-f").ok()
    assert out.startswith(f"Deleted Containers:\n{made}\n\nTotal reclaimed space: ")


def test_info_and_version(cli: Cli) -> None:
    assert "Server Version: " in cli("info").ok()
    assert cli("info", "-f", "{{.OSType}}").ok() == "linux"
    assert "Server" in cli("version").ok()
    version = json.loads(cli("version", "-f", "json").ok())
    assert set(version) == {"Client", "Server"}
    assert cli("version", "-f", "{{.Server.Os}}").ok() == "linux"


def test_disk_usage(cli: Cli) -> None:
    lines = cli("system", "df").ok().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "TYPE", "Images", "Containers", "Local Volumes", "Build Cache"
    ]  # fmt: skip
    assert "Images space usage:" in cli("system", "df", "-v").ok()


def test_an_engine_that_dies_is_one_line_and_125(engine: Engine, cli: Cli) -> None:
    with cli.start("run", "--name", "left", "busybox", "sh", "-c", "echo on; sleep 600") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"on\n"
        engine.kill()
        assert process.wait(20) == 125
        assert process.stderr.read() == b"error waiting for container: unexpected EOF\n"
    cli("ps").failed(1, f"Cannot connect to the Docker daemon at unix://{engine.socket}. Is the")
    engine.start()
    if engine.kind == "gantry":
        assert cli.field("left", "{{.State.Running}}") == "true"
