"""gantryd with a real containerd below: the docker command sees no difference.

First tests of other files, on such an engine; then what only it has.
"""

# ruff: noqa: F401

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compat.test_cli_lifecycle import (
    TestAttach,
    TestExec,
    TestKill,
    TestPause,
    TestRemove,
    TestStart,
    TestStop,
    TestTop,
)
from tests.compat.test_cli_logs import (
    test_driver_local,
    test_driver_none,
    test_follow_shows_lines_as_they_come,
    test_rotation,
)
from tests.compat.test_cli_resources import (
    test_cgroup_is_gone_at_the_end,
    test_memory,
    test_out_of_memory,
    test_stats,
    test_update,
)
from tests.compat.test_cli_run import (
    test_exit_code_126_when_not_executable,
    test_exit_code_127_when_not_found,
    test_exit_code_137_when_killed,
    test_exit_code_is_the_process_s,
    test_foreground_output_and_streams,
    test_large_output_is_whole_and_in_order,
    test_rm_removes_at_the_end,
    test_stdin,
)
from tests.compat.test_cli_terminal import (
    test_detach_and_attach_again,
    test_exec_terminal,
    test_interactive_shell,
    test_size_at_start_and_resize,
)
from tests.integration.engine.test_engine_leaks import cycles, resting, settled
from tests.support.cli import Cli
from tests.support.parts import kill, parent
from tests.support.peers import GANTRY_RUNC, find
from tests.support.supervised import SupervisedEngine
from tests.support.wait import eventually

pytestmark = pytest.mark.skipif(not find("containerd"), reason="needs containerd")

CYCLES = 50
TALKING = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[SupervisedEngine]:
    with SupervisedEngine() as engine:
        engine.add_image()
        yield engine


@pytest.fixture
def each_cli(cli: Cli) -> Cli:
    """One docker client is enough here."""
    return cli


@pytest.fixture
def supervised(engine: SupervisedEngine) -> SupervisedEngine:
    """The engine, by its own type."""
    return engine


def keeper(engine: SupervisedEngine, name: str) -> int:
    """The pid of the process that has a container's streams."""
    folder = f"{engine.exec_root}/containerd/{name}"
    for pid in engine.processes():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "gantry-keeper":
            links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            if any(link.startswith(f"{folder}/") for link in links):
                return pid
    raise AssertionError(f"{name} has no keeper")


def lines(cli: Cli, name: str) -> list[int]:
    """The numbers that a talking container has said."""
    return [int(line.split()[1]) for line in cli("logs", name).ok().splitlines()]


def test_info_names_it(supervised: SupervisedEngine, cli: Cli) -> None:
    name = cli("run", "-d", "busybox", "sleep", "600").ok()
    with supervised.api() as api:
        info = api.get("/info").obj()
        assert info["Containerd"] == {
            "Address": supervised.address,
            "Namespaces": {"Containers": "moby", "Plugins": "plugins.moby"},
        }
        components = api.get("/version").obj()["Components"]
        assert "Containerd" not in api.get("/v1.45/info").obj()
    assert isinstance(components, list)
    versions = {
        str(part["Name"]): str(part["Version"]) for part in components if isinstance(part, dict)
    }
    assert versions["containerd"] in supervised.ctr("version").ok()
    assert f"{name} " in supervised.ctr("task", "ls").ok()
    cli("rm", "-f", name).ok()
    assert name not in supervised.ctr("container", "ls").ok()


class TestRestartOfGantryd:
    def test_containers_go_on_and_so_do_their_logs(
        self, supervised: SupervisedEngine, cli: Cli
    ) -> None:
        name = cli("run", "-d", "busybox", "sh", "-c", TALKING).ok()
        quiet = cli("run", "-d", "-i", "busybox", "cat").ok()
        eventually(lambda: len(lines(cli, name)) > 2)
        before = cli.field(name, "{{.State.Pid}} {{.State.StartedAt}}")
        supervised.kill()
        path = Path(f"{supervised.data_root}/containers/{name}/{name}-json.log")
        size = path.stat().st_size
        eventually(lambda: path.stat().st_size > size + 500, "a log that grows")
        supervised.start()
        assert cli.field(name, "{{.State.Pid}} {{.State.StartedAt}}") == before
        numbers = lines(cli, name)
        assert numbers == list(range(1, len(numbers) + 1))
        assert cli("exec", name, "echo", "still").ok() == "still"
        assert cli("exec", "-i", quiet, "cat", stdin=b"in").ok() == "in"
        cli("kill", name).ok()
        assert cli("wait", name).ok() == "137"

    def test_ends_meanwhile_are_known(self, supervised: SupervisedEngine, cli: Cli) -> None:
        name = cli("run", "-d", "busybox", "sh", "-c", "sleep 0.5; echo last; exit 7").ok()
        process = f"/proc/{cli.field(name, '{{.State.Pid}}')}"
        supervised.kill()
        pid = keeper(supervised, name)
        eventually(lambda: not Path(process).exists(), "an end that nobody sees")
        supervised.start()
        assert cli.field(name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 7"
        assert cli("logs", name).ok() == "last"
        eventually(lambda: not Path(f"/proc/{pid}").exists(), "the keeper's end")

    def test_a_clean_stop_ends_them(self, supervised: SupervisedEngine, cli: Cli) -> None:
        name = cli("run", "-d", "--stop-signal", "KILL", "busybox", "sleep", "600").ok()
        supervised.restart()
        assert cli.field(name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 137"
        assert supervised.ctr("container", "ls", "-q").out == ""


class TestWhoDies:
    def test_containerd(self, supervised: SupervisedEngine, cli: Cli) -> None:
        name = cli("run", "-d", "busybox", "sh", "-c", TALKING).ok()
        ending = cli("run", "-d", "busybox", "sh", "-c", "trap 'exit 9' TERM; sleep 600 & wait")
        other = ending.ok()
        pid = int(cli.field(other, "{{.State.Pid}}"))
        eventually(lambda: len(lines(cli, name)) > 2)
        supervised.stop_containerd(signal.SIGKILL)
        count = len(lines(cli, name))
        assert cli("run", "busybox", "true").code == 125
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: len(lines(cli, name)) > count, "output without containerd")
        supervised.start_containerd()
        assert cli("wait", other).ok() in ("9", "137")  # 2.x forgets who ended meanwhile
        assert cli("exec", name, "echo", "still").ok() == "still"
        cli("rm", "-f", name).ok()
        assert cli("run", "--rm", "busybox", "echo", "again").ok() == "again"

    def test_a_keeper(self, supervised: SupervisedEngine, cli: Cli) -> None:
        name = cli("run", "-d", "busybox", "sh", "-c", TALKING).ok()
        eventually(lambda: len(lines(cli, name)) > 2)
        first = keeper(supervised, name)
        kill(first)
        count = len(lines(cli, name))
        eventually(lambda: len(lines(cli, name)) > count + 2, "output to another keeper")
        assert keeper(supervised, name) != first
        assert cli("exec", name, "echo", "still").ok() == "still"
        cli("stop", "-t", "0", name).ok()
        assert cli("wait", name).ok() == "137"

    def test_a_keeper_and_gantryd(self, supervised: SupervisedEngine, cli: Cli) -> None:
        name = cli("run", "-d", "busybox", "sh", "-c", TALKING).ok()
        eventually(lambda: len(lines(cli, name)) > 2)
        supervised.kill()
        kill(keeper(supervised, name))
        supervised.start()
        count = len(lines(cli, name))
        eventually(lambda: len(lines(cli, name)) > count + 2, "output to another keeper")
        cli("rm", "-f", name).ok()

    def test_a_shim(self, supervised: SupervisedEngine, cli: Cli) -> None:
        name = cli("run", "-d", "busybox", "sleep", "600").ok()
        kill(parent(int(cli.field(name, "{{.State.Pid}}"))))
        assert cli("wait", name).ok() == "137"
        cli("start", name).ok()
        assert cli.field(name, "{{.State.Status}}") == "running"

    def test_a_shim_and_gantryd(self, supervised: SupervisedEngine, cli: Cli) -> None:
        name = cli("run", "-d", "busybox", "sleep", "600").ok()
        pid = int(cli.field(name, "{{.State.Pid}}"))
        supervised.kill()
        kill(parent(pid))
        eventually(lambda: not Path(f"/proc/{pid}").exists(), "the container's end")
        supervised.start()
        assert cli.field(name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 137"


class TestRuntimes:
    def test_our_own_program(self, cli: Cli) -> None:
        assert cli("run", "--rm", "--runtime", "gantry", "busybox", "echo", "hi").ok() == "hi"

    def test_a_runtime_that_is_none(self, cli: Cli) -> None:
        done = cli("run", "--rm", "--runtime", "io.containerd.nosuch.v1", "busybox", "true")
        done.failed(125, "containerd-shim-nosuch-v1")
        cli("run", "--runtime", "nosuch", "busybox").failed(
            125, "unknown or invalid runtime name: nosuch"
        )

    def test_of_daemon_json(self, tmp_path: Path) -> None:
        config = tmp_path / "daemon.json"
        runtimes = {
            "typed": {
                "runtimeType": "io.containerd.runc.v2",
                "options": {"BinaryName": GANTRY_RUNC},
            },
            "plain": {"runtimeType": "io.containerd.runc.v2"},
            "talkative": {"path": find("runc"), "runtimeArgs": ["--debug"]},
        }
        config.write_text(json.dumps({"runtimes": runtimes}))
        with SupervisedEngine(("--config-file", str(config))) as engine:
            engine.add_image()
            cli = engine.cli()
            for name in runtimes:
                done = cli("run", "--rm", "--runtime", name, "busybox", "echo", name)
                assert done.ok() == name


def test_nothing_is_left(supervised: SupervisedEngine) -> None:
    ids: set[str] = set()
    cycles(supervised, 8, ids)  # what is made once, lazily, is made now
    before = resting(supervised)
    cycles(supervised, CYCLES, ids)
    settled(supervised, before, ids)
    assert supervised.ctr("container", "ls", "-q").out == ""
    assert supervised.ctr("task", "ls", "-q").out == ""
