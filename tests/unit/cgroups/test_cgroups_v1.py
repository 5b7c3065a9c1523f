"""cgroup v1 on folders that stand in for hierarchies: a real kernel is for integration."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from gantry.cgroups import files, v1_set
from gantry.cgroups.layout import Layout, absolute, of_mounts
from gantry.cgroups.v1 import V1Cgroup
from gantry.kernel import procfs
from gantry.model.resources import (
    CPU,
    BlockIO,
    DeviceRule,
    HugepageLimit,
    Memory,
    Pids,
    Resources,
    ThrottleDevice,
)

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "devices", "freezer", "blkio", "cpuset")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    for name in CONTROLLERS:
        (tmp_path / name).mkdir()
    (tmp_path / "cpuset/cpuset.cpus").write_text("0-3\n")
    (tmp_path / "cpuset/cpuset.mems").write_text("0\n")
    return Layout(controllers={name: str(tmp_path / name) for name in CONTROLLERS})


class Recorder:
    """Stands in for the files: writes in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes: list[tuple[str, str]] = []
        monkeypatch.setattr(files, "write", self.write)
        monkeypatch.setattr(files, "write_each", self.write_each)

    def write(self, folder: str, name: str, value: str) -> None:
        self.writes.append((name, value))

    def write_each(self, folder: str, name: str, values: Iterable[str]) -> None:
        for value in values:
            self.write(folder, name, value)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


FOLDERS = {name: f"/nonesuch/{name}" for name in CONTROLLERS}


def test_hierarchies_that_are_needed(layout: Layout) -> None:
    plain = V1Cgroup.of_path(layout, "/a/b", Resources())
    assert set(plain.paths()) == set(CONTROLLERS) - {"cpuset"}
    assert plain.paths()["memory"].endswith("/memory/a/b")
    pinned = V1Cgroup.of_path(layout, "/a", Resources(cpu=CPU(cpus="0")))
    assert "cpuset" in pinned.paths()


@pytest.mark.parametrize(
    ("path", "own", "found"),
    [
        ("/docker/x", "/own", "/docker/x"),
        ("docker/x", "/own", "/own/docker/x"),
        ("docker/x", "/", "/docker/x"),
        ("../../x", "/own", "/own/x"),
        ("/../../x", "/own", "/x"),
        ("//a//b/", "/", "/a/b"),
    ],
)
def test_paths(path: str, own: str, found: str) -> None:
    assert absolute(path, own) == found


def test_memory_grows_from_above(recorder: Recorder) -> None:
    v1_set.apply(FOLDERS, Resources(memory=Memory(limit=100, swap=-1)))
    assert [name for name, _ in recorder.writes] == [
        "memory.memsw.limit_in_bytes",
        "memory.limit_in_bytes",
    ]


def test_memory_shrinks_from_below(recorder: Recorder) -> None:
    # The fake files cannot be read: what stands counts as unlimited.
    v1_set.apply(FOLDERS, Resources(memory=Memory(limit=100, swap=200)))
    assert recorder.writes == [
        ("memory.limit_in_bytes", "100"),
        ("memory.memsw.limit_in_bytes", "200"),
    ]


def test_no_limit_takes_swap_s_limit_away_as_well(recorder: Recorder) -> None:
    v1_set.apply(FOLDERS, Resources(memory=Memory(limit=-1)))
    assert ("memory.memsw.limit_in_bytes", "-1") in recorder.writes


def test_cpu_period_comes_before_quota(recorder: Recorder) -> None:
    v1_set.apply(FOLDERS, Resources(cpu=CPU(quota=5000, period=10000, shares=7)))
    assert recorder.writes == [
        ("cpu.shares", "7"),
        ("cpu.cfs_period_us", "10000"),
        ("cpu.cfs_quota_us", "5000"),
    ]


def test_zeros_mean_nothing(recorder: Recorder) -> None:
    v1_set.apply(
        FOLDERS,
        Resources(
            memory=Memory(limit=0, swap=0, reservation=0), cpu=CPU(shares=0, quota=0, period=0)
        ),
    )
    assert recorder.writes == []


def test_devices_in_order(recorder: Recorder) -> None:
    rules = (
        DeviceRule(allow=False, access="rwm"),
        DeviceRule(allow=True, type="c", major=1, minor=3, access="rw"),
        DeviceRule(allow=True, type="b", access="m"),
    )
    v1_set.apply(FOLDERS, Resources(devices=rules))
    assert recorder.writes == [
        ("devices.deny", "a"),
        ("devices.allow", "c 1:3 rw"),
        ("devices.allow", "b *:* m"),
    ]


def test_pids_and_block_io(recorder: Recorder) -> None:
    v1_set.apply(
        FOLDERS,
        Resources(
            pids=Pids(limit=0),
            block_io=BlockIO(throttle_read_bps_device=(ThrottleDevice(major=8, minor=0, rate=9),)),
        ),
    )
    assert recorder.writes == [
        ("pids.max", "max"),
        ("blkio.throttle.read_bps_device", "8:0 9"),
    ]


def test_a_controller_that_is_not_mounted(recorder: Recorder) -> None:
    with pytest.raises(OSError, match="hugetlb cgroup controller is not mounted"):
        v1_set.apply(FOLDERS, Resources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=1),)))


def test_unified_is_refused() -> None:
    with pytest.raises(OSError, match="cgroup v1"):
        v1_set.apply(FOLDERS, Resources(unified={"a.b": "c"}))


def test_cpusets_inherit_downwards(layout: Layout, tmp_path: Path) -> None:
    deep = tmp_path / "cpuset/a/b"
    deep.mkdir(parents=True)
    for folder in (deep, deep.parent):
        for name in ("cpuset.cpus", "cpuset.mems"):
            (folder / name).write_text("\n")
    v1_set.inherit_cpuset(str(deep), layout.controllers["cpuset"])
    assert (deep / "cpuset.cpus").read_text() == "0-3"
    assert (deep.parent / "cpuset.mems").read_text() == "0"


def test_layouts() -> None:
    hybrid = of_mounts(
        procfs.parse_mountinfo(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
            "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        )
    )
    assert hybrid.controllers == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "name=systemd": "/sys/fs/cgroup/systemd",
    }
    assert hybrid.unified == "/sys/fs/cgroup/unified"
    assert not hybrid.pure
    assert of_mounts(
        procfs.parse_mountinfo("3 2 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    ).pure


def test_a_folder_that_takes_no_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """sysfs where its cgroups are out of sight: /sys/fs/cgroup is there, and no cgroup."""
    usual = os.mkdir

    def mkdir(path: str, mode: int) -> None:
        if path == f"{tmp_path}/cpu":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        usual(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(FileNotFoundError):
        files.make(f"{tmp_path}/cpu/docker")
    assert files.make(f"{tmp_path}/a/b/c") is True
    assert files.make(f"{tmp_path}/a/b/c") is False
