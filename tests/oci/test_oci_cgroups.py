"""Limits and what is counted, on whichever cgroup version the machine has."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime, wait_for

TOP = Path("/sys/fs/cgroup")
PURE = (TOP / "cgroup.controllers").exists()
only_v1 = pytest.mark.skipif(PURE, reason="cgroup v1 only")
only_v2 = pytest.mark.skipif(not PURE, reason="cgroup v2 only")


def place(runtime: Runtime, name: str, controller: str) -> Path:
    """The folder of a container in a controller's hierarchy, from its process's own view."""
    for line in Path(f"/proc/{runtime.pid(name)}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if PURE and not controllers:
            return TOP / path.lstrip("/")
        if controller in controllers.split(","):
            return TOP / controller / path.lstrip("/")
    raise AssertionError(f"not in {controller}")


def read(runtime: Runtime, name: str, v1: str, v2: str) -> str:
    """A limit's file: v1 name ("memory.limit_in_bytes"), v2 name."""
    if not PURE:
        return (place(runtime, name, v1.partition(".")[0]) / v1).read_text().strip()
    return (place(runtime, name, "") / v2).read_text().strip()


def limited(bundle: Bundle, **resources: object) -> Bundle:
    bundle.part("linux", "resources").update(resources)
    return bundle.args("sleep", "1000")


def test_the_path_is_the_spec_s(runtime: Runtime, bundle: Bundle) -> None:
    path = f"/gantry-test-{uuid.uuid4().hex[:8]}"
    bundle.part("linux")["cgroupsPath"] = f"{path}/deep"
    name = runtime.detached(bundle.args("sleep", "1000"))
    try:
        assert str(place(runtime, name, "memory")).endswith(f"{path}/deep")
    finally:
        runtime("delete", "-f", name)
        for folder in [TOP / path[1:], *(top / path[1:] for top in TOP.iterdir())]:
            if folder.is_dir():
                folder.rmdir()


def test_memory(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(limited(bundle, memory={"limit": 64 << 20, "reservation": 32 << 20}))
    assert read(runtime, name, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert read(runtime, name, "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)


def test_memory_limit_kills(runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, memory={"limit": 16 << 20, "swap": 16 << 20})
    # tail keeps all of one endless line.
    bundle.sh("sh -c 'exec tail /dev/zero' > /dev/null; echo $?")
    assert runtime.ok(bundle).strip() == "137"


def test_a_small_memory_limit(runtime: Runtime, bundle: Bundle) -> None:
    """crun's claim is 512 KiB; runc needs more than 4 MiB."""
    if runtime.name == "runc":
        pytest.skip("runc cannot")
    limit = 512 << 10 if not PURE else 4 << 20
    limited(bundle, memory={"limit": limit})
    assert runtime.ok(bundle.args("echo", "ran")) == "ran\n"


def test_pids(runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, pids={"limit": 4})
    result = runtime.run(bundle.sh("for i in 1 2 3 4 5 6; do sleep 0.2 & done; wait"))
    assert "can't fork" in result.err
    name = runtime.detached(bundle.args("sleep", "1000"))
    assert read(runtime, name, "pids.max", "pids.max") == "4"


def test_cpu(runtime: Runtime, bundle: Bundle) -> None:
    cpu = {"shares": 512, "quota": 50000, "period": 100000}
    name = runtime.detached(limited(bundle, cpu=cpu))
    if PURE:
        assert (place(runtime, name, "") / "cpu.max").read_text().strip() == "50000 100000"
        weight = int((place(runtime, name, "") / "cpu.weight").read_text())
        assert weight in (20, 59)  # the formula of runc before 1.4 and since
    else:
        folder = place(runtime, name, "cpu")
        assert (folder / "cpu.shares").read_text().strip() == "512"
        assert (folder / "cpu.cfs_quota_us").read_text().strip() == "50000"


@only_v1
def test_cpuset(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(limited(bundle, cpu={"cpus": "0"}))
    assert (place(runtime, name, "cpuset") / "cpuset.cpus").read_text().strip() == "0"
    status = Path(f"/proc/{runtime.pid(name)}/status").read_text()
    assert "Cpus_allowed_list:\t0\n" in status


@only_v2
def test_unified(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(limited(bundle, unified={"memory.high": "33554432", "pids.max": "99"}))
    folder = place(runtime, name, "")
    assert (folder / "memory.high").read_text().strip() == "33554432"
    assert (folder / "pids.max").read_text().strip() == "99"


@only_v2
def test_swap_is_what_is_beyond_memory(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(limited(bundle, memory={"limit": 32 << 20, "swap": 48 << 20}))
    path = place(runtime, name, "") / "memory.swap.max"
    if path.exists():
        assert path.read_text().strip() == str(16 << 20)


def test_update_by_flags(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(limited(bundle, memory={"limit": 64 << 20, "swap": 64 << 20}))
    result = runtime(
        "update", "--memory", "96m", "--memory-swap", "128m", "--pids-limit", "20",
        "--cpu-quota", "70000", "--cpu-period", "100000", name,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert read(runtime, name, "memory.limit_in_bytes", "memory.max") == str(96 << 20)
    assert read(runtime, name, "pids.max", "pids.max") == "20"
    if not PURE:
        assert read(runtime, name, "memory.memsw.limit_in_bytes", "") == str(128 << 20)
        assert read(runtime, name, "cpu.cfs_quota_us", "") == "70000"
    else:
        assert read(runtime, name, "", "cpu.max") == "70000 100000"


def test_update_from_a_file_and_stdin(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    name = runtime.detached(limited(bundle, pids={"limit": 50}))
    (tmp_path / "r.json").write_text(json.dumps({"pids": {"limit": 30}}))
    assert runtime("update", "-r", str(tmp_path / "r.json"), name).code == 0
    if runtime.name != "runc":  # 1.1 does not take pids from a file
        assert read(runtime, name, "pids.max", "pids.max") == "30"
    text = json.dumps({"memory": {"limit": 80 << 20}})
    assert runtime("update", "-r", "-", name, stdin=text).code == 0
    assert read(runtime, name, "memory.limit_in_bytes", "memory.max") == str(80 << 20)


def test_update_below_what_is_used(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(limited(bundle, memory={"limit": 64 << 20}))
    text = json.dumps({"memory": {"limit": 4096, "checkBeforeUpdate": True}})
    result = runtime("update", "-r", "-", name, stdin=text)
    if runtime.name == "runc":
        pytest.skip("runc 1.1 has no checkBeforeUpdate")
    assert result.code == 1
    assert runtime.state(name)["status"] == "running"


def test_bad_update_values(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(limited(bundle))
    assert runtime("update", "--memory", "lots", name).code == 1
    assert runtime("update", "-r", "-", name, stdin="{").code == 1
    assert runtime("update", "-r", "-", name, stdin='{"memory": 5}').code == 1


def test_events_stats(runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, memory={"limit": 64 << 20}, pids={"limit": 9}).sh("> /up; exec sleep 1000")
    name = runtime.detached(bundle)
    # Before that runc's own threads are counted.
    wait_for((bundle.rootfs / "up").exists)
    result = runtime("events", "--stats", name)
    assert result.code == 0, result.err
    event = json.loads(result.out)
    assert event["type"] == "stats"
    assert event["id"] == name
    data = event["data"]
    assert data["memory"]["usage"]["limit"] == 64 << 20
    assert 0 < data["memory"]["usage"]["usage"] < 64 << 20
    assert data["pids"] == {"current": 1, "limit": 9}
    assert data["cpu"]["usage"]["total"] > 0


def test_events_go_on_until_the_end(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(bundle.args("sleep", "1000"))
    process = runtime.popen("events", "--interval", "100ms", name)
    assert process.stdout is not None
    for _ in range(2):
        assert json.loads(process.stdout.readline())["type"] == "stats"
    runtime("kill", name, "KILL")
    wait_for(lambda: runtime.state(name)["status"] == "stopped")
    runtime("delete", name)
    assert process.wait(10) in (0, 1)


def test_a_limit_that_cannot_be(runtime: Runtime, bundle: Bundle) -> None:
    limited(bundle, cpu={"quota": 1})
    result = runtime.run(bundle)
    assert result.code == 1
    assert "cgroup" in result.err
    assert not [p for p in runtime.root.iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize("limit", [1, 64 << 10])
def test_a_memory_limit_that_is_too_low(runtime: Runtime, bundle: Bundle, limit: int) -> None:
    """Init is killed for it; whoever made it lives, says so, and leaves nothing."""
    result = runtime.run(limited(bundle, memory={"limit": limit}))
    assert result.code == 1, result.text
    assert "memory limit" in result.err
    assert not [p for p in runtime.root.iterdir() if not p.name.startswith(".")]


@only_v1
@pytest.mark.parametrize(("shares", "text"), [(1, "minimum"), (262145, "maximum")])
def test_shares_that_cannot_be(runtime: Runtime, bundle: Bundle, shares: int, text: str) -> None:
    result = runtime.run(limited(bundle, cpu={"shares": shares}))
    assert result.code == 1
    assert f"the {text} allowed cpu-shares is" in result.err


@only_v1
def test_the_unified_hierarchy_beside_v1(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "cgroup2", "cgroup2")
    assert "cgroup.controllers" in runtime.ok(bundle.args("ls", "/mnt"))


@only_v1
def test_the_container_s_view(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro")
    limited(bundle, memory={"limit": 40 << 20})
    bundle.sh(
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes; cat /sys/fs/cgroup/pids/cgroup.procs;"
        "echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes"
    )
    result = runtime.run(bundle)
    assert result.out.split()[0] == str(40 << 20)
    assert "1" in result.out.split()[1:]
    assert "ead-only file system" in result.err


@only_v2
def test_the_container_s_own_hierarchy(runtime: Runtime, bundle: Bundle) -> None:
    bundle.namespace("cgroup")
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro")
    limited(bundle, memory={"limit": 40 << 20})
    bundle.sh("cat /sys/fs/cgroup/memory.max /proc/self/cgroup; mkdir /sys/fs/cgroup/x")
    result = runtime.run(bundle)
    assert result.out.split() == [str(40 << 20), "0::/"]
    assert "ead-only file system" in result.err


@only_v2
def test_devices_are_filtered(runtime: Runtime, bundle: Bundle) -> None:
    bundle.caps("CAP_MKNOD")
    bundle.entries("linux", "resources", "devices").append(
        {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    )
    # Reading /dev/kmsg is allowed now, writing is not, and another device neither.
    bundle.sh(
        "mknod /k c 1 11; mknod /m c 1 1; head -c 1 /k > /dev/null && echo read; echo > /k; cat /m"
    )
    result = runtime.run(bundle)
    assert result.out == "read\n"
    assert result.err.count("Operation not permitted") == 2


def test_a_cgroup_that_is_in_use_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 only warns")
    bundle.part("linux")["cgroupsPath"] = f"/{runtime.new_id()}"
    runtime.detached(bundle.args("sleep", "1000"))
    result = runtime.run(bundle)
    assert result.code == 1
    assert "container's cgroup is not empty: 1 process(es) found" in result.err


@only_v1
def test_a_container_that_is_left_alone_is_in_every_hierarchy(
    runtime: Runtime, bundle: Bundle
) -> None:
    bundle.part("linux")["cgroupsPath"] = f"/oci-all-{os.getpid()}"
    name = runtime.detached(bundle.args("sleep", "1000"))
    with open(f"/proc/{runtime.pid(name)}/cgroup") as file:
        places = [line.rstrip("\n").split(":", 2) for line in file]
    assert {place for _, _, place in places} == {f"/oci-all-{os.getpid()}"}, places
    assert runtime("kill", name, "KILL").code == 0
    runtime.wait_status(name, "stopped")
    assert runtime("delete", name).code == 0
    assert not list(Path("/sys/fs/cgroup").glob(f"*/oci-all-{os.getpid()}"))
