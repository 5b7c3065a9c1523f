"""A whole image service on a temporary folder, and archives to feed it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gantry.content.store import ContentStore
from gantry.images.engine import Images
from gantry.model.snapshot import Snapshotter
from gantry.snapshots.overlay import OverlaySnapshotter
from gantry.snapshots.vfs import VfsSnapshotter
from gantry.testing.images import FixedUsers, MemoryImageStore, RecordedEvents

Json = dict[str, Any]


class ImageBox:
    """`images` with its parts. `again` is a new process on the same disk."""

    def __init__(self, root: Path, driver: str = "overlay2") -> None:
        self.root = root
        self.driver = driver
        self.store = MemoryImageStore()
        self.users = FixedUsers()
        self.open()

    def open(self) -> None:
        self.events = RecordedEvents()
        self.content = ContentStore(str(self.root / "content"))
        kinds: dict[str, type[OverlaySnapshotter] | type[VfsSnapshotter]] = {
            "overlay2": OverlaySnapshotter,
            "vfs": VfsSnapshotter,
        }
        self.snapshots: Snapshotter = kinds[self.driver](str(self.root / self.driver))
        self.images = Images(self.content, self.snapshots, self.store, self.events, self.users)

    async def __aenter__(self) -> ImageBox:
        await self.images.recover()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.images.aclose()
        self.snapshots.close()

    async def load(self, archive: bytes, piece: int = 100_000) -> list[Json]:
        return await collect(self.images.load(pieces(archive, piece), quiet=False))

    async def import_(self, archive: bytes, repo: str = "", **options: Any) -> str:
        fields: Json = {"tag": "", "message": "", "changes": (), "platform": "", **options}
        messages = await collect(self.images.import_(pieces(archive), repo=repo, **fields))
        return str(messages[-1]["status"])

    async def save(self, *names: str) -> bytes:
        out = [piece async for piece in self.images.save(names, platform="")]
        return b"".join(out)

    def files(self) -> set[str]:
        """What lies on the disk, but for the drivers' random folder names."""
        self.snapshots.cleanup()
        return {
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if path.relative_to(self.root).parts[0] == "content"
        }


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def collect(messages: AsyncIterator[Json]) -> list[Json]:
    return [message async for message in messages]


def layer(files: Mapping[str, str | bytes | None]) -> bytes:
    """A layer tar: text is a file, None a folder, `.wh.` names are whiteouts."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.mtime = os.geteuid(), os.getegid(), 1_700_000_000
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                data = content.encode() if isinstance(content, str) else content
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def config(diff_ids: Sequence[str], **fields: Any) -> bytes:
    document = {
        "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "created": "2024-05-06T07:08:09.5Z",
        "config": {"Cmd": ["sh"], "Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [
            {"created": "2024-05-06T07:08:09Z", "created_by": f"step {number}"}
            for number in range(len(diff_ids))
        ],
        **fields,
    }
    return json.dumps(document).encode()


def archive(members: Iterable[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def docker_archive(
    layers: Sequence[bytes], tags: Sequence[str] = ("test:latest",), **fields: Any
) -> bytes:
    """As `docker save` of before version 25 wrote it."""
    document = config([digest(one) for one in layers], **fields)
    name = digest(document)[7:] + ".json"
    paths = [f"{digest(one)[7:]}/layer.tar" for one in layers]
    names = [tag if ":" in tag else tag + ":latest" for tag in tags] or None
    manifest = json.dumps([{"Config": name, "RepoTags": names, "Layers": paths}])
    return archive(
        [*zip(paths, layers, strict=True), (name, document), ("manifest.json", manifest.encode())]
    )


def layout(layers: Sequence[bytes], *, name: str = "", media: str = "", **fields: Any) -> bytes:
    """An OCI image layout; layers may be compressed, diff_ids then says what is inside."""
    diff_ids = fields.pop("diff_ids", None) or [digest(one) for one in layers]
    document = config(diff_ids, **fields)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(document),
                "size": len(document),
            },
            "layers": [
                {
                    "mediaType": media or "application/vnd.oci.image.layer.v1.tar",
                    "digest": digest(one),
                    "size": len(one),
                }
                for one in layers
            ],
        }
    ).encode()
    entry: Json = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(manifest),
        "size": len(manifest),
    }
    if name:
        entry["annotations"] = {"io.containerd.image.name": name}
    blobs = [*layers, document, manifest]
    return archive(
        [
            ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
            ("index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()),
            *((f"blobs/sha256/{digest(blob)[7:]}", blob) for blob in blobs),
        ]
    )


BASE = layer({"etc": None, "etc/os": "base", "gone": "x"})
TOP = layer({"etc/os": "top", ".wh.gone": b"", "big": b"z" * 2_000_000})
"""Two layers of an image."""

Body = Callable[[ImageBox], Awaitable[None]]
"""What a test does with a box."""
