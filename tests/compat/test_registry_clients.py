"""Stock docker clients, with dockerd and with gantryd behind them, on a registry of ours that
wants TLS and a password; and our own client on the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.cli import Cli, clients
from tests.support.engine import Engine, program
from tests.support.image import rootfs
from tests.support.registries import make_certificate


@dataclass
class Served:
    """An engine, and our registry on the engine's host."""

    engine: Engine
    host: str
    process: subprocess.Popen[str]


@pytest.fixture(scope="module", params=["dockerd", "gantry"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    for needed in ("htpasswd", "openssl"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    if not clients():
        pytest.skip("no docker client is installed")
    with suppress(FileNotFoundError):
        program(request.param)
        folder = tmp_path_factory.mktemp("registry")
        certificate, key = make_certificate(folder)
        subprocess.run(
            ["htpasswd", "-Bbc", folder / "users", "me", "secret"], check=True, capture_output=True
        )
        with Engine(request.param) as engine:
            process = subprocess.Popen(
                [
                    *engine.machine.host.command,
                    *(str(Path(sys.executable).parent / "gantry"), "registry", "serve"),
                    *("--root", str(folder / "data"), "--listen", "127.0.0.1:0"),
                    *("--tls-cert", str(certificate), "--tls-key", str(key)),
                    *("--htpasswd", str(folder / "users")),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            try:
                yield Served(engine, process.stdout.readline().split()[-1], process)
            finally:
                process.terminate()
                assert process.wait(20) == 0
        return
    pytest.skip(f"{request.param} is not installed")


def _image(cli: Cli, name: str) -> None:
    done = subprocess.run(
        cli.argv("import", "-", name), input=rootfs(), capture_output=True, env=cli.env()
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("which", [0, -1], ids=["oldest", "newest"])
def test_docker(served: Served, which: int) -> None:
    """Log in, push, mount, remove, pull: the same image again, in the same words."""
    cli = served.engine.cli(list(clients())[which])
    name = f"{served.host}/some/app{cli.major}"
    _image(cli, f"{name}:1")
    cli("push", f"{name}:1").failed(1, "no basic auth credentials")
    login = ("login", "-u", "me", "--password-stdin", served.host)
    cli(*login, stdin=b"wrong").failed(1, "login attempt to .* failed with status: 401 Unauth")
    assert "Login Succeeded" in cli(*login, stdin=b"secret").ok()
    try:
        pushed = cli("push", f"{name}:1").ok()
        assert "Pushed" in pushed or "Mounted from some/app" in pushed
        digest = pushed.partition("digest: ")[2].split()[0]
        assert "Layer already exists" in cli("push", f"{name}:1").ok()
        cli("tag", f"{name}:1", f"{name}/copy:2").ok()
        assert f"Mounted from some/app{cli.major}" in cli("push", f"{name}/copy:2").ok()
        identity = cli.field(f"{name}:1", "{{.Id}}")
        cli("rmi", f"{name}:1", f"{name}/copy:2").ok()
        pulled = cli("pull", f"{name}:1").ok()
        assert f"Digest: {digest}" in pulled
        assert f"Status: Downloaded newer image for {name}:1" in pulled
        assert cli.field(f"{name}:1", "{{.Id}}") == identity
        assert f"Image is up to date for {name}:1" in cli("pull", f"{name}:1").ok()
        assert "Pulling from" in cli("pull", "--all-tags", f"{name}/copy").ok()
        assert cli.field(f"{name}@{digest}", "{{.Id}}") == identity
        cli("pull", f"{name}:9").failed(1, "manifest for .* not found: manifest unknown")
        cli("rmi", f"{name}:1", f"{name}/copy:2").ok()
    finally:
        cli("logout", served.host).ok()
    # dockerd tells of the plain HTTP that it tried after TLS.
    cli("pull", f"{name}:1").failed(1, "no basic auth credentials|EOF")
