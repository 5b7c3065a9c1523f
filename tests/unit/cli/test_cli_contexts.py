"""Contexts: which one counts, and the files they are kept in (Docker's own)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gantry.cli.contexts import Context, Contexts, check_name, current
from gantry.cli.main import main
from gantry.client.address import Tls
from gantry.model.errors import GantryError, NotFound


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("given", "environment", "configured", "chosen"),
    [
        ("", {}, "", "default"),
        ("", {}, "conf", "conf"),
        ("", {"DOCKER_CONTEXT": "env"}, "conf", "env"),
        ("", {"DOCKER_CONTEXT": "env", "DOCKER_HOST": "unix:///x"}, "conf", "default"),
        ("flag", {"DOCKER_CONTEXT": "env", "DOCKER_HOST": "unix:///x"}, "conf", "flag"),
    ],
)
def test_which_one_counts(
    given: str, environment: dict[str, str], configured: str, chosen: str
) -> None:
    assert current(given, environment, configured) == chosen


def test_files_are_docker_s(folder: Path) -> None:
    contexts = Contexts(str(folder))
    contexts.put(
        Context("far", "tcp://h:1", metadata={"Description": "d", "x": 1}), {"ca.pem": b"c"}
    )
    digest = hashlib.sha256(b"far").hexdigest()
    meta = json.loads((folder / "contexts/meta" / digest / "meta.json").read_text())
    assert meta == {
        "Name": "far",
        "Metadata": {"Description": "d", "x": 1},
        "Endpoints": {"docker": {"Host": "tcp://h:1", "SkipTLSVerify": False}},
    }
    key = folder / "contexts/tls" / digest / "docker/ca.pem"
    assert key.read_bytes() == b"c"
    assert key.stat().st_mode & 0o777 == 0o600
    assert contexts.address("far").tls == Tls(ca=str(key))
    assert contexts.names() == ["far"]
    contexts.remove("far")
    assert contexts.names() == []
    with pytest.raises(NotFound):
        contexts.get("far")


@pytest.mark.parametrize("name", ["default", "../x", "a b", "", "x"])
def test_names(name: str) -> None:
    with pytest.raises(GantryError):
        check_name(name)


def test_life(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    endpoint = "host=unix:///nonexistent/far.sock"
    code, out, err = run(capsys, "context", "create", "far", "--docker", endpoint)
    assert (code, out, err) == (0, "far\n", 'Successfully created context "far"\n')
    assert run(capsys, "context", "create", "far")[2] == 'context "far" already exists\n'
    assert run(capsys, "context", "use", "far")[1] == "far\n"
    assert run(capsys, "context", "show")[1] == "far\n"
    assert run(capsys, "ps")[2].startswith("Cannot connect to the Docker daemon at unix:///nonex")
    assert run(capsys, "context", "ls", "--format", "{{.Name}} {{.Current}}")[1] == (
        "default false\nfar true\n"
    )
    assert run(capsys, "context", "rm", "far")[2] == (
        'context "far" is in use, set -f flag to force remove\n'
    )
    assert run(capsys, "context", "rm", "-f", "far")[0] == 0
    assert run(capsys, "context", "show")[1] == "default\n"
    assert json.loads((folder / "config.json").read_text()) == {}


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "-c", "nosuch", "ps")[2].startswith(
        'unable to resolve docker endpoint: context "nosuch": context not found: open '
    )
    code, _, err = run(capsys, "-H", "unix:///x", "-c", "far", "ps")
    assert (code, err) == (1, "conflicting options: cannot specify both --host and --context\n")
    assert run(capsys, "context", "use", "nosuch")[0] == 1
    assert run(capsys, "context", "create", "bad", "--docker", "host=ftp://x")[0] == 1


def test_a_context_that_is_broken_does_not_hide_the_others(folder: Path) -> None:
    contexts = Contexts(str(folder))
    contexts.put(Context("good", "unix:///x"))
    broken = folder / "contexts/meta/0000"
    broken.mkdir()
    (broken / "meta.json").write_text("[")
    assert contexts.names() == ["good"]
