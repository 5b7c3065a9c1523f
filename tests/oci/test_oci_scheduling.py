"""Where and when a container's processes run: CPUs, memory nodes, policies."""

from __future__ import annotations

import os
import subprocess

import pytest
from tests.oci.bundles import Bundle, Runtime

CPUS = sorted(os.sched_getaffinity(0))
ALLOWED = "grep Cpus_allowed_list: /proc/self/status | cut -f2"


def listed(cpus: list[int]) -> str:
    """CPUs in a row as the kernel lists them."""
    return str(cpus[0]) if len(cpus) == 1 else f"{cpus[0]}-{cpus[-1]}"


def newer_than_debian_s(runtime: Runtime) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 has none of this")


def on_one_cpu(runtime: Runtime, *words: str) -> str:
    """The runtime as a caller that is itself held to the first CPU; stdout."""
    done = subprocess.run(
        ["taskset", "-c", str(CPUS[0]), *runtime.command, "--root", str(runtime.root), *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(len(CPUS) < 2 or list(range(len(CPUS))) != CPUS, reason="needs two CPUs")
def test_the_caller_s_cpus_are_not_the_container_s(runtime: Runtime, bundle: Bundle) -> None:
    newer_than_debian_s(runtime)
    every = listed(CPUS)
    assert on_one_cpu(
        runtime, "run", "-b", str(bundle.sh(ALLOWED).write()), runtime.new_id()
    ) == every  # fmt: skip
    name = runtime.detached(bundle.args("sleep", "1000"))
    assert on_one_cpu(runtime, "exec", name, "sh", "-c", ALLOWED) == every


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_affinity_of_an_exec(runtime: Runtime, bundle: Bundle) -> None:
    newer_than_debian_s(runtime)
    first, last = str(CPUS[0]), str(CPUS[-1])
    bundle.part("process")["execCPUAffinity"] = {"initial": first, "final": last}
    name = runtime.detached(bundle.args("sleep", "1000"))
    result = runtime("--debug", "exec", name, "sh", "-c", ALLOWED)
    assert result.code == 0, result.err
    assert result.out.strip() == last
    assert f"affinity: {1 << CPUS[0]:#x}" in result.err


@pytest.mark.parametrize(
    ("affinity", "text"),
    [({"initial": "x"}, "Initial"), ({"initial": "0", "final": "3-1"}, "Final")],
)
def test_an_affinity_that_is_none(
    runtime: Runtime, bundle: Bundle, affinity: dict[str, str], text: str
) -> None:
    newer_than_debian_s(runtime)
    bundle.part("process")["execCPUAffinity"] = affinity
    result = runtime.run(bundle)
    assert result.code == 1
    assert text in result.err


def test_memory_policy(runtime: Runtime, bundle: Bundle) -> None:
    newer_than_debian_s(runtime)
    if not os.path.exists("/proc/self/numa_maps"):
        pytest.skip("this kernel has no NUMA")
    bundle.part("linux")["memoryPolicy"] = {
        "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"],
    }  # fmt: skip
    show = "head -n 1 /proc/self/numa_maps | cut -d ' ' -f 2"
    assert runtime.ok(bundle.sh(show)).strip() == "bind=static:0"
    name = runtime.detached(bundle.args("sleep", "1000"))
    assert runtime("exec", name, "sh", "-c", show).out.strip() == "bind=static:0"


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ({}, "memory policy mode"),
        ({"mode": "BIND", "nodes": "0"}, "memory policy mode"),
        ({"mode": "MPOL_BIND"}, "at least one node"),
        ({"mode": "MPOL_DEFAULT", "nodes": "0-3"}, "requires 0 nodes but got 4"),
        ({"mode": "MPOL_BIND", "nodes": "0-99999999"}, "memory policy node"),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["x"]}, "memory policy flag"),
    ],
)
def test_a_memory_policy_that_makes_no_sense(
    runtime: Runtime, bundle: Bundle, policy: dict[str, object], text: str
) -> None:
    newer_than_debian_s(runtime)
    bundle.part("linux")["memoryPolicy"] = policy
    result = runtime.run(bundle)
    assert result.code == 1
    assert text in result.err


@pytest.mark.parametrize(
    ("scheduler", "text"),
    [
        ({"policy": "SCHED_NONE"}, "scheduler policy"),
        ({"policy": "SCHED_OTHER", "nice": 30}, "nice"),
        ({"policy": "SCHED_OTHER", "priority": 3}, "priority"),
        ({"policy": "SCHED_BATCH", "runtime": 3}, "runtime"),
        ({"policy": "SCHED_OTHER", "flags": ["x"]}, "flag"),
    ],
)
def test_a_scheduler_that_makes_no_sense(
    runtime: Runtime, bundle: Bundle, scheduler: dict[str, object], text: str
) -> None:
    newer_than_debian_s(runtime)
    bundle.part("process")["scheduler"] = scheduler
    result = runtime.run(bundle)
    assert result.code == 1
    assert text in result.err


@pytest.mark.parametrize("priority", [{"class": "IOPRIO_CLASS_X"}, {"priority": 8}])
def test_an_io_priority_that_makes_no_sense(
    runtime: Runtime, bundle: Bundle, priority: dict[str, object]
) -> None:
    newer_than_debian_s(runtime)
    bundle.part("process")["ioPriority"] = priority
    result = runtime.run(bundle)
    assert result.code == 1
    assert "ioPriority" in result.err
