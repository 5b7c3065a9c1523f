"""config.json as values, strictly; and a fuzz of the decoder."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.model.record import Record
from gantry.oci import runtime_spec as oci
from gantry.oci.codec import SpecError, json_name

MINIMAL = {"ociVersion": "1.2.0"}


def decoded(**more: object) -> oci.Spec:
    return oci.parse({**MINIMAL, **more})


def test_defaults() -> None:
    spec = decoded(process={"cwd": "/"})
    assert spec.process is not None
    assert spec.process.args == ()
    assert spec.process.user.uid == 0
    assert spec.linux is None


def test_every_part_goes_round() -> None:
    document = {
        "ociVersion": "1.2.0",
        "process": {
            "cwd": "/",
            "terminal": True,
            "consoleSize": {"height": 1, "width": 2},
            "args": ["a"],
            "env": ["A=b"],
            "user": {"uid": 1, "gid": 2, "additionalGids": [3], "umask": 0},
            "capabilities": {"bounding": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_CORE", "hard": 18446744073709551615, "soft": 0}],
            "noNewPrivileges": True,
            "oomScoreAdj": -5,
            "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 3},
            "execCPUAffinity": {"initial": "0", "final": "1"},
            "scheduler": {"policy": "SCHED_OTHER", "nice": -1},
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {
                "destination": "/a",
                "type": "bind",
                "source": "/b",
                "options": ["bind"],
                "uidMappings": [{"containerID": 0, "hostID": 1, "size": 2}],
            }
        ],
        "hooks": {"poststop": [{"path": "/h", "timeout": 3}]},
        "linux": {
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "memory": {"limit": 1, "disableOOMKiller": True, "kernelTCP": 4},
                "cpu": {"shares": 2, "quota": -1},
                "blockIO": {
                    "weight": 10,
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
                },
                "network": {"classID": 1, "priorities": [{"name": "e", "priority": 1}]},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
                "unified": {"a.b": "c"},
                "rdma": {"mlx": {"hcaHandles": 3}},
            },
            "namespaces": [{"type": "pid"}],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {
                        "names": ["x"],
                        "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}],
                    }
                ],
            },
            "timeOffsets": {"boottime": {"secs": -3, "nanosecs": 4}},
            "intelRdt": {"closID": "x"},
        },
    }
    spec = oci.parse(document)
    assert oci.parse(json.loads(json.dumps(oci.dump(spec)))) == spec
    # False is the default of `allow`, and left out; nothing else is lost or changed.
    text = json.dumps(document, sort_keys=True).replace(', "allow": false', "")
    assert json.dumps(oci.dump(spec), sort_keys=True) == text


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], "document: expected object, got array"),
        ({}, "ociVersion: is required"),
        ({"ociVersion": 1}, "ociVersion: expected string, got number"),
        ({**MINIMAL, "process": []}, "process: expected object, got array"),
        ({**MINIMAL, "process": {}}, "process.cwd: is required"),
        (
            {**MINIMAL, "process": {"cwd": "/", "args": ["a", 1]}},
            "process.args[1]: expected string, got number",
        ),
        (
            {**MINIMAL, "process": {"cwd": "/", "terminal": "yes"}},
            "process.terminal: expected boolean, got string",
        ),
        (
            {**MINIMAL, "process": {"cwd": "/", "user": {"uid": -1}}},
            "process.user.uid: -1 is out of range (0 to 4294967295)",
        ),
        (
            {**MINIMAL, "process": {"cwd": "/", "user": {"uid": True}}},
            "process.user.uid: expected integer, got boolean",
        ),
        (
            {**MINIMAL, "process": {"cwd": "/\0"}},
            "process.cwd: a string must not contain a NUL character",
        ),
        (
            {**MINIMAL, "linux": {"sysctl": {"a": 1}}},
            "linux.sysctl.a: expected string, got number",
        ),
        (
            {**MINIMAL, "linux": {"resources": {"memory": {"limit": 1.5}}}},
            "linux.resources.memory.limit: expected integer, got number",
        ),
        (
            {**MINIMAL, "mounts": [{"source": "x"}]},
            "mounts[0].destination: is required",
        ),
    ],
)
def test_errors_name_the_field(document: object, text: str) -> None:
    with pytest.raises(SpecError) as caught:
        oci.parse(document)
    assert str(caught.value) == text


@pytest.mark.parametrize("text", ["", "{", "[1,", "\x00", "[" * 100_000, '{"ociVersion": NaN'])
def test_bad_json(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        oci.loads(text)
    assert "\n" not in str(caught.value)


def test_unknown_fields_are_ignored() -> None:
    assert decoded(vm={"x": 1}, process={"cwd": "/", "new": []}).process is not None


def test_json_names() -> None:
    assert json_name("no_new_privileges") == "noNewPrivileges"
    assert json_name("throttle_write_iops_device") == "throttleWriteIOPSDevice"


def test_records_are_frozen_values() -> None:
    first = oci.Namespace(type="pid")
    assert first == oci.Namespace(type="pid", path="")
    assert first != oci.Namespace(type="net")
    assert hash(first) == hash(oci.Namespace(type="pid"))
    with pytest.raises(AttributeError):
        first.path = "/x"  # type: ignore[misc]  # the point of the test
    with pytest.raises(TypeError):
        first.replace(nonesuch=1)
    assert isinstance(first.replace(path="/y"), Record)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["ociVersion", "process", "args", "cwd", "user", "uid", "linux", "namespaces", "type",
             "resources", "memory", "limit", "mounts", "destination", "options", "hooks", "path",
             "prestart", "root", "sysctl", "seccomp", "syscalls", "names", "devices", "unified"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_any_document_is_a_spec_or_one_line(document: object) -> None:
    try:
        spec = oci.parse(document)
    except SpecError as error:
        assert str(error)
        assert "\n" not in str(error).replace("\\n", "")
    else:
        assert oci.parse(oci.dump(spec)) == spec
