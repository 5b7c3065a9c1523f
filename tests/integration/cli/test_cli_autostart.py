"""`gantry` without an engine: it starts one, once, and only where it may.

Each test has a machine of its own: a mount namespace with empty /run, /var/log and
/var/lib/gantry, and a network namespace. The engine's default places are in these.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.wait import eventually

GANTRY = str(Path(sys.executable).parent / "gantry")
PRIVATE = ("/run", "/var/log", "/var/lib/gantry")


class Box:
    """A process that holds the namespaces, and what runs in them."""

    def __init__(self) -> None:
        for folder in PRIVATE:
            Path(folder).mkdir(exist_ok=True)
        mounts = "; ".join(f"mount -t tmpfs none {folder}" for folder in PRIVATE)
        script = f"{mounts}; ip link set lo up; echo ready; exec sleep 600"
        words = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", script]
        self.holder = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"

    def start(self, *words: str, host: str = "") -> subprocess.Popen[str]:
        enter = ["nsenter", "-t", str(self.holder.pid), "--mount", "--net", "--"]
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        if host:
            environment["DOCKER_HOST"] = host
        return subprocess.Popen(
            [*enter, GANTRY, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, *words: str, host: str = "") -> tuple[int, str, str]:
        process = self.start(*words, host=host)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def processes(self, name: str) -> list[int]:
        """Pids in this mount namespace whose command line has `name`."""
        ours = os.stat(f"/proc/{self.holder.pid}/ns/mnt").st_ino
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.stat(f"/proc/{entry}/ns/mnt").st_ino == ours:
                    command = Path(f"/proc/{entry}/cmdline").read_bytes()
                    if name.encode() in command:
                        found.append(int(entry))
            except OSError:
                continue
        return found

    def close(self) -> None:
        for pid in self.processes("gantryd"):
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: not self.processes("gantryd"), "end of gantryd")
        self.holder.kill()
        self.holder.wait()


@pytest.fixture
def box() -> Iterator[Box]:
    """An empty machine."""
    made = Box()
    yield made
    made.close()


def test_starts_an_engine(box: Box) -> None:
    code, out, err = box.run("ps")
    assert code == 0, err
    assert out.startswith("CONTAINER ID")
    assert err == "gantry: no engine is running: starting gantryd (log: /var/log/gantryd.log)\n"
    assert box.run("ps") == (0, out, "")


def test_several_commands_start_one_engine(box: Box) -> None:
    commands = [box.start("images", "-q") for _ in range(6)]
    results = [(process.communicate(timeout=60), process.returncode) for process in commands]
    assert [code for _, code in results] == [0] * 6, results
    assert sum("starting gantryd" in err for (_, err), _ in results) == 1
    daemons = {os.getsid(pid) for pid in box.processes("gantryd")}
    assert len(daemons) == 1


def test_the_engine_outlives_the_command_and_its_session(box: Box) -> None:
    process = box.start("version", "-f", "{{.Server.Os}}")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "linux\n"), err
    (session,) = {os.getsid(pid) for pid in box.processes("gantryd")}
    assert session != os.getsid(0)


def test_never_where_an_engine_was_named(box: Box) -> None:
    for words, host in (
        (["-H", "unix:///run/docker.sock", "ps"], ""),
        (["ps"], "unix:///var/run/docker.sock"),
    ):
        code, out, err = box.run(*words, host=host)
        assert (code, out) == (1, "")
        assert err.startswith("Cannot connect to the Docker daemon at unix:///")
    assert box.processes("gantryd") == []


def test_an_engine_that_cannot_start_is_one_line(box: Box) -> None:
    enter = ["nsenter", "-t", str(box.holder.pid), "--mount", "--"]
    spoil = "umount /var/lib/gantry; mount -t tmpfs -o ro none /var/lib/gantry"
    subprocess.run([*enter, "sh", "-ec", spoil], check=True)
    code, out, err = box.run("ps")
    assert (code, out) == (1, "")
    first, second = err.splitlines()
    assert first.startswith("gantry: no engine is running: starting gantryd")
    assert second.startswith("gantryd ended with status 1: ")
    assert "Traceback" not in err
