"""Checkpoints through the API: the way of the request, with a criu that only says that it did.

The real one is asked in tests/oci/test_oci_checkpoint.py, where it works.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import fakecriu
from tests.support.cli import Cli
from tests.support.engine import Engine
from tests.support.wait import eventually

CRIU = Path("/usr/sbin/criu")
GANTRY = str(Path(sys.executable).parent / "gantry")


class FakeCriuEngine(Engine):
    """An engine that sees another program in criu's place, in a mount namespace of its own."""

    def __init__(self, script: Path) -> None:
        super().__init__("gantry", ("--experimental",))
        self._script = script

    def argv(self) -> list[str]:
        found = super().argv()
        start = len(self.machine.host.command)
        words = ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {CRIU} && exec "$@"']
        return [*found[:start], *words, str(self._script), *found[start:]]


@pytest.fixture(scope="module")
def checkpointing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if not CRIU.exists():
        pytest.skip("needs criu's place")
    script = tmp_path_factory.mktemp("criu") / "criu"
    top = Path(fakecriu.__file__).parents[2]
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(top)!r}, {str(top / 'src')!r}]\n"
        "from tests.support.fakecriu import main\nmain()\n"
    )
    script.chmod(0o755)
    with FakeCriuEngine(script) as engine:
        engine.add_image()
        yield engine


@pytest.fixture(params=("docker", "gantry"))
def cli(checkpointing: Engine, request: pytest.FixtureRequest) -> Iterator[Cli]:
    yield (
        checkpointing.cli()
        if request.param == "docker"
        else Cli(GANTRY, checkpointing.socket, "29.0", str(checkpointing.config))
    )
    checkpointing.clean()


def test_there_and_back(checkpointing: Engine, cli: Cli) -> None:
    program = "echo begun; exec sleep 600"
    words = ("-d", "--name", "c1", "-v", "/etc/hostname:/h")
    container = cli("run", *words, "busybox", "sh", "-c", program).ok()
    assert cli("checkpoint", "ls", "c1").ok().split() == ["CHECKPOINT", "NAME"]

    assert cli("checkpoint", "create", "--leave-running", "c1", "kept").ok() == "kept"
    assert cli.field("c1", "{{.State.Status}}") == "running"
    cli("checkpoint", "create", "c1", "kept").failed(
        1, "checkpoint with name kept already exists for container c1"
    )
    cli("checkpoint", "create", "c1", "..").failed(1, 'invalid checkpoint ID ".."')

    assert cli("checkpoint", "create", "c1", "gone").ok() == "gone"
    assert cli("wait", "c1").ok() == "137"
    assert cli("checkpoint", "ls", "c1").ok().splitlines()[1:] == ["gone", "kept"]
    folder = Path(f"{checkpointing.data_root}/containers/{container}/checkpoints/gone")
    told = json.loads((folder / fakecriu.TOLD).read_text())
    assert told["mounts"]["/h"] == "/h"
    assert [word for word in told["external"] if word.endswith(":extRootNetNS")]

    cli("start", "--checkpoint", "gone", "c1").ok()
    assert cli.field("c1", "{{.State.Status}}") == "running"
    eventually(lambda: cli("logs", "c1").ok() == "begun\nrestored")
    pid = cli.field("c1", "{{.State.Pid}}")
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00"
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    cli("kill", "c1").ok()
    assert cli("wait", "c1").ok() == "137"

    cli("checkpoint", "rm", "c1", "gone").ok()
    assert not folder.exists()
    missing = "checkpoint gone does not exist for container "
    cli("checkpoint", "rm", "c1", "gone").failed(1, f"{missing}c1")
    cli("start", "--checkpoint", "gone", "c1").failed(1, f"{missing}/c1")
    cli("rm", "c1").ok()


def test_elsewhere(cli: Cli, tmp_path: Path) -> None:
    cli("run", "-d", "--name", "d1", "busybox", "sleep", "600").ok()
    words = ("--checkpoint-dir", str(tmp_path))
    cli("checkpoint", "create", *words, "d1", "far").ok()
    assert (tmp_path / "far" / fakecriu.TOLD).exists()
    assert cli("checkpoint", "ls", *words, "d1").ok().splitlines()[1:] == ["far"]
    assert cli("checkpoint", "ls", "d1").ok().splitlines()[1:] == []
    missing = str(tmp_path / "nowhere")
    cli("checkpoint", "ls", "--checkpoint-dir", missing, "d1").failed(
        1, f'checkpoint directory "{missing}" does not exist for container d1'
    )
    cli("start", *words, "--checkpoint", "far", "d1").failed(
        1, "custom checkpointdir is not supported"
    )
    cli("checkpoint", "create", "d1", "late").failed(1, "is not running")


def test_an_event_says_so(checkpointing: Engine, cli: Cli) -> None:
    cli("run", "-d", "--name", "e1", "busybox", "sleep", "600").ok()
    cli("checkpoint", "create", "--leave-running", "e1", "one").ok()
    until = f"{time.time():.6f}"
    seen = cli("events", "--since", "1h", "--until", until, "--filter", "event=checkpoint").ok()
    assert "container checkpoint" in seen
    assert "name=e1" in seen
