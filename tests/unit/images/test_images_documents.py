"""Manifests and configs from anybody."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.images.changes import apply_changes
from gantry.images.platforms import HOST, Wanted, choose, matches, parse_platform
from gantry.model.errors import InvalidParameter
from gantry.oci.image import (
    DOCKER_MANIFEST,
    MAX_DOCUMENT,
    MAX_LAYERS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    format_time,
    parse_time,
    read_config,
    read_index,
    read_manifest,
)
from gantry.oci.image_digest import chain_ids

DIGEST = "sha256:" + "a" * 64
ONE = {"mediaType": "x", "digest": DIGEST, "size": 1}


def manifest(**fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": ONE, "layers": [ONE], **fields}).encode()


def test_manifest() -> None:
    found = read_manifest(manifest(mediaType=DOCKER_MANIFEST, unknown={"x": 1}))
    assert found.layers[0].digest == DIGEST


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'{"config": null}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        manifest(layers=[{**ONE, "size": -1}]),
        manifest(layers=[{**ONE, "size": 1 << 70}]),
        manifest(layers=[{**ONE, "digest": "sha256:../../../etc/passwd"}]),
        manifest(config={**ONE, "digest": "nonsense"}),
        manifest(layers=[ONE] * (MAX_LAYERS + 1)),
        manifest(mediaType=OCI_INDEX),
        manifest(manifests=[]),
        b" " * (MAX_DOCUMENT + 1),
    ],
)
def test_bad_manifests(data: bytes) -> None:
    with pytest.raises(InvalidParameter):
        read_manifest(data)


def test_index_that_is_a_manifest_too() -> None:
    """CVE-2021-41190: what one engine takes for an index, another for a manifest."""
    extras: list[dict[str, Any]] = [{"layers": []}, {"config": ONE}, {"mediaType": OCI_MANIFEST}]
    for extra in extras:
        with pytest.raises(InvalidParameter):
            read_index(json.dumps({"manifests": [ONE], **extra}).encode())
    assert read_index(json.dumps({"manifests": [ONE]}).encode()).manifests[0].size == 1


def test_config_as_old_builders_wrote_it() -> None:
    found = read_config(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "2015-01-02T03:04:05.123456789Z",
                "config": {
                    "Cmd": "single",
                    "Env": None,
                    "Labels": None,
                    "ExposedPorts": {"80/tcp": {}},
                    "Volumes": {"/data": None},
                    "Healthcheck": None,
                    "OnBuild": [],
                    "Memory": 0,
                },
                "history": None,
                "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
            }
        ).encode()
    )
    assert found.config.cmd == ["single"]
    assert found.config.volumes == {"/data": {}}
    assert found.config.exposed_ports == {"80/tcp": {}}
    assert found.diff_ids == (DIGEST,)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"rootfs": {"diff_ids": ["x"]}}',
        json.dumps({"rootfs": {"diff_ids": [DIGEST] * (MAX_LAYERS + 1)}}).encode(),
        b'{"rootfs": {}, "config": []}',
        b'{"rootfs": {}, "config": {"Env": [1]}}',
    ],
)
def test_bad_configs(data: bytes) -> None:
    with pytest.raises(InvalidParameter):
        read_config(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["config", "layers", "mediaType", "rootfs", "history", "manifests", "os"]),
        json_values | st.just(ONE) | st.lists(st.just(ONE)),
    )
)
def test_fuzz_documents(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    for reader in (read_manifest, read_index, read_config):
        with contextlib.suppress(InvalidParameter):
            reader(data)


@given(st.binary(max_size=300))
def test_fuzz_bytes(data: bytes) -> None:
    for reader in (read_manifest, read_index, read_config):
        with contextlib.suppress(InvalidParameter):
            reader(data)


def test_chain_ids() -> None:
    other = "sha256:" + "b" * 64
    first, second = chain_ids((DIGEST, other))
    assert first == DIGEST
    assert second == "sha256:" + hashlib.sha256(f"{DIGEST} {other}".encode()).hexdigest()


def test_times() -> None:
    assert parse_time("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert parse_time("2020-01-01T02:00:00+02:00") == parse_time("2020-01-01T00:00:00Z")
    assert parse_time("yesterday") is None
    assert parse_time("2020-13-01T00:00:00Z") is None
    assert format_time(1_500_000_000) == "1970-01-01T00:00:01.5Z"
    assert format_time(parse_time("0001-01-01T00:00:00Z") or 0) == "0001-01-01T00:00:00Z"


class TestPlatforms:
    def descriptor(self, *parts: str) -> Descriptor:
        os, architecture, *variant = parts
        return Descriptor(
            OCI_MANIFEST,
            DIGEST,
            len(parts),
            platform=Platform(architecture, os, variant="".join(variant)),
        )

    def test_choose(self) -> None:
        amd = self.descriptor("linux", "amd64")
        arm7 = self.descriptor("linux", "arm", "v7")
        arm6 = self.descriptor("linux", "arm", "v6")
        arm64 = self.descriptor("linux", "arm64", "v8")
        windows = self.descriptor("windows", "amd64")
        everything = [windows, arm6, arm7, arm64, amd]
        assert choose(everything, Wanted("linux", "amd64")) is amd
        assert choose(everything, Wanted("linux", "arm64")) is arm64
        assert choose(everything, Wanted("linux", "arm", "v7")) is arm7
        assert choose([arm6], Wanted("linux", "arm", "v7")) is arm6
        assert choose([arm7], Wanted("linux", "arm", "v6")) is None
        assert choose([arm7], Wanted("linux", "arm64")) is arm7
        assert choose(everything, Wanted("linux", "s390x")) is None

    def test_parse(self) -> None:
        assert parse_platform("linux/x86_64") == Wanted("linux", "amd64")
        assert parse_platform("arm64") == Wanted("linux", "arm64")
        assert parse_platform("linux/arm/7") == Wanted("linux", "arm", "v7")
        assert parse_platform("linux").architecture == HOST.architecture
        for bad in ("", "a/b/c/d", "linux/", "li nux/x"):
            with pytest.raises(InvalidParameter):
                parse_platform(bad)

    def test_matches(self) -> None:
        assert matches("linux", "arm", "", Wanted("linux", "arm", "v7"))
        assert matches("linux", "amd64", "", Wanted("linux", "amd64"))
        assert not matches("linux", "amd64", "", Wanted("linux", "arm64"))


class TestVariables:
    """`-c` changes know the config's environment, as Dockerfiles do."""

    @pytest.mark.parametrize(
        ("change", "env"),
        [
            ("ENV PATH=/usr/bin:$PATH", "PATH=/usr/bin:/bin"),
            ("ENV A='$PATH'", "A=$PATH"),
            (r"ENV A=\$PATH", "A=$PATH"),
            ('ENV A="x ${PATH} y"', "A=x /bin y"),
            ("ENV A=${NO:-else}", "A=else"),
            ("ENV A=${PATH:+there}", "A=there"),
            ("ENV A=${EMPTY-else}", "A="),
            ("ENV A=${EMPTY:-${PATH}}", "A=/bin"),
            ("ENV A=$NO/x", "A=/x"),
            ("ENV A=5$", "A=5$"),
            ("ENV A $PATH too", "A=/bin too"),
        ],
    )
    def test_env(self, change: str, env: str) -> None:
        found = apply_changes({"Env": ["PATH=/bin", "EMPTY="]}, [change])
        assert env in found["Env"]

    def test_elsewhere(self) -> None:
        config = {"Env": ["P=80", "W=/w"]}
        changes = ["EXPOSE $P", "WORKDIR $W/x", "VOLUME $W", "LABEL a=$P", "CMD echo $P"]
        found = apply_changes(config, changes)
        assert (found["ExposedPorts"], found["WorkingDir"]) == ({"80/tcp": {}}, "/w/x")
        assert (found["Volumes"], found["Labels"]) == ({"/w": {}}, {"a": "80"})
        assert found["Cmd"] == ["/bin/sh", "-c", "echo $P"]

    @pytest.mark.parametrize("bad", ["ENV A=${B", "ENV A=${}", "ENV A=${B:?no B}", "ENV A=${B!x}"])
    def test_bad(self, bad: str) -> None:
        with pytest.raises(InvalidParameter):
            apply_changes({}, [bad])


def test_a_health_check_of_no_kind() -> None:
    with pytest.raises(InvalidParameter, match=r'^Unknown type "X" in HEALTHCHECK \(try CMD\)$'):
        apply_changes({}, ["HEALTHCHECK x"])
