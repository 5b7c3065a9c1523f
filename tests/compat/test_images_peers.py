"""Archives between us and others: the same digests on both sides."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.imagebox import ImageBox, digest, docker_archive, layer

from gantry.images.create import CommitRequest
from gantry.model.image import Image
from gantry.oci.image_reference import parse

pytestmark = pytest.mark.compat

BASE = layer({"etc": None, "etc/os": "base", "gone": "x"})
TOP = layer({"etc/os": "top", ".wh.gone": b"", "big": bytes(range(256)) * 10_000})


def in_box(root: Path, body: Callable[[ImageBox], Awaitable[None]]) -> None:
    async def main() -> None:
        async with ImageBox(root) as box:
            await body(box)

    asyncio.run(main())


def saved(root: Path, file: Path) -> Image:
    """An image of ours, made in every way there is, saved as `made:1`."""
    found: list[Image] = []

    async def body(box: ImageBox) -> None:
        await box.load(docker_archive([BASE, TOP], ["base:1"]))
        base = box.images.resolve("base:1")
        box.snapshots.prepare("c", base.chain_id)
        (Path(box.snapshots.layer("c").path) / "new").write_text("new")
        image = await box.images.commit(
            CommitRequest(
                "c", base.id, "c" * 64, {"Cmd": ["x"]}, {"Cmd": ["y"]}, reference=parse("made:1")
            )
        )
        file.write_bytes(await box.save("made:1"))
        found.append(image)

    in_box(root, body)
    return found[0]


@pytest.fixture
def dockerd(tmp_path: Path) -> Iterator[list[str]]:
    """A `docker` command line for a real dockerd of the test's own."""
    program = shutil.which("dockerd") or "/usr/sbin/dockerd"
    if not Path(program).exists():
        pytest.skip("dockerd is not installed")
    socket = tmp_path / "d.sock"
    with (tmp_path / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(program, "-H", f"unix://{socket}", "--data-root", str(tmp_path / "data")),
                *("--exec-root", str(tmp_path / "exec"), "--pidfile", str(tmp_path / "pid")),
                *("--bridge", "none", "--iptables=false", "--ip-masq=false"),
            ],
            stdout=log,
            stderr=log,
        )
    command = ["docker", "-H", f"unix://{socket}"]
    deadline = time.monotonic() + 40
    while subprocess.run([*command, "version"], capture_output=True).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.skip("dockerd does not start: " + (tmp_path / "dockerd.log").read_text()[-500:])
        time.sleep(0.1)
    yield command
    process.terminate()
    process.wait(30)


def test_dockerd(dockerd: list[str], tmp_path: Path) -> None:
    ours = saved(tmp_path / "one", tmp_path / "ours.tar")
    _run(*dockerd, "load", "-i", str(tmp_path / "ours.tar"))
    [found] = json.loads(_run(*dockerd, "inspect", "made:1"))
    assert found["Id"] == ours.id
    assert found["RootFS"]["Layers"] == list(ours.diff_ids)
    assert found["Size"] == ours.size
    _run(*dockerd, "tag", "made:1", "back:2")
    _run(*dockerd, "save", "-o", str(tmp_path / "theirs.tar"), "back:2")

    async def body(box: ImageBox) -> None:
        await box.load((tmp_path / "theirs.tar").read_bytes())
        again = box.images.resolve("back:2")
        assert again.id == ours.id
        assert again.layer_sizes == ours.layer_sizes

    in_box(tmp_path / "two", body)


def test_skopeo(tmp_path: Path) -> None:
    _need("skopeo")
    ours = saved(tmp_path / "one", tmp_path / "ours.tar")
    (tmp_path / "layout").mkdir()
    _run("tar", "xf", str(tmp_path / "ours.tar"), "-C", str(tmp_path / "layout"))
    for source in (f"docker-archive:{tmp_path}/ours.tar:made:1", f"oci:{tmp_path}/layout:1"):
        config = _run("skopeo", "inspect", "--config", "--raw", source)
        assert digest(config.rstrip("\n").encode()) == ours.id
    for kind in ("docker-archive", "oci-archive"):
        target = tmp_path / f"{kind}.tar"
        _run(
            *("skopeo", "copy", f"docker-archive:{tmp_path}/ours.tar:made:1"),
            f"{kind}:{target}:again:1",
        )

        async def body(box: ImageBox, file: Path = target) -> None:
            await box.load(file.read_bytes())
            [image] = box.images.catalog.images.values()
            assert image.diff_ids == ours.diff_ids
            if "docker" in file.name:  # for OCI, skopeo writes the config anew
                assert image.id == ours.id

        in_box(tmp_path / kind, body)


def test_podman(tmp_path: Path) -> None:
    _need("podman")
    ours = saved(tmp_path / "one", tmp_path / "ours.tar")
    podman = [
        *("podman", "--root", str(tmp_path / "p"), "--runroot", str(tmp_path / "r")),
        *("--storage-driver", "vfs"),
    ]
    try:
        _run(*podman, "load", "-i", str(tmp_path / "ours.tar"))
        [found] = json.loads(_run(*podman, "image", "inspect", "made:1"))
        assert "sha256:" + found["Id"] == ours.id
        for kind in ("docker-archive", "oci-archive"):
            target = tmp_path / f"{kind}.tar"
            _run(*podman, "save", "--format", kind, "-o", str(target), "made:1")

            async def body(box: ImageBox, target: Path = target) -> None:
                await box.load(target.read_bytes())
                [image] = box.images.catalog.images.values()
                assert image.diff_ids == ours.diff_ids

            in_box(tmp_path / kind, body)
    finally:
        subprocess.run([*podman, "rmi", "--all", "--force"], capture_output=True)


def test_tar_reads_what_we_write(tmp_path: Path) -> None:
    """GNU tar, with every kind of entry."""
    import os

    from gantry.archive.diff import tree

    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    (top / "d" / ("n" * 200)).write_text("long")
    (top / "d" / "übung").write_text("text")
    (top / "link").symlink_to("x" * 150)
    os.link(top / "d" / "übung", top / "hard")
    os.mkfifo(top / "pipe")
    os.chown(top / "d", 5_000_000, 6)
    fd = os.open(top, os.O_RDONLY)
    (tmp_path / "t.tar").write_bytes(b"".join(tree(fd)))
    os.close(fd)
    (tmp_path / "out").mkdir()
    _run("tar", "--numeric-owner", "-xpf", str(tmp_path / "t.tar"), "-C", str(tmp_path / "out"))
    os.unlink(top / "pipe")
    os.unlink(tmp_path / "out" / "pipe")
    _run("diff", "-r", "--no-dereference", str(top), str(tmp_path / "out"))
    assert (tmp_path / "out" / "d").stat().st_uid == 5_000_000
    assert (tmp_path / "out" / "hard").stat().st_nlink == 2


def _need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
