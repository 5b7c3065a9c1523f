"""The engine with native.cgroupdriver=systemd: its containers are scopes of systemd's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.engine import Engine
from tests.support.fakesystemd import FakeSystemd, properties

pytestmark = pytest.mark.integration


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    if os.path.exists("/run/systemd/system"):
        pytest.skip("this machine has a systemd")
    made = FakeSystemd(tmp_path / "bus")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    yield made
    made.close()


def test_a_container_is_a_scope(fake: FakeSystemd) -> None:
    with Engine("gantry", ("--exec-opt", "native.cgroupdriver=systemd")) as engine:
        engine.add_image()
        docker = engine.cli()
        assert docker("info", "-f", "{{.CgroupDriver}}").ok() == "systemd"
        parent = ("--cgroup-parent", "gantrytest.slice")
        flags = ("--network", "none", "--memory", "64m", "--pids-limit", "33")
        name = docker("run", "-d", *parent, *flags, "busybox", "sleep", "1000").ok()
        unit = f"docker-{name}.scope"
        asked, _, given, _ = fake.named("StartTransientUnit")[0]
        wanted = properties(given)
        assert (asked, wanted["Slice"], wanted["TasksMax"]) == (unit, "gantrytest.slice", 33)
        assert wanted["PIDs"] == [int(docker.field(name, "{{.State.Pid}}"))]
        assert f"gantrytest.slice/{unit}" in docker("exec", name, "cat", "/proc/self/cgroup").ok()
        docker("update", "--pids-limit", "44", name).ok()
        changed, _, limits = fake.named("SetUnitProperties")[0]
        assert (changed, properties(limits)["TasksMax"]) == (unit, 44)
        docker("rm", "-f", name).ok()
        assert [unit, "replace"] in fake.named("StopUnit")
        refused = docker("run", "--rm", "--cgroup-parent", "/not/a/slice", "busybox", "true")
        assert 'valid slice named as "xxx.slice"' in refused.err
    left = [str(path) for path in Path("/sys/fs/cgroup").glob("**/docker-*.scope")]
    for folder in Path("/sys/fs/cgroup").glob("**/gantrytest.slice"):
        folder.rmdir()  # systemd's to remove
    assert [path for path in left if name in path] == []
