"""State at rest, identities, plans, validation: no process is started."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.model.resources import DeviceRule, Resources
from gantry.oci import runtime_spec as oci
from gantry.oci.codec import SpecError
from gantry.runtime import identity, plan, state, validate
from gantry.runtime.errors import RuntimeFailure, describe
from gantry.runtime.schedule import parse_list
from gantry.runtime.userns import map_text


def kept(**more: object) -> state.State:
    values: dict[str, object] = {
        "id": "x", "bundle": "/b", "rootfs": "/b/rootfs", "init_pid": 7, "init_start_time": 8,
        "created": 1_700_000_000_120_000_000, "namespaces": 0x20000000,
        "cgroup_paths": {"memory": "/m"}, "annotations": {"a": "b=c"},
        "poststop": (oci.Hook(path="/h", timeout=2),), "config": {"hostname": "h"},
    }  # fmt: skip
    return state.State.unchecked({**values, **more})


def test_state_goes_round(tmp_path: Path) -> None:
    folder = state.reserve(str(tmp_path / "root"), "x")
    state.save(folder, kept())
    assert state.load(str(tmp_path / "root"), "x") == kept()
    assert os.stat(f"{folder}/state.json").st_mode & 0o777 == 0o600
    document = json.loads(Path(f"{folder}/state.json").read_text())
    assert document["init_process_pid"] == 7
    assert document["created"] == "2023-11-14T22:13:20.12Z"
    assert document["namespace_paths"]["NEWPID"] == "/proc/7/ns/pid"
    assert "bundle=/b" in document["config"]["labels"]


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    folder = state.reserve(str(tmp_path), "x")
    with pytest.raises(RuntimeFailure, match="container with given ID already exists"):
        state.reserve(str(tmp_path), "x")
    state.remove(folder)
    state.remove(folder)
    state.reserve(str(tmp_path), "x")


def test_no_or_broken_state(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"^container does not exist$"):
        state.load(str(tmp_path), "x")
    folder = state.reserve(str(tmp_path), "x")
    for text in ("", "[]", "{}", '{"gantry": {}}'):
        Path(f"{folder}/state.json").write_text(text)
        with pytest.raises(RuntimeFailure, match="cannot be read"):
            state.load(str(tmp_path), "x")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-x", "ü", "a\n", "x" * 1025])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(RuntimeFailure):
        state.check_id(name)


@pytest.mark.parametrize("name", ["a", "A-1.b_c+d", "_x", "x" * 200])
def test_names(name: str) -> None:
    assert state.check_id(name) == name


def test_identity() -> None:
    process = oci.Process(
        cwd="/",
        user=oci.User(uid=1, gid=2, additional_gids=(3,)),
        capabilities=oci.Capabilities(bounding=("CAP_KILL",), ambient=("CAP_CHOWN",)),
        rlimits=(oci.Rlimit(type="RLIMIT_NOFILE", hard=2**64 - 1, soft=5),),
    )
    found = identity.of_process(process)
    assert (found.uid, found.gid, found.groups) == (1, 2, (3,))
    assert (found.bounding, found.ambient, found.inheritable) == (1 << 5, 1, 0)
    assert found.limits == ((7, 5, -1),)
    assert found.umask == 0o22


def test_doubled_rlimits() -> None:
    twice = (oci.Rlimit(type="RLIMIT_CPU", hard=1, soft=1),) * 2
    with pytest.raises(RuntimeFailure, match="given twice"):
        identity.limits(twice)


def test_devices() -> None:
    found = plan.plan_devices((oci.Device(path="/dev/x", type="b", major=8, minor=1),))
    by_path = {device.path: device for device in found}
    assert set(by_path) >= {"/dev/null", "/dev/zero", "/dev/x"}
    assert by_path["/dev/x"].device == os.makedev(8, 1)
    for bad in (
        oci.Device(path="/dev/x", type="z"),
        oci.Device(path="dev/x", type="c"),
        oci.Device(path="/dev/x", type="c", major=-1),
    ):
        with pytest.raises(RuntimeFailure):
            plan.plan_devices((bad,))


def test_default_device_rules_come_after_the_spec_s() -> None:
    deny = DeviceRule(allow=False, access="rwm")
    found = plan.plan_resources(Resources(devices=(deny,))).devices
    assert found[0] == deny
    assert DeviceRule(allow=True, type="c", major=1, minor=3, access="rwm") in found
    assert plan.plan_resources(Resources()).devices == ()


def test_mount_plans() -> None:
    mounts = (
        oci.Mount(destination="/a//b/../c", type="tmpfs"),
        oci.Mount(destination="d", type="", source="rel", options=("bind",)),
    )
    first, second = plan.plan_mounts(mounts, "/bundle")
    assert first.mount.destination == "/a/c"
    assert (second.mount.destination, second.source) == ("/d", "/bundle/rel")
    assert second.is_bind and not first.is_bind
    assert plan.needs_dev((first, second))


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("", set()), (" 1 , 3 ", {1, 3})]
)
def test_lists(text: str, numbers: set[int]) -> None:
    assert parse_list(text) == numbers


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-1", "99999"])
def test_bad_lists(text: str) -> None:
    with pytest.raises(RuntimeFailure):
        parse_list(text)


def test_maps() -> None:
    maps = (oci.IDMapping(container_id=0, host_id=1000, size=1),)
    assert map_text(maps * 2) == "0 1000 1\n0 1000 1\n"


def test_descriptions() -> None:
    assert describe(FileNotFoundError(2, "mount: no such file or directory", "/x")) == (
        "mount: no such file or directory: /x"
    )
    assert describe(FileNotFoundError(2, "No such file or directory", "/x")) == (
        "no such file or directory: /x"
    )
    assert describe(ValueError("text")) == "text"


# --- validation ---------------------------------------------------------------------------


def config(**more: object) -> oci.Spec:
    return oci.parse(
        {
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "args": ["a"]},
            "root": {"path": "r"},
            **more,
        }
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"ociVersion": "2.0.0"}, 'ociVersion: unsupported version "2.0.0"'),
        ({"ociVersion": "1.0"}, 'ociVersion: unsupported version "1.0"'),
        ({"root": None}, "root: is required"),
        ({"process": None}, "process property must not be empty"),
        ({"hostname": "x"}, "unable to set hostname without a private UTS namespace"),
        (
            {"mounts": [{"destination": "/x", "type": "bind"}]},
            "mounts[0].source: a bind mount needs a source",
        ),
        ({"mounts": [{"destination": "/x"}]}, "mounts[0].type: must not be empty"),
        (
            {
                "mounts": [
                    {"destination": "/x", "type": "bind", "source": "/", "options": ["size=1"]}
                ]
            },
            "mounts[0].options: bind mounts cannot have any filesystem-specific options applied",
        ),
        (
            {"linux": {"maskedPaths": ["/x"]}},
            "unable to restrict sys entries without a private MNT namespace",
        ),
        (
            {"linux": {"intelRdt": {"closID": "x"}}},
            "intelRdt is specified in config, but Intel RDT is not enabled",
        ),
        (
            {"linux": {"timeOffsets": {"boottime": {}}}},
            "time namespace offsets specified, but time namespace isn't enabled in the config",
        ),
        *(
            ({"linux": {"sysctl": {name: "1"}}}, f'sysctl "{name}" is not a name')
            for name in (
                "net/../kernel/core_pattern",
                "net.//.kernel.core_pattern",
                "net/./x",
                "net./.x",
                "net..x",
                "",
                "net.",
            )
        ),
        (
            {"linux": {"sysctl": {"vm.x": "1"}}},
            'sysctl "vm.x" is not in a separate kernel namespace',
        ),
        (
            {"linux": {"sysctl": {"net/ipv4/x": "1"}}},
            'sysctl "net.ipv4.x" not allowed in host network namespace',
        ),
        (
            {"linux": {"namespaces": [{"type": "uts"}], "sysctl": {"kernel.hostname": "x"}}},
            'sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field',
        ),
    ],
)
def test_what_makes_no_sense(more: dict[str, object], text: str) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        validate.spec(config(**more))
    assert str(caught.value) == text


def test_a_namespace_that_is_brought_counts() -> None:
    spec = config(linux={"sysctl": {"net.ipv4.ip_forward": "1"}})
    validate.spec(spec, {"network"})
    with pytest.raises(RuntimeFailure):
        validate.spec(spec)


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "hostname": st.text(max_size=3),
            "mounts": st.lists(
                st.fixed_dictionaries(
                    {"destination": st.text(max_size=4)},
                    optional={
                        "type": st.sampled_from(["bind", "tmpfs", ""]),
                        "source": st.text(max_size=3),
                        "options": st.lists(st.sampled_from(["bind", "ro", "idmap", "x=y"])),
                    },
                ),
                max_size=3,
            ),
            "linux": st.fixed_dictionaries(
                {},
                optional={
                    "namespaces": st.lists(
                        st.fixed_dictionaries(
                            {"type": st.sampled_from(["pid", "user", "uts", "network", "?"])},
                            optional={"path": st.sampled_from(["", "/proc/self/ns/net", "/no"])},
                        ),
                        max_size=3,
                    ),
                    "sysctl": st.dictionaries(st.text(max_size=5), st.text(max_size=3), max_size=2),
                    "devices": st.lists(
                        st.fixed_dictionaries(
                            {"path": st.text(max_size=5), "type": st.text(max_size=1)}
                        ),
                        max_size=2,
                    ),
                },
            ),
        },
    )
)
def test_any_values_are_a_plan_or_one_line(more: dict[str, object]) -> None:
    try:
        spec = config(**more)
        validate.spec(spec)
        plan.plan_mounts(spec.mounts, "/bundle")
        plan.plan_devices((spec.linux or oci.Linux()).devices)
    except (RuntimeFailure, SpecError) as error:
        assert str(error)
