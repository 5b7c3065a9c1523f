"""A big image (300 MB, 20,000 files, six layers), as an archive and in registries.

Text-like files that gzip makes about two and a half times smaller, as those of usual images.
Made once a run, in a scratch folder that goes with the process. Each measurement has a
variant of its own, of which an engine has no layer, so that nothing has to be removed in
between: what an engine does after that costs as much as with the file system's own memory of
it (see `bench.disk`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import io
import itertools
import json
import random
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isal import igzip
from tests.support.engine import Engine

LAYERS = 6
NAME = "big"
_WORDS = 4 << 20
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Big:
    """One variant. layers, packed: plain and compressed, by digest."""

    name: str
    config: bytes
    layers: dict[str, list[bytes]]
    packed: dict[str, list[bytes]]
    manifest: bytes

    @property
    def size(self) -> int:
        """Bytes of the layers."""
        return sum(len(part) for parts in self.layers.values() for part in parts)

    @property
    def tag(self) -> str:
        """Without the repository."""
        return self.name.partition(":")[2]


@functools.cache
def _base(quick: bool) -> list[tuple[bytes, bytes]]:
    """What all variants share, plain and compressed; a tenth of it for a quick run."""
    files, size = (2_000, 30 << 20) if quick else (20_000, 300 << 20)
    layers = [_layer(number, files // LAYERS, size // files) for number in range(LAYERS)]
    return [(layer, igzip.compress(layer, 2)) for layer in layers]


def variant(quick: bool) -> Big:
    """Return an image that no engine has seen: each layer begins with a file of its own."""
    number = next(_NUMBERS)
    info = tarfile.TarInfo(f"variant-{number}")
    first = info.tobuf()
    layers: dict[str, list[bytes]] = {}
    packed: dict[str, list[bytes]] = {}
    for plain, small in _base(quick):
        parts, members = [first, plain], [igzip.compress(first, 2), small]
        layers[_digest(*parts)] = parts
        packed[_digest(*members)] = members
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": list(layers)},
            "history": [{"created": "2024-01-01T00:00:00Z"} for _ in layers],
        }
    ).encode()
    described = [
        {"mediaType": _LAYER, "digest": digest, "size": sum(map(len, parts))}
        for digest, parts in packed.items()
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "digest": _digest(config), "size": len(config)},
        "layers": described,
    }
    return Big(f"{NAME}:{number}", config, layers, packed, json.dumps(manifest).encode())


def _layer(number: int, files: int, size: int) -> bytes:
    chance = random.Random(number)
    words = [bytes(chance.choices(range(97, 123), k=chance.randint(2, 9))) for _ in range(5000)]
    text = b" ".join(chance.choices(words, k=_WORDS // 6))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in range(files // 50 + 1):
            info = tarfile.TarInfo(f"usr/lib/{number}/{folder}")
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
            tar.addfile(info)
        for file in range(files):
            info = tarfile.TarInfo(f"usr/lib/{number}/{file // 50}/file-{file}.txt")
            info.size = chance.randint(size // 2, size + size // 2)
            info.mtime = 1_700_000_000 + file
            start = chance.randrange(len(text) - info.size)
            tar.addfile(info, io.BytesIO(text[start : start + info.size]))
    return out.getvalue()


def _archive(image: Big) -> Iterator[bytes]:
    """Yield what `docker save` of the classic store makes."""
    names = [f"{digest[7:]}/layer.tar" for digest in image.layers]
    config = f"{_digest(image.config)[7:]}.json"
    index = [{"Config": config, "RepoTags": [image.name], "Layers": names}]
    yield from _member(config, [image.config])
    for name, parts in zip(names, image.layers.values(), strict=True):
        yield from _member(name, parts)
    yield from _member("manifest.json", [json.dumps(index).encode()])
    yield bytes(1024)


def _member(name: str, parts: list[bytes]) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = sum(map(len, parts))
    yield info.tobuf()
    yield from parts
    yield bytes(-info.size % 512)


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return "sha256:" + found.hexdigest()


# ---- registries


class _Connection(http.client.HTTPConnection):
    """A connection within an engine's network namespace."""

    def __init__(self, engine: Engine, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self._engine = engine

    def connect(self) -> None:
        self.sock = self._engine.machine.host.socket(socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect((self.host, self.port))


def _ask(engine: Engine, port: int, method: str, path: str, body: Any = b"", kind: str = "") -> str:
    """Ask the registry; return the location it names."""
    connection = _Connection(engine, port)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"registry: {method} {path}: {answer.status}")
        return str(answer.getheader("Location") or "")


@contextlib.contextmanager
def registry(engine: Engine, port: int, image: Big | None = None) -> Iterator[str]:
    """Debian's docker-registry beside an engine, with an image in it; yield its address."""
    folder = Path(tempfile.mkdtemp(prefix="gantry-bench-registry-"))
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    command = ["docker-registry", "serve", str(folder / "config.yml")]
    process = subprocess.Popen(
        [*engine.machine.host.command, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(engine, port)
        if image is not None:
            _fill(engine, port, image)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await(engine: Engine, port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            _ask(engine, port, "GET", "/v2/")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _fill(engine: Engine, port: int, image: Big) -> None:
    def blob(digest: str, data: bytes) -> None:
        place = _ask(engine, port, "POST", f"/v2/{NAME}/blobs/uploads/")
        path = "/" + place.partition("://")[2].partition("/")[2] if "://" in place else place
        joint = "&" if "?" in path else "?"
        _ask(engine, port, "PUT", f"{path}{joint}digest={digest}", data, "application/octet-stream")

    for digest, parts in image.packed.items():
        blob(digest, b"".join(parts))
    blob(_digest(image.config), image.config)
    _ask(engine, port, "PUT", f"/v2/{NAME}/manifests/{image.tag}", image.manifest, _MANIFEST)


# ---- what all rows do


def load(engine: Engine, image: Big) -> float:
    """Load the archive; return the seconds it took."""
    pieces = list(_archive(image))
    size = sum(map(len, pieces))
    head = "POST /v1.41/images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\n"
    head += f"Content-Type: application/x-tar\r\nContent-Length: {size}\r\n"
    began = time.perf_counter()
    with engine.api("1.41") as api, api.connect() as wire:
        wire.sock.sendall((head + "Connection: close\r\n\r\n").encode())
        for piece in pieces:
            wire.sock.sendall(piece)
        answer = wire.rest()
    assert b"Loaded image" in answer, answer
    return time.perf_counter() - began


def pull(engine: Engine, address: str, image: Big) -> float:
    """Pull the image from a registry; return the seconds it took."""
    began = time.perf_counter()
    with engine.api("1.41") as api:
        params: dict[str, Any] = {"fromImage": f"{address}/{NAME}", "tag": image.tag}
        answer = api.post("/images/create", params).expect(200).body
    assert b"error" not in answer, answer[-500:]
    return time.perf_counter() - began
