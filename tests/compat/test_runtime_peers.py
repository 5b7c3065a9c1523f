"""gantry-runc under Podman, dockerd and containerd; gantryd on the real runc and crun.

The same tests each way: what an engine asks of a runtime during a container's life.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import peers
from tests.support.peers import Ctr, Front
from tests.support.wait import eventually


def _need(*programs: str) -> None:
    missing = [name for name in programs if not peers.find(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module", params=["dockerd", "podman", "gantryd-runc", "gantryd-crun"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    kind = str(request.param)
    folder = tmp_path_factory.mktemp(kind)
    if kind == "dockerd":
        _need("dockerd", "containerd", "runc")
        with peers.dockerd_on_gantry() as front:
            yield front
    elif kind == "podman":
        _need("podman", "conmon")
        with peers.podman_on_gantry(folder) as front:
            yield front
    else:
        program = kind.removeprefix("gantryd-")
        _need(program)
        with peers.gantryd_on(program, folder) as front:
            yield front


@pytest.fixture
def front(shared: Front) -> Iterator[Front]:
    yield shared
    shared.clean()


def test_output_and_exit_status(front: Front) -> None:
    done = front.run("one", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err.splitlines()[-1]) == (7, "out\n", "err")


def test_what_cannot_be_executed(front: Front) -> None:
    missing, folder = front.run("none", "busybox", "/nonesuch"), front.run("dir", "busybox", "/etc")
    if front.name == "gantryd on crun":
        # Not the words that docker's client looks for; but the container knows.
        assert "/nonesuch" in missing.err
        assert front.call("inspect", "-f", "{{.State.ExitCode}}", "none").ok() == "127"
        return
    assert (missing.code, folder.code) == (127, 126)


def test_a_containers_life(front: Front) -> None:
    front.run("life", "-d", "busybox", "sh", "-c", "echo started; exec sleep 1000").ok()
    eventually(lambda: front.call("logs", "life").out == "started\n")
    assert front.call("exec", "life", "echo", "inside").ok() == "inside"
    assert front.call("exec", "life", "sh", "-c", "exit 9").code == 9
    if (
        front.name != "dockerd"
        or subprocess.run(["ps", "-ef"], capture_output=True).returncode == 0
    ):
        # dockerd has the machine's ps look, which knows no way on every kernel.
        assert "sleep 1000" in front.call("top", "life").ok()

    front.call("pause", "life").ok()
    assert front.call("inspect", "-f", "{{.State.Status}}", "life").ok() == "paused"
    front.call("unpause", "life").ok()
    assert front.call("inspect", "-f", "{{.State.Status}}", "life").ok() == "running"

    front.call("kill", "-s", "KILL", "life").ok()
    assert front.call("wait", "life").ok() == "137"
    front.call("rm", "life").ok()


def test_limits_and_their_change(front: Front) -> None:
    limits = ("--memory", "64m", "--memory-swap", "128m", "--pids-limit", "50")
    front.run("limited", "-d", *limits, "busybox", "sleep", "1000").ok()
    inside = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"

    def limit() -> int:
        return int(front.call("exec", "limited", "sh", "-c", inside).out)

    assert limit() == 64 << 20
    front.call("update", "--memory", "96m", "--memory-swap", "128m", "limited").ok()
    assert limit() == 96 << 20
    shown = front.call(
        "stats", "--no-stream", "--format", "{{.MemUsage}}|{{.PIDs}}", "limited"
    ).ok()
    assert shown.endswith("|1")
    assert "0B / 0B" not in shown


def test_a_terminal(front: Front) -> None:
    shown = front.run("tty", "-t", "--rm", "busybox", "sh", "-c", "tty; stty size")
    assert shown.ok().startswith("/dev/pts/0\r\n")


def test_who_and_where(front: Front) -> None:
    """User, groups, capabilities, host name, folder, variables: the engine's word is kept."""
    script = "id -u; id -g; pwd; hostname; echo $X; grep CapEff /proc/self/status | cut -f2"
    flags = ("-u", "1000:1000", "-w", "/tmp", "-h", "box", "-e", "X=y", "--cap-drop", "ALL")
    done = front.run("who", "--rm", *flags, "busybox", "sh", "-c", script)
    assert done.ok().split() == ["1000", "1000", "/tmp", "box", "y", "0" * 16]


def test_read_only_and_a_mount(front: Front, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here\n")
    flags = ("--read-only", "--tmpfs", "/scratch", "-v", f"{tmp_path}:/data:ro")
    script = "cat /data/file; echo x > /scratch/x && echo y; touch /data/no || touch /no || echo z"
    done = front.run("ro", "--rm", *flags, "busybox", "sh", "-c", script)
    assert done.ok() == "here\ny\nz"


@pytest.fixture(scope="module")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    _need("containerd", "ctr", "containerd-shim-runc-v2")
    with peers.containerd(tmp_path_factory.mktemp("containerd")) as made:
        yield made


def test_containerd_output_and_exit_status(ctr: Ctr) -> None:
    done = ctr.run("one", "sh", "-c", "echo out; exit 7", flags=("--rm",))
    assert (done.code, done.out) == (7, "out\n")


def test_containerd_life(ctr: Ctr) -> None:
    ctr.run("life", "sleep", "1000", flags=("-d", "--memory-limit", str(64 << 20))).ok()
    assert ctr.tasks()["life"] == "RUNNING"
    assert ctr("task", "exec", "--exec-id", "e", "life", "echo", "inside").ok() == "inside"
    ctr("task", "pause", "life").ok()
    assert ctr.tasks()["life"] == "PAUSED"
    ctr("task", "resume", "life").ok()
    assert str(64 << 20) in ctr("task", "metrics", "--format", "json", "life").ok()
    assert len(ctr("task", "ps", "life").ok().splitlines()) == 2
    ctr("task", "kill", "-s", "KILL", "life").ok()
    eventually(lambda: ctr.tasks()["life"] == "STOPPED")
    ctr("task", "rm", "life")
    ctr("container", "rm", "life").ok()


def test_containerd_says_why(ctr: Ctr) -> None:
    done = ctr.run("none", "nonesuch", flags=("--rm",))
    assert done.code != 0
    assert 'exec: "nonesuch": executable file not found in $PATH' in done.err
