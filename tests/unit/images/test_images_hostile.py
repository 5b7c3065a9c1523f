"""Damaged and made-up archives of images: an error or whole images, and never a remainder."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.support.imagebox import ImageBox, archive, config, digest, docker_archive, layer, layout

from gantry.model.errors import GantryError

BASE = layer({"a": "1", "b/c": "2", "d": None})
TOP = layer({".wh.a": b"", "b/.wh..wh..opq": b"", "e": "5"})
WHOLE = [
    docker_archive([BASE, TOP], ["docker:1"]),
    layout([BASE, TOP], name="docker.io/library/layout:1"),
    gzip.compress(docker_archive([BASE], ["packed:1"]), mtime=0),
]


def survives(data: bytes) -> None:
    """Load it; what is listed then is whole, and nothing else is there."""

    async def body(root: Path) -> None:
        async with ImageBox(root, "vfs") as box:
            with contextlib.suppress(GantryError):
                await box.load(data)
            damage = [found async for found in box.images.verify() if found.damage]
            assert damage == []
            images = box.images.catalog.images.values()
            chains = {chain for image in images for chain in image.chain_ids}
            assert {info.name for info in box.snapshots.walk()} == chains
            for blob in box.content.walk():
                assert box.images.catalog.uses_blob(blob.digest)
            assert box.content.ingests() == []

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(body(Path(folder) / "box"))
        assert [path.name for path in Path(folder).iterdir()] == ["box"]


edits = st.tuples(
    st.sampled_from(["set", "cut", "drop", "repeat"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
)


def edited(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """Bytes set, cut off behind, taken out or doubled; places as parts of the whole."""
    for kind, place, value in changes:
        at = int(place * len(data))
        if kind == "set":
            data = data[:at] + bytes([value]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:at] + data[at + value * 2 :]
        else:
            data = data[:at] + data[at : at + value * 2] + data[at:]
    return data


slow = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@slow
@given(st.sampled_from(WHOLE), st.lists(edits, min_size=1, max_size=4))
def test_damaged_archives(data: bytes, changes: list[tuple[str, float, int]]) -> None:
    survives(edited(data, changes))


LAYER = digest(BASE)
CONFIG = config([LAYER])
paths = st.sampled_from(
    ["config.json", "layer.tar", "link", "loop", "../x", "/etc/passwd", "", "."]
)
texts = st.sampled_from(["a:1", "UPPER", "x@sha256:" + "a" * 64, "a" * 300, "\udcff", "\x00", ""])
items = st.fixed_dictionaries(
    {},
    optional={
        "Config": paths | st.none() | st.integers(),
        "Layers": st.lists(paths, max_size=3) | st.none() | st.text(max_size=3),
        "RepoTags": st.lists(texts | st.integers(), max_size=3) | st.none(),
        "Parent": texts,
    },
)


@slow
@given(st.lists(items, max_size=3))
@example([{"Config": "config.json", "Layers": ["layer.tar"], "RepoTags": ["a:1"]}])
@example([{"Config": "config.json", "Layers": ["link"], "RepoTags": ["\ud800"]}])
def test_made_up_manifests(manifest: list[dict[str, Any]]) -> None:
    text = json.dumps(manifest).encode()
    survives(archive([("config.json", CONFIG), ("layer.tar", BASE), ("manifest.json", text)]))


OCI = "application/vnd.oci.image"
descriptors = st.fixed_dictionaries(
    {
        "mediaType": st.sampled_from(
            [f"{OCI}.manifest.v1+json", f"{OCI}.index.v1+json", f"{OCI}.layer.v1.tar", "x", ""]
        ),
        "digest": st.sampled_from(
            [LAYER, digest(CONFIG), "manifest", "index", "sha256:" + "a" * 64, "sha256:../x", ""]
        ),
        "size": st.sampled_from([0, len(BASE), len(CONFIG), -1, 1 << 70]),
    },
    optional={
        "platform": st.just({"os": "linux", "architecture": "s390x"}),
        "annotations": st.dictionaries(st.just("io.containerd.image.name"), texts, max_size=1),
    },
)
manifests = st.fixed_dictionaries(
    {"schemaVersion": st.just(2)},
    optional={
        "config": descriptors,
        "layers": st.lists(descriptors, max_size=3),
        "manifests": st.lists(descriptors, max_size=2),
        "mediaType": st.sampled_from([f"{OCI}.manifest.v1+json", f"{OCI}.index.v1+json", "x"]),
    },
)


@slow
@given(manifests, manifests, st.lists(descriptors, max_size=3))
def test_made_up_layouts(
    manifest: dict[str, Any], index: dict[str, Any], top: list[dict[str, Any]]
) -> None:
    raw = json.dumps(manifest).encode()
    middle = json.dumps(index).replace('"manifest"', f'"{digest(raw)}"').encode()
    text = json.dumps({"schemaVersion": 2, "manifests": top})
    text = text.replace('"manifest"', f'"{digest(raw)}"').replace('"index"', f'"{digest(middle)}"')
    blobs = [(f"blobs/sha256/{digest(one)[7:]}", one) for one in (BASE, CONFIG, raw, middle)]
    survives(archive([*blobs, ("oci-layout", b"{}"), ("index.json", text.encode())]))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'[{"Config": ' * 50_000,
        b'[{"Config": "' + b"../" * 50_000 + b'"}]',
        b'[{"Config": "config.json", "Layers": [' + b'"layer.tar",' * 50_000 + b'"layer.tar"]}]',
        b'[{"Config": "config.json", "Layers": ["layer.tar"]}' + b" " * (5 << 20) + b"]",
        b'[{"Config": 1e999}]',
    ],
    ids=["arrays", "objects", "path", "layers", "long", "number"],
)
def test_bombs(text: bytes) -> None:
    survives(archive([("config.json", CONFIG), ("layer.tar", BASE), ("manifest.json", text)]))


def test_symlinks_in_a_circle(tmp_path: Path) -> None:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, target in (("a", "b"), ("b", "a")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        info = tarfile.TarInfo("manifest.json")
        text = b'[{"Config": "a", "Layers": ["b"]}]'
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    survives(out.getvalue())


def test_thousands_of_layers() -> None:
    layers = ["sha256:" + f"{number:064x}" for number in range(5000)]
    document = config(layers)
    listed = json.dumps([{"Config": "c", "Layers": ["layer.tar"] * 5000, "RepoTags": ["a:1"]}])
    survives(archive([("c", document), ("layer.tar", BASE), ("manifest.json", listed.encode())]))
