"""Configurations that make no sense: one line that says so, and nothing left behind."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime

JUNK: tuple[object, ...] = (
    None, True, -1, 0, 2**31, 2**32, 2**63, 2**64, 1e300, 0.5, "", "x", "/", "..", "a\nb", "\0",
    "é", "x" * 5000, "-1", "9" * 30, "/proc/self/fd/../../..", [], [[]], [None], ["x"], {},
    {"path": "x"}, [{}],
)  # fmt: skip


def everything(bundle: Bundle) -> dict[str, object]:
    """A good configuration with something of every kind in it."""
    process = bundle.part("process")
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]
    process["oomScoreAdj"] = 10
    process["consoleSize"] = {"height": 1, "width": 1}
    process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 1}
    process["scheduler"] = {"policy": "SCHED_OTHER", "nice": 1}
    process["execCPUAffinity"] = {"initial": "0", "final": "0"}
    bundle.part("process", "user").update(additionalGids=[1], umask=0o22)
    bundle.config["annotations"] = {"a": "b"}
    bundle.part("hooks")["poststop"] = [{"path": "/bin/true", "timeout": 2, "env": ["A=b"]}]
    bundle.part("linux").update(
        sysctl={"net.ipv4.ip_forward": "1"},
        devices=[{"path": "/dev/foo", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}],
        rootfsPropagation="slave",
        personality={"domain": "LINUX"},
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {
                    "names": ["swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                    "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
    )  # fmt: skip
    bundle.part("linux", "resources").update(
        memory={"limit": 10**8, "reservation": 10**7}, pids={"limit": 50}, cpu={"shares": 100}
    )
    return bundle.config


def places(value: object, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of everything inside a configuration."""
    if here:
        yield here
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    for key, item in inner:
        yield from places(item, (*here, key))


def spoil(config: dict[str, object], chance: random.Random) -> str:
    """Put something else, or nothing, in one place; what was done."""
    place = chance.choice(list(places(config)))
    holder: object = config
    for key in place[:-1]:
        holder = holder[key] if isinstance(holder, dict) else as_list(holder)[int(key)]
    value = chance.choice(JUNK)
    taken = chance.random() < 0.15
    last = place[-1]
    if isinstance(holder, dict):
        holder[last] = value
        if taken:
            del holder[last]
    else:
        as_list(holder)[int(last) : int(last) + 1] = [] if taken else [value]
    return f"{place}: {'taken away' if taken else repr(value)[:80]}"


def as_list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def left_behind(runtime: Runtime, name: str, cgroup: str) -> list[str]:
    found = [str(path) for path in runtime.root.glob(name)]
    top = Path("/sys/fs/cgroup")
    found += [str(p) for pattern in (name, cgroup) for p in top.glob(f"*/{pattern}")]
    return found + [str(p) for pattern in (name, cgroup) for p in top.glob(pattern)]


@pytest.mark.parametrize("seed", range(3))
def test_a_spoiled_configuration(runtime: Runtime, bundle: Bundle, seed: int) -> None:
    if runtime.name != "gantry-runc":
        pytest.skip("others are not asked for this")
    good = everything(bundle)
    chance = random.Random(seed)
    for _ in range(12):
        bundle.config = copy.deepcopy(good)
        name = runtime.new_id()
        bundle.part("linux")["cgroupsPath"] = f"/cg{name}"
        done = "; ".join(spoil(bundle.config, chance) for _ in range(chance.choice((1, 1, 2))))
        result = runtime("run", "-b", str(bundle.write()), name)
        assert result.code in (0, 1), (done, result.text)
        errors = [line for line in result.err.splitlines() if "level=warning" not in line]
        if result.code:
            assert len(errors) == 1, (done, result.text)
            assert "level=error" in errors[0], (done, errors)
        assert left_behind(runtime, name, f"cg{name}") == [], done


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("process", "args"), "sh", "process.args"),
        (("process", "args"), ["sh", 1], "process.args[1]"),
        (("process", "cwd"), 3, "process.cwd"),
        (("process", "user"), {"uid": -1}, "process.user.uid"),
        (("process", "user"), {"uid": 2**32}, "process.user.uid"),
        (("root",), {}, "root.path"),
        (("mounts",), [{"type": "tmpfs"}], "mounts[0].destination"),
        (("mounts",), {"destination": "/x"}, "mounts"),
        (("linux", "namespaces"), [{"path": "/x"}], "linux.namespaces[0].type"),
        (("linux", "devices"), [{"type": "c"}], "linux.devices[0].path"),
        (("linux", "resources"), {"memory": {"limit": "1g"}}, "linux.resources.memory.limit"),
        (("linux", "resources"), {"pids": {"limit": 2**70}}, "linux.resources.pids.limit"),
        (("linux", "seccomp"), {"syscalls": []}, "linux.seccomp.defaultAction"),
        (("hooks",), {"prestart": [{"args": ["x"]}]}, "hooks.prestart[0].path"),
        (("ociVersion",), 1, "ociVersion"),
        (("ociVersion",), "7.0.0", "ociVersion"),
        (("annotations",), {"a": 1}, "annotations.a"),
    ],
)
def test_the_field_is_named(
    runtime: Runtime, bundle: Bundle, place: tuple[str, ...], value: object, named: str
) -> None:
    if runtime.name != "gantry-runc":
        pytest.skip("others name Go's types")
    bundle.part(*place[:-1])[place[-1]] = value
    result = runtime.run(bundle)
    assert result.code == 1
    assert named in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "\xff", "[" * 100_000])
def test_no_configuration_at_all(runtime: Runtime, bundle: Bundle, text: str) -> None:
    if text == "null" and runtime.name == "runc":
        pytest.skip("runc 1.1 panics")
    (bundle.write() / "config.json").write_bytes(text.encode("latin-1"))
    result = runtime("run", "-b", str(bundle.folder), runtime.new_id())
    assert result.code == 1
    if runtime.name == "gantry-runc":
        assert len(result.err.splitlines()) == 1
    assert not [p for p in runtime.root.iterdir() if not p.name.startswith(".")]


def test_names_in_another_case(runtime: Runtime, bundle: Bundle) -> None:
    """Go's decoder takes them, so there are files that have them."""
    bundle.part("process")["ENV"] = bundle.part("process").pop("env")
    assert "TERM=xterm" in runtime.ok(bundle.args("env"))


def test_unknown_fields_are_passed_over(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["newField"] = {"a": [1]}
    bundle.part("linux")["another"] = json.loads("[1, 2]")
    assert runtime.ok(bundle.args("echo", "ran")) == "ran\n"
    assert os.path.exists(bundle.folder / "config.json")
