"""What containerd is told and what its answers mean, without a containerd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gantry.cgroups.runc_stats import runc_stats
from gantry.cgroups.stats import BlockEntry
from gantry.ipc.protobuf import Fields, Value, encode
from gantry.model.errors import InvalidParameter, NotImplementedHere
from gantry.model.mount import Mount
from gantry.model.task import LogSpec, StdioSpec, TaskSpec
from gantry.tasks.containerd import metrics
from gantry.tasks.containerd.api import Any
from gantry.tasks.containerd.driver import adapted
from gantry.tasks.containerd.runtimes import Runtimes, own_program


def task() -> TaskSpec:
    config = {
        "root": {"path": "/elsewhere", "readonly": True},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}]},
    }
    return TaskSpec(
        "c1",
        json.dumps(config).encode(),
        (Mount("bind", "/x"),),
        StdioSpec(),
        LogSpec("none", ""),
        runtime="/usr/bin/runc",
    )


def options(made: Any | None, type_url: str = "containerd.runc.v1.Options") -> Fields:
    assert made is not None
    assert made.type_url == type_url
    return Fields(made.value)


class TestRuntimes:
    def test_a_program(self, tmp_path: Path) -> None:
        name, made = Runtimes("/run/g/runc", str(tmp_path)).of(task()._replace(systemd_cgroup=True))
        assert name == "io.containerd.runc.v2"
        found = options(made)
        assert (found.text(6), found.text(7), found.number(9)) == (
            "/usr/bin/runc",
            "/run/g/runc",
            1,
        )

    def test_our_own(self, tmp_path: Path) -> None:
        name, made = Runtimes("/r", str(tmp_path)).of(task()._replace(runtime="gantry"))
        assert name == "io.containerd.runc.v2"
        assert options(made).text(6) == own_program()

    def test_arguments_take_a_script(self, tmp_path: Path) -> None:
        tool = tmp_path / "tool"
        tool.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        tool.chmod(0o755)
        runtimes = Runtimes("/r", str(tmp_path / "scripts"))
        spec = task()._replace(runtime=str(tool), runtime_args=("--log", "a b"))
        script = options(runtimes.of(spec)[1]).text(6)
        assert script == options(runtimes.of(spec)[1]).text(6)
        done = subprocess.run([script, "run", "x y"], capture_output=True, text=True, check=True)
        assert done.stdout == "--log\na b\nrun\nx y\n"

    def test_one_of_containerd_s(self) -> None:
        runtimes = Runtimes("/r", "/s")
        kata = task()._replace(runtime="", runtime_type="io.containerd.kata.v2")
        assert runtimes.of(kata) == ("io.containerd.kata.v2", None)
        name, made = runtimes.of(kata._replace(runtime_options={"ConfigPath": "/etc/kata.toml"}))
        assert name == "io.containerd.kata.v2"
        assert options(made, "runtimeoptions.v1.Options").text(2) == "/etc/kata.toml"

    def test_options_of_the_runc_shim(self) -> None:
        spec = task()._replace(
            runtime="",
            runtime_type="io.containerd.runc.v2",
            runtime_options={"BinaryName": "crun", "SystemdCgroup": True, "Root": "/own"},
        )
        found = options(Runtimes("/r", "/s").of(spec)[1])
        assert (found.text(6), found.text(7), found.number(9)) == ("crun", "/own", 1)

    def test_options_that_are_none(self) -> None:
        spec = task()._replace(
            runtime="", runtime_type="io.containerd.runc.v2", runtime_options={"Odd": True}
        )
        with pytest.raises(InvalidParameter, match="invalid runtime option Odd: True"):
            Runtimes("/r", "/s").of(spec)


def test_the_configuration_is_adapted() -> None:
    config = json.loads(adapted(task(), "/proc/1/fd/9"))
    assert config["root"] == {"path": "rootfs", "readonly": True}
    assert config["linux"]["namespaces"] == [
        {"type": "pid"},
        {"type": "network", "path": "/proc/1/fd/9"},
    ]
    untouched = task()._replace(rootfs=())
    assert json.loads(adapted(untouched, None)) == json.loads(untouched.spec)


def message(*fields: tuple[int, Value]) -> bytes:
    return encode(fields)


class TestMetrics:
    def test_cgroup_v1(self) -> None:
        entry = message((1, "Read"), (3, 8), (4, 16), (5, 4096))
        data = message(
            (1, [message((1, 1), (2, 2), (3, 3), (4, "2MB"))]),
            (2, message((1, 5), (2, 100))),
            (3, message((1, message((1, 900), (2, 300), (3, 600), (4, b"\x07\x08"))))),
            (4, message((1, 11), (7, 77), (33, message((1, 64), (2, 32), (3, 48), (4, 1))))),
            (5, message((1, [entry]))),
        )
        stats = metrics.parse(Any("io.containerd.cgroups.v1.Metrics", data))
        assert (stats.pids, stats.pids_limit) == (5, 100)
        assert (stats.cpu.total, stats.cpu.kernel, stats.cpu.user) == (900, 300, 600)
        assert stats.cpu.per_cpu == (7, 8)
        memory = stats.memory
        assert (memory.limit, memory.usage, memory.peak, memory.failures) == (64, 32, 48, 1)
        assert (memory.raw["cache"], memory.raw["pgpgin"]) == (11, 77)
        assert "total_unevictable" in memory.raw
        assert stats.block.service_bytes == (BlockEntry(major=8, minor=16, op="Read", value=4096),)
        assert stats.hugetlb["2MB"].peak == 2
        assert msgspec.json.encode(runc_stats(stats))

    def test_cgroup_v2(self) -> None:
        data = message(
            (1, message((1, 3), (2, 2**64 - 1))),
            (2, message((1, 10), (2, 6), (3, 4))),
            (4, message((1, 1), (13, 13), (32, 500), (33, 2**64 - 1), (34, 20))),
            (6, message((1, [message((1, 8), (3, 100), (4, 200), (5, 1), (6, 2))]))),
            (8, message((3, 4), (5, 2))),
        )
        stats = metrics.parse(Any("io.containerd.cgroups.v2.Metrics", data))
        assert (stats.pids, stats.pids_limit) == (3, 0)
        assert (stats.cpu.total, stats.cpu.user, stats.cpu.kernel) == (10_000, 6_000, 4_000)
        memory = stats.memory
        assert (memory.usage, memory.swap_usage, memory.limit) == (500, 520, 2**64 - 1)
        assert (memory.raw["anon"], memory.raw["inactive_file"]) == (1, 13)
        assert (memory.failures, memory.oom_kills) == (4, 2)
        assert [entry.value for entry in stats.block.service_bytes] == [100, 200]
        assert [entry.op for entry in stats.block.serviced] == ["read", "write"]

    def test_another_kind(self) -> None:
        with pytest.raises(NotImplementedHere, match=r"vm\.Metrics"):
            metrics.parse(Any("io.example.vm.Metrics", b""))


def test_nothing_of_it_is_loaded_by_an_engine_without_it() -> None:
    program = (
        "import sys, gantry.daemon.engine, gantry.tasks.driver;"
        "print([name for name in sys.modules"
        " if name.split('.')[0] in ('grpclib', 'h2') or 'containerd' in name])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "[]\n", done.stderr
