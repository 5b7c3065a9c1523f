"""systemd's side of cgroups: D-Bus on the wire, paths, properties, annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fakesystemd import FakeSystemd, properties

from gantry.cgroups import systemd_annotations, systemd_manager, systemd_properties
from gantry.cgroups.dbus import DBusError, Reader, Value, Variant, Writer, split
from gantry.cgroups.systemd import expand_slice, parse_path
from gantry.cgroups.systemd_manager import Manager
from gantry.model.resources import CPU, BlockIO, DeviceRule, Memory, Pids, Resources


def new() -> int:
    return 255


def old() -> int:
    return 239


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    made = FakeSystemd(tmp_path / "bus")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    yield made
    made.close()


_LEAVES: dict[str, st.SearchStrategy[Value]] = {
    "y": st.integers(0, 255),
    "b": st.integers(0, 1),
    "i": st.integers(-(2**31), 2**31 - 1),
    "u": st.integers(0, 2**32 - 1),
    "x": st.integers(-(2**63), 2**63 - 1),
    "t": st.integers(0, 2**64 - 1),
    "d": st.floats(allow_nan=False),
    "s": st.text(st.characters(codec="utf-8", exclude_characters="\0")),
}


@st.composite
def typed(draw: st.DrawFn, depth: int = 3) -> tuple[str, Value]:
    """A D-Bus type and a value of it."""
    kind = draw(st.sampled_from([*_LEAVES, *("a(v" if depth else "")]))
    if kind == "v":
        signature, value = draw(typed(depth - 1))
        return "v", Variant(signature, value)
    if kind == "(":
        parts = draw(st.lists(typed(depth - 1), min_size=1, max_size=3))
        return f"({''.join(p[0] for p in parts)})", [p[1] for p in parts]
    if kind == "a":
        signature, value = draw(typed(depth - 1))
        return "a" + signature, [value] * draw(st.integers(0, 3))
    return kind, draw(_LEAVES[kind])


@given(typed(), st.integers(0, 9))
def test_what_is_written_can_be_read(pair: tuple[str, Value], before: int) -> None:
    signature, value = pair
    writer = Writer()
    writer.data.extend(bytes(before))
    writer.write(signature, value)
    assert Reader(bytes(writer.data), before).read(signature) == value
    assert split(signature * 2) == [signature, signature]


def test_the_bytes_of_the_specification() -> None:
    """An array of 64-bit numbers is padded after its length, which does not count that."""
    writer = Writer()
    writer.write("at", [5])
    assert bytes(writer.data) == b"\x08\0\0\0" + bytes(4) + b"\x05" + bytes(7)


@pytest.mark.parametrize(
    ("path", "slice_name", "unit"),
    [
        ("", "system.slice", "runc-id.scope"),
        ("a-b.slice:docker:name", "a-b.slice", "docker-name.scope"),
        (":docker:name", "system.slice", "docker-name.scope"),
        ("x.slice:p:pod.slice", "x.slice", "pod.slice"),
    ],
)
def test_paths(path: str, slice_name: str, unit: str) -> None:
    assert parse_path(path, "id", "system.slice") == (slice_name, unit)


@pytest.mark.parametrize("path", ["/a/b", "a:b", "a:b:c:d"])
def test_other_paths(path: str) -> None:
    with pytest.raises(OSError, match="slice:prefix:name"):
        parse_path(path, "id", "system.slice")


def test_slices() -> None:
    assert expand_slice("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
    assert expand_slice("-.slice") == "/"
    for wrong in ("a", ".slice", "a/b.slice", "a--b.slice", "-a.slice", "a-.slice"):
        with pytest.raises(OSError, match="invalid slice name"):
            expand_slice(wrong)


FULL = Resources(
    memory=Memory(limit=100, reservation=50, swap=150),
    cpu=CPU(shares=1024, quota=33_333, period=100_000, cpus="0-2,9", mems="0"),
    pids=Pids(limit=7),
    block_io=BlockIO(weight=300),
)


def _limits(resources: Resources, unified: bool, version: Callable[[], int]) -> dict[str, Value]:
    found = systemd_properties.limits(resources, unified=unified, version=version)
    return {name: variant.value for name, variant in found}


def test_limits_of_v2() -> None:
    assert _limits(FULL, True, new) == {
        "MemoryMax": 100,
        "MemoryLow": 50,
        "MemorySwapMax": 50,
        "CPUWeight": 100,
        "CPUQuotaPeriodUSec": 100_000,
        "CPUQuotaPerSecUSec": 340_000,
        "AllowedCPUs": [7, 2],
        "AllowedMemoryNodes": [1],
        "TasksMax": 7,
    }


def test_limits_of_v1_and_an_old_systemd() -> None:
    assert _limits(FULL, False, old) == {
        "MemoryLimit": 100,
        "CPUShares": 1024,
        "CPUQuotaPerSecUSec": 340_000,
        "TasksMax": 7,
        "BlockIOWeight": 300,
    }


def test_no_limits() -> None:
    infinite = 2**64 - 1
    none = Resources(memory=Memory(limit=-1), cpu=CPU(quota=-1), pids=Pids(limit=-1))
    assert _limits(none, True, new) == {
        "MemoryMax": infinite,
        "MemorySwapMax": infinite,
        "CPUQuotaPerSecUSec": infinite,
        "TasksMax": infinite,
    }
    assert _limits(Resources(), True, new) == {}


def test_raw_files_beat_the_rest() -> None:
    raw = {
        "memory.max": "max", "memory.high": "9", "cpu.max": "50000 100000", "cpu.weight": "3",
        "pids.max": "4", "cpuset.cpus": "1", "hugetlb.2MB.max": "0",
    }  # fmt: skip
    found = _limits(FULL.replace(unified=raw), True, new)
    assert found["MemoryMax"] == 2**64 - 1
    assert found["MemoryHigh"] == 9
    assert found["CPUQuotaPerSecUSec"] == 500_000
    assert (found["CPUWeight"], found["TasksMax"], found["AllowedCPUs"]) == (3, 4, [2])
    with pytest.raises(OSError, match=r"memory\.max"):
        _limits(Resources(unified={"memory.max": "lots"}), True, new)


def test_idle() -> None:
    assert _limits(Resources(cpu=CPU(shares=5, idle=1)), True, new) == {"CPUWeight": 0}
    assert _limits(Resources(cpu=CPU(shares=2, idle=1)), True, old) == {"CPUWeight": 1}
    oom = Resources(unified={"memory.oom.group": "1"})
    assert list(systemd_properties.oom_policy(oom, new)) == [("OOMPolicy", Variant("s", "kill"))]
    assert list(systemd_properties.oom_policy(oom, old)) == []


@pytest.mark.parametrize("text", ["", ",", "3-1", "x", "-1", "99999999"])
def test_wrong_cpusets(text: str) -> None:
    with pytest.raises(OSError, match="invalid cpuset"):
        systemd_properties.bits_of(text)


def _devices(*rules: DeviceRule) -> tuple[Value, Value]:
    found = dict(systemd_properties.devices(rules))
    return found["DevicePolicy"].value, found["DeviceAllow"].value


def test_devices() -> None:
    nothing = DeviceRule(allow=False, access="rwm")
    null = DeviceRule(allow=True, type="c", major=1, minor=3, access="rw")
    assert _devices() == ("auto", [])
    assert _devices(null, DeviceRule(allow=True, type="a")) == ("auto", [])
    assert _devices(
        nothing, null,
        DeviceRule(allow=True, type="b", major=8),
        DeviceRule(allow=True, type="c", access="m"),
        DeviceRule(allow=True, type="c", minor=5),
    ) == (
        "strict",
        [["/dev/char/1:3", "rw"], ["block-8", "rwm"], ["char-*", "m"]],
    )  # fmt: skip
    # What systemd cannot say becomes less than was asked for, never more.
    assert _devices(nothing, null, DeviceRule(allow=False, type="c", major=1)) == ("strict", [])


@pytest.mark.parametrize(
    ("text", "signature", "value"),
    [
        ("5", "i", 5),
        ("-0x10", "i", -16),
        ("uint64 9000000", "t", 9_000_000),
        ("@t 7", "t", 7),
        ("1.5", "d", 1.5),
        ("true", "b", True),
        ("'it\\'s'", "s", "it's"),
        ('"inactive-or-failed"', "s", "inactive-or-failed"),
        ("['a', 'b']", "as", ["a", "b"]),
        ("@as []", "as", []),
        ("[('char-*', 'r')]", "a(ss)", [["char-*", "r"]]),
        ("@a(ss) [('a', 'b'),]", "a(ss)", [["a", "b"]]),
    ],
)
def test_annotations(text: str, signature: str, value: Value) -> None:
    assert systemd_annotations.parse(text) == Variant(signature, value)


@pytest.mark.parametrize(
    "text", ["", "foo", "'a", "[1, 'a']", "[]", "uint64 'a'", "5 6", "(1", "@i 1.5", "\x00"]
)
def test_wrong_annotations(text: str) -> None:
    with pytest.raises(ValueError):
        systemd_annotations.parse(text)


def test_annotations_by_name() -> None:
    given = {"org.systemd.property.TimeoutStopSec": "2.5", "other": "x"}
    assert systemd_annotations.properties(given) == (("TimeoutStopUSec", Variant("t", 2_500_000)),)
    for key in ("org.systemd.property.ab", "org.systemd.property.A1B2"):
        with pytest.raises(OSError, match="name incorrect"):
            systemd_annotations.properties({key: "1"})
    with pytest.raises(OSError, match="value parse error"):
        systemd_annotations.properties({"org.systemd.property.TimeoutStopSec": "'a'"})


@pytest.mark.parametrize("early", [False, True])
def test_a_unit_is_started(fake: FakeSystemd, early: bool) -> None:
    fake.early = early
    with Manager(user=False) as manager:
        manager.start("a.scope", [("PIDs", Variant("au", [4]))])
        assert manager.version() == 252
    unit, mode, given, _ = fake.named("StartTransientUnit")[0]
    assert (unit, mode, properties(given)) == ("a.scope", "replace", {"PIDs": [4]})
    assert [call.member for call in fake.calls] == [
        "Hello",
        "Subscribe",
        "StartTransientUnit",
        "Get",
    ]


def test_a_failed_unit_of_that_name_is_reset(fake: FakeSystemd) -> None:
    fake.failed.add("a.scope")
    with Manager(user=False) as manager:
        manager.start("a.scope", [])
    assert fake.named("ResetFailedUnit") == [["a.scope"]]
    assert len(fake.named("StartTransientUnit")) == 2


def test_a_job_that_fails(fake: FakeSystemd) -> None:
    fake.result = "failed"
    with Manager(user=False) as manager, pytest.raises(OSError, match="got `failed`"):
        manager.start("a.scope", [])


def test_a_refusal_has_systemds_words(fake: FakeSystemd) -> None:
    fake.failed.add("a.scope")
    with Manager(user=False) as manager, pytest.raises(DBusError, match="is there") as info:
        manager.stop("a.scope")
    assert info.value.name == "org.freedesktop.systemd1.UnitExists"


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setattr(systemd_manager, "PRIVATE", str(tmp_path / "none"))
    monkeypatch.setattr(systemd_manager, "SYSTEM_BUS", str(tmp_path / "none"))
    with pytest.raises(OSError, match="systemd not running on this host"):
        Manager(user=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(OSError, match="no systemd of the user's"):
        Manager(user=True)


def test_the_users_own(fake: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"tcp:host=x;{fake.address},guid=1")
    with Manager(user=True) as manager:
        assert manager.property("ControlGroup") == "/user.slice/user@7.service"
        manager.attach("a.scope", "/", 5)
    assert fake.named("AttachProcessesToUnit") == [["a.scope", "/", [5]]]
