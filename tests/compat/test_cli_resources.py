"""Limits as the kernel has them, on cgroup v1 and v2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.cli import Cli
from tests.support.wait import eventually

V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def folder(cli: Cli, name: str, controller: str) -> Path:
    """Return a container's folder in a controller's hierarchy."""
    pid = cli.field(name, "{{.State.Pid}}")
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if V2 and not controllers:
            return Path("/sys/fs/cgroup") / path.lstrip("/")
        if not V2 and controller in controllers.split(","):
            return Path("/sys/fs/cgroup") / controller / path.lstrip("/")
    pytest.skip(f"no cgroup controller {controller}")


def setting(cli: Cli, name: str, controller: str, v1: str, v2: str) -> str:
    """Return the content of a container's cgroup file."""
    return (folder(cli, name, controller) / (v2 if V2 else v1)).read_text().strip()


def running(cli: Cli, *words: str) -> str:
    return cli("run", "-d", *words, "busybox", "sleep", "600").ok()


def test_memory(each_cli: Cli) -> None:
    created = running(each_cli, "-m", "64m")
    got = setting(each_cli, created, "memory", "memory.limit_in_bytes", "memory.max")
    assert int(got) == 64 << 20
    assert each_cli.field(created, "{{.HostConfig.Memory}}") == str(64 << 20)


def test_memory_and_swap(cli: Cli) -> None:
    created = running(cli, "-m", "64m", "--memory-reservation", "32m")
    name = ("memory.soft_limit_in_bytes", "memory.low")
    assert int(setting(cli, created, "memory", *name)) == 32 << 20
    cli("create", "-m", "64m", "--memory-swap", "32m", "busybox").failed(
        1, "Minimum memoryswap limit should be larger than memory limit"
    )


def test_out_of_memory(cli: Cli) -> None:
    words = ("-m", "16m", "--memory-swap", "16m")
    program = "head -c 100000000 /dev/zero | tail"
    created = cli("run", "-d", *words, "busybox", "sh", "-c", f"{program}; exit $?").ok()
    assert cli("wait", created).ok() in ("137", "1", "143")
    # OOMKilled follows the exit by an event.
    eventually(lambda: cli.field(created, "{{.State.OOMKilled}}") == "true")


def test_cpus(each_cli: Cli) -> None:
    created = running(each_cli, "--cpus", "0.5")
    if V2:
        assert (folder(each_cli, created, "cpu") / "cpu.max").read_text().split() == [
            "50000",
            "100000",
        ]
    else:
        where = folder(each_cli, created, "cpu")
        quota = int((where / "cpu.cfs_quota_us").read_text())
        period = int((where / "cpu.cfs_period_us").read_text())
        assert quota / period == 0.5
    assert each_cli.field(created, "{{.HostConfig.NanoCpus}}") == "500000000"


def test_too_many_cpus(cli: Cli) -> None:
    done = cli("create", "--cpus", "9999", "busybox")
    done.failed(1, r"Range of CPUs is from 0\.01 to")


def test_cpu_shares(cli: Cli) -> None:
    created = running(cli, "--cpu-shares", "512")
    got = int(setting(cli, created, "cpu", "cpu.shares", "cpu.weight"))
    assert got == 512 if not V2 else 15 <= got <= 60


def test_cpuset(cli: Cli) -> None:
    if V2 and "cpuset" not in Path("/sys/fs/cgroup/cgroup.controllers").read_text():
        pytest.skip("this kernel has no cpuset controller")
    created = running(cli, "--cpuset-cpus", "0")
    assert setting(cli, created, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    last = os.cpu_count() or 1
    cli("create", "--cpuset-cpus", str(last + 50), "busybox").failed(
        1, "Requested CPUs are not available"
    )


def test_pids(each_cli: Cli) -> None:
    created = running(each_cli, "--pids-limit", "20")
    assert setting(each_cli, created, "pids", "pids.max", "pids.max") == "20"
    program = "for i in $(seq 40); do sleep 60 & done"
    done = each_cli("exec", created, "sh", "-c", program)
    assert "can't fork" in done.err


def test_limits_are_unlimited_by_default(cli: Cli) -> None:
    created = running(cli)
    assert setting(cli, created, "pids", "pids.max", "pids.max") == "max"


def test_update(cli: Cli) -> None:
    created = running(cli, "-m", "64m")
    cli("update", "-m", "32m", "--memory-swap", "64m", created).ok()
    got = setting(cli, created, "memory", "memory.limit_in_bytes", "memory.max")
    assert int(got) == 32 << 20


def test_cgroup_is_gone_at_the_end(cli: Cli) -> None:
    created = running(cli)
    where = folder(cli, created, "memory")
    assert where.is_dir()
    cli("kill", created).ok()
    eventually(lambda: not where.exists())


def test_stats(each_cli: Cli) -> None:
    created = running(each_cli, "-m", "64m")
    words = ("--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}")
    pids, *memory = each_cli("stats", *words, created).ok().split()
    assert pids == "1"
    assert memory[-1] == "64MiB"
