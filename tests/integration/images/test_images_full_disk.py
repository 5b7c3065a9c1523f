"""Archives that are more than the disk holds: a clear error, and all of it is given back."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.disks import disk
from tests.support.imagebox import ImageBox, archive, config, digest, docker_archive, layer

from gantry.model.errors import GantryError

pytestmark = pytest.mark.integration

Body = Callable[[ImageBox], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[Body], None]]:
    """Give a body a box on a file system of 48 MiB and 2,000 or so inodes."""
    make = ["mkfs.ext4", "-q", "-N", "2000", "-m", "0"]
    with disk(tmp_path, 48 << 20, make) as point:

        async def main(body: Body) -> None:
            async with ImageBox(point / "box") as box:
                await body(box)

        yield lambda body: asyncio.run(main(body))


def packed(plain: bytes) -> bytes:
    """An archive with one compressed layer."""
    document = config([digest(plain)])
    items = [{"Config": "c", "RepoTags": ["bomb:1"], "Layers": ["layer.tar.gz"]}]
    members = [("c", document), ("layer.tar.gz", gzip.compress(plain, 1, mtime=0))]
    return archive([*members, ("manifest.json", json.dumps(items).encode())])


def many_files(count: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(count):
            tar.addfile(tarfile.TarInfo(f"{number}"))
    return out.getvalue()


BOMBS = {
    "data": packed(layer({"zeros": bytes(100 << 20)})),
    "files": packed(many_files(5000)),
    "blob": docker_archive([layer({"zeros": bytes(100 << 20)})], ["bomb:1"]),
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_more_than_there_is(run: Callable[[Body], None], kind: str) -> None:
    async def body(box: ImageBox) -> None:
        await box.load(docker_archive([layer({"a": "1"})], ["good:1"]))
        before = box.files()
        free = space(box)
        with pytest.raises(GantryError, match="No space left on device"):
            await box.load(BOMBS[kind])
        assert box.files() == before
        assert [*box.images.catalog.references.values()] == [box.images.resolve("good:1").id]
        assert {info.name for info in box.snapshots.walk()} == {
            box.images.resolve("good:1").chain_id
        }
        assert space(box) >= free - 100
        await box.load(docker_archive([layer({"b": "2"})], ["after:1"]))
        assert [found.damage async for found in box.images.verify() if found.damage] == []

    run(body)


def space(box: ImageBox) -> int:
    """Free blocks and inodes."""
    found = os.statvfs(box.root)
    return found.f_bfree + found.f_ffree
