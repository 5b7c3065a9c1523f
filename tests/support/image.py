"""A small image from Debian's busybox-static, as a root file system tar or a loadable one."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
NAME = "busybox:latest"
PASSWD = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
GROUP = "root:x:0:\nuser:x:1000:\naudio:x:29:user\nstaff:x:50:\n"
DIRECTORIES = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "home/user": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "var": 0o755,
    "www": 0o755,
}


def _member(name: str, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.mtime = mode, kind, 1_700_000_000
    return info


def add_file(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    """Add a regular file."""
    info = _member(name, mode)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def add_directory(tar: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    """Add a directory."""
    tar.addfile(_member(name, mode, tarfile.DIRTYPE))


def add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    """Add a symbolic link."""
    info = _member(name, 0o777, tarfile.SYMTYPE)
    info.linkname = target
    tar.addfile(info)


@functools.cache
def rootfs() -> bytes:
    """Return the tar of the root file system."""
    out = io.BytesIO()
    listing = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, mode in DIRECTORIES.items():
            add_directory(tar, name, mode)
        add_file(tar, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in listing.stdout.split():
            if applet != "busybox":
                add_link(tar, f"bin/{applet}", "busybox")
        add_file(tar, "etc/passwd", PASSWD.encode())
        add_file(tar, "etc/group", GROUP.encode())
        add_file(tar, "www/index.html", b"a page from a container\n")
    return out.getvalue()


def config(layers: list[bytes], **extra: object) -> bytes:
    """Return an image config of uncompressed `layers`; `extra` goes into its `config`."""
    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    value = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"], **extra},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "test"} for _ in layers],
    }
    return json.dumps(value).encode()


def docker_archive(name: str, layers: list[bytes] | None = None, **extra: object) -> bytes:
    """Return what `docker save` would make (the classic form), with `name` as its tag."""
    blobs = layers if layers is not None else [rootfs()]
    described = config(blobs, **extra)
    digest = hashlib.sha256(described).hexdigest()
    names = [f"{hashlib.sha256(blob).hexdigest()}/layer.tar" for blob in blobs]
    manifest = [{"Config": f"{digest}.json", "RepoTags": [name], "Layers": names}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        add_file(tar, f"{digest}.json", described)
        for path, blob in zip(names, blobs, strict=True):
            add_directory(tar, path.split("/", maxsplit=1)[0])
            add_file(tar, path, blob)
        add_file(tar, "manifest.json", json.dumps(manifest).encode())
    return out.getvalue()


def oci_layout(name: str, layers: list[bytes] | None = None, **extra: object) -> bytes:
    """Return the tar of an OCI image layout whose index names `name`."""
    blobs = layers if layers is not None else [rootfs()]
    described = config(blobs, **extra)

    def descriptor(media: str, data: bytes) -> dict[str, object]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        return {"mediaType": media, "digest": digest, "size": len(data)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", described),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", b) for b in blobs],
        }
    ).encode()
    entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["annotations"] = {
        "io.containerd.image.name": f"docker.io/library/{name}",
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        add_directory(tar, "blobs")
        add_directory(tar, "blobs/sha256")
        for blob in [described, manifest, *blobs]:
            add_file(tar, "blobs/sha256/" + hashlib.sha256(blob).hexdigest(), blob)
        add_file(tar, "index.json", index)
        add_file(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return out.getvalue()
