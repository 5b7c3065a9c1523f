"""The systemd cgroup driver beside a real systemd: its units are what was asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime
from tests.support import plain
from tests.support.fakesystemd import FakeSystemd, properties
from tests.support.systemd import Systemd, UserSystemd, absent


@pytest.fixture(scope="module")
def systemd() -> Iterator[Systemd]:
    if absent():
        pytest.skip(absent())
    made = Systemd()
    yield made
    made.close()


@pytest.fixture
def managed(runtime: Runtime, systemd: Systemd) -> Runtime:
    """The runtime, beside systemd, told to use it."""
    runtime.command = [*systemd.command, *runtime.command, "--systemd-cgroup"]
    return runtime


def _sleeper(bundle: Bundle, path: str) -> None:
    bundle.part("process")["args"] = ["sleep", "100"]
    bundle.part("linux")["cgroupsPath"] = path


def test_a_scope_is_made_changed_and_gone(
    managed: Runtime, bundle: Bundle, systemd: Systemd
) -> None:
    _sleeper(bundle, "machine-oci.slice:gantry:one")
    bundle.part("linux", "resources").update(
        {
            "memory": {"limit": 64 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 262_144, "quota": 33_333, "period": 100_000},
            "pids": {"limit": 20},
        }
    )
    bundle.part("annotations")["org.systemd.property.TimeoutStopUSec"] = "uint64 5000000"
    made = managed.detached(bundle)
    unit = "gantry-one.scope"
    shown = systemd.show(
        unit, "ActiveState", "Slice", "ControlGroup", "Delegate", "MemoryMax", "MemoryLow",
        "CPUWeight", "CPUQuotaPerSecUSec", "TasksMax", "DevicePolicy", "TimeoutStopUSec",
    )  # fmt: skip
    assert shown == {
        "ActiveState": "active",
        "Slice": "machine-oci.slice",
        "ControlGroup": f"/machine.slice/machine-oci.slice/{unit}",
        "Delegate": "yes",
        "MemoryMax": str(64 << 20),
        "MemoryLow": str(32 << 20),
        "CPUWeight": "10000",
        "CPUQuotaPerSecUSec": "340ms",
        "TasksMax": "20",
        "DevicePolicy": "strict",
        "TimeoutStopUSec": "5s",
    }
    group = f"/sys/fs/cgroup{shown['ControlGroup']}"
    inside = systemd.run("cat", f"{group}/cgroup.procs").split()
    assert inside == [str(managed.pid(made))]
    assert systemd.run("cat", f"{group}/cpu.max") == "34000 100000\n"

    assert managed("update", "--memory", "48m", "--cpu-quota", "50000", made).code == 0
    shown = systemd.show(unit, "MemoryMax", "CPUQuotaPerSecUSec", "TasksMax")
    assert shown == {
        "MemoryMax": str(48 << 20), "CPUQuotaPerSecUSec": "500ms", "TasksMax": "20",
    }  # fmt: skip
    assert systemd.run("cat", f"{group}/memory.max") == f"{48 << 20}\n"

    ran = managed("exec", made, "cat", "/proc/self/cgroup")
    assert ran.out.strip().endswith(f"machine-oci.slice/{unit}")
    assert managed("pause", made).code == 0
    assert managed.state(made)["status"] == "paused"
    assert managed("resume", made).code == 0
    assert managed("delete", "--force", made).code == 0
    assert systemd.show(unit, "LoadState", "ActiveState")["ActiveState"] == "inactive"
    assert systemd.run("sh", "-c", f"test -e {group} || echo gone") == "gone\n"


def test_the_default_place(managed: Runtime, bundle: Bundle, systemd: Systemd) -> None:
    _sleeper(bundle, "")
    made = managed.detached(bundle)
    shown = systemd.show(f"runc-{made}.scope", "ActiveState", "Slice")
    assert shown == {"ActiveState": "active", "Slice": "system.slice"}


def test_devices_are_filtered(managed: Runtime, bundle: Bundle) -> None:
    _sleeper(bundle, "system.slice:gantry:devices")
    made = managed.detached(bundle)
    assert managed("exec", made, "sh", "-c", "echo x > /dev/null && echo y").out == "y\n"
    managed("exec", made, "mknod", "/tmp/mem", "c", "1", "1")
    assert managed("exec", made, "cat", "/tmp/mem").code != 0


def test_another_form_of_path_is_refused(managed: Runtime, bundle: Bundle) -> None:
    _sleeper(bundle, "/not/systemds")
    done = managed.run(bundle)
    assert done.code != 0
    assert "expected cgroupsPath to be of format" in done.err


def test_a_plain_users_own_systemd(runtime: Runtime, bundle: Bundle) -> None:
    if absent():
        pytest.skip(absent())
    python = plain.python()
    if runtime.name != "gantry-runc" or not python or plain.cannot_unshare():
        pytest.skip("for gantry-runc, with a Python for plain users, and user namespaces")
    for path in (runtime.root, bundle.folder):
        path.chmod(0o755)
        os.chown(path, plain.USER, plain.USER)
    user = UserSystemd()
    try:
        runtime.command = [*user.command, *python, "-m", "gantry.runtime.main", "--systemd-cgroup"]
        assert runtime("spec", "--rootless", "-b", str(bundle.folder)).code == 0
        bundle.config = json.loads((bundle.folder / "config.json").read_text())
        bundle.args("sleep", "100").part("process")["terminal"] = False
        bundle.part("linux", "resources").update(
            {"memory": {"limit": 48 << 20}, "pids": {"limit": 30}}
        )
        made = runtime.detached(bundle)
        group = user.group / f"mine/user.slice/runc-{made}.scope"
        assert (group / "cgroup.procs").read_text().split() == [str(runtime.pid(made))]
        assert (group / "memory.max").read_text() == f"{48 << 20}\n"
        assert (group / "pids.max").read_text() == "30\n"
        assert runtime("update", "--memory", "40m", made).code == 0
        assert (group / "memory.max").read_text() == f"{40 << 20}\n"
        assert runtime("exec", made, "sh", "-c", "exit 3").code == 3
        assert runtime("delete", "--force", made).code == 0
        assert not group.exists()
    finally:
        user.close()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    made = FakeSystemd(tmp_path / "bus")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    yield made
    made.close()


@pytest.mark.skipif(os.path.exists("/run/systemd/system"), reason="this machine has a systemd")
def test_what_systemd_is_asked(runtime: Runtime, bundle: Bundle, fake: FakeSystemd) -> None:
    """Whatever this machine's cgroups are: the calls, and the limits that it did not do."""
    if runtime.name != "gantry-runc":
        pytest.skip("runc looks for a machine that was started by systemd")
    runtime.command = [*runtime.command, "--systemd-cgroup"]
    name = f"fake{os.getpid()}"
    bundle.args("sleep", "100").part("linux")["cgroupsPath"] = f"gantryfake.slice:gantry:{name}"
    bundle.part("linux", "resources")["pids"] = {"limit": 20}
    made = runtime.detached(bundle)
    unit = f"gantry-{name}.scope"
    asked, mode, given, _ = fake.named("StartTransientUnit")[0]
    assert (asked, mode) == (unit, "replace")
    wanted = properties(given)
    assert wanted["PIDs"] == [runtime.pid(made)]
    assert (wanted["Slice"], wanted["Delegate"], wanted["TasksMax"]) == (
        "gantryfake.slice", 1, 20,
    )  # fmt: skip
    ran = runtime("exec", made, "cat", "/proc/self/cgroup")
    assert f"gantryfake.slice/{unit}" in ran.out
    assert runtime("update", "--pids-limit", "30", made).code == 0
    unit_set, at_runtime, changed = fake.named("SetUnitProperties")[0]
    assert (unit_set, at_runtime) == (unit, 1)
    assert properties(changed) == {"TasksMax": 30}
    assert runtime("delete", "--force", made).code == 0
    assert fake.named("StopUnit") == [[unit, "replace"]]
    folders = [folder for folder, _, _ in os.walk("/sys/fs/cgroup")]  # others come and go
    for folder in folders:
        if folder.endswith("/gantryfake.slice"):
            os.rmdir(folder)  # systemd's to remove
    assert not [folder for folder in folders if folder.endswith(f"/{unit}")]
