"""The command line as a whole: help, errors, and how little it loads."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gantry.cli.command import Command
from gantry.cli.config import Config, encode_auth, load, registry_of
from gantry.cli.main import load as load_command
from gantry.cli.main import main
from gantry.cli.names import familiar, split_reference, split_tag
from gantry.cli.registry import ALIASES, COMMANDS, GROUPS
from gantry.cli.times import timestamp
from gantry.model.errors import GantryError

NOWHERE = "unix:///nonexistent/gantry.sock"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_command_has_help(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *path.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage:  gantry {path}")
    command = load_command(path)
    assert isinstance(command, Command)
    for flag in command.flags:
        assert flag.hidden or f"--{flag.name}" in out
    letters = [flag.short for flag in command.flags if flag.short]
    assert len(letters) == len(set(letters))


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_groups(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, group)
    assert code == 0
    assert out.startswith(f"Usage:  gantry {group} COMMAND")
    code, _, err = run(capsys, group, "nonsense")
    assert code == 1
    assert err.startswith(f"gantry: unknown command: gantry {group} nonsense\n")


def test_aliases_lead_somewhere() -> None:
    assert all(path in COMMANDS for path in ALIASES.values())


def test_program_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--help")[1].startswith("Usage:  gantry [OPTIONS] COMMAND")
    assert run(capsys)[1] == run(capsys, "help")[1]
    assert run(capsys, "--version")[1].startswith("gantry version ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["frob"], 1, "gantry: unknown command: gantry frob\n"),
        (["ps", "--foo"], 125, "unknown flag: --foo\n\nUsage:  gantry ps [OPTIONS]\n"),
        (["rm"], 1, "gantry: 'gantry rm' requires at least 1 argument\n"),
        (["ps", "x"], 1, "gantry: 'gantry ps' accepts no arguments\n"),
        (["rename", "a"], 1, "gantry: 'gantry rename' requires 2 arguments\n"),
        (["-H", NOWHERE, "ps"], 1, f"Cannot connect to the Docker daemon at {NOWHERE}. Is the"),
        (["-H", "foo://x", "ps"], 1, "unable to resolve docker endpoint: invalid bind address"),
        (["-H", NOWHERE, "run", "--pull", "x", "b"], 125, "gantry: invalid pull option: 'x'"),
        (["-H", NOWHERE, "run", "-p", "x:1", "b"], 125, "gantry: invalid hostPort: x\n"),
        (["-H", NOWHERE, "import", "/nonexistent"], 1, "open /nonexistent: no such file or"),
        (["-H", NOWHERE, "pull", "UPPER"], 1, "invalid reference format: repository name (lib"),
        (["-H", NOWHERE, "cp", "a", "b"], 1, "must specify at least one container source\n"),
        (["-H", NOWHERE, "exec", "--detach-keys", "??", "c", "d"], 1, "invalid detach keys (??)"),
    ],
)
def test_errors_are_short_and_docker_s(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run(capsys, *words)
    assert (found, out) == (code, "")
    assert err.startswith(message)
    assert "Traceback" not in err


def test_run_without_an_engine_is_125(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "-H", NOWHERE, "run", "busybox")
    assert code == 125
    assert f"Cannot connect to the Docker daemon at {NOWHERE}" in err


def test_little_is_loaded() -> None:
    """`gantry ps` has to be quick: neither click, rich, asyncio, ssl nor http.client."""
    script = (
        "import sys; from gantry.cli.main import main; "
        f"main(['-H', '{NOWHERE}', 'ps']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"click", "rich", "asyncio", "ssl", "http", "email", "subprocess", "tarfile"}
    assert not loaded & heavy
    assert "gantry" in loaded


def test_output_to_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m gantry.cli.main --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def test_configuration(tmp_path: Path) -> None:
    assert load({"DOCKER_CONFIG": str(tmp_path)}).raw == {}
    config = Config(str(tmp_path / "config.json"), {"psFormat": "x", "other": 1})
    config.store_auth("reg:5000", "me", "se:cret")
    again = load({"DOCKER_CONFIG": str(tmp_path)})
    assert again.format_of("psFormat") == "x"
    assert again.raw["other"] == 1
    assert again.auth_for("reg:5000") == {
        "serveraddress": "reg:5000", "username": "me", "password": "se:cret"
    }  # fmt: skip
    assert (tmp_path / "config.json").stat().st_mode & 0o777 == 0o600
    assert again.forget_auth("reg:5000")
    assert not again.forget_auth("reg:5000")


def test_broken_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(GantryError, match="Error loading config file"):
        load({"DOCKER_CONFIG": str(tmp_path)})


def test_auth_header() -> None:
    header = encode_auth({"username": "ü?>"})
    assert json.loads(base64.urlsafe_b64decode(header)) == {"username": "ü?>"}


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("busybox", "docker.io"),
        ("lib/busybox", "docker.io"),
        ("reg:5000/a", "reg:5000"),
        ("example.org/a/b:1", "example.org"),
        ("localhost/a", "localhost"),
    ],
)
def test_registry_of_an_image(image: str, registry: str) -> None:
    assert registry_of(image) == registry


def test_names_of_images() -> None:
    assert split_tag("reg:5000/a") == ("reg:5000/a", "")
    assert split_tag("reg:5000/a:1") == ("reg:5000/a", "1")
    assert split_reference("a:1@sha256:b") == ("a", "sha256:b")
    assert familiar("docker.io/library/a:1") == "a:1"
    assert familiar("docker.io/me/a") == "me/a"


def test_times() -> None:
    assert timestamp("10m", now=1000.0) == "400.000000000"
    assert timestamp("1234.5") == "1234.5"
    assert timestamp("2026-01-02T03:04:05Z") == "1767323045.000000"
    with pytest.raises(GantryError, match="failed to parse time"):
        timestamp("yesterday")
