"""Archives in and out, over real files: load, save, import."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from tests.support.imagebox import (
    BASE,
    TOP,
    Body,
    ImageBox,
    archive,
    collect,
    config,
    digest,
    docker_archive,
    layer,
    layout,
    pieces,
)

from gantry.images.create import CommitRequest
from gantry.model.errors import GantryError, InvalidParameter, NotFound
from gantry.oci.image_reference import parse


def test_load_and_look(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        messages = await box.load(docker_archive([BASE, TOP], ["one:1", "two"]))
        assert [m["stream"] for m in messages if "stream" in m] == [
            "Loaded image: one:1\n",
            "Loaded image: two:latest\n",
        ]
        image = box.images.resolve("two")
        assert image.id == digest(config([digest(BASE), digest(TOP)]))
        assert image.repo_tags == ("one:1", "two:latest")
        assert image.layer_sizes == (5, 2_000_003)
        assert box.images.resolve(image.id[7:19]) == image
        assert box.images.resolve("docker.io/library/one:1") == image
        found = msgspec.to_builtins(await box.images.inspect("one:1"))
        assert found["Id"] == image.id
        assert found["Created"] == "2024-05-06T07:08:09.5Z"
        assert found["Config"] == {"Cmd": ["sh"], "Labels": {"a": "b"}}
        assert found["RootFS"]["Layers"] == (digest(BASE), digest(TOP))
        assert found["GraphDriver"]["Name"] == box.driver
        history = [msgspec.to_builtins(row) for row in await box.images.history("two")]
        assert [row["CreatedBy"] for row in history] == ["step 1", "step 0"]
        assert [row["Id"] for row in history] == [image.id, "<missing>"]
        assert history[0]["Tags"] == ["one:1", "two:latest"]
        assert [row["Size"] for row in history] == [2_000_003, 5]
        assert box.events.actions == ["load"]

    run(body)


def test_layers_are_what_they_should_be(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        await box.load(docker_archive([BASE, TOP]))
        chain = box.images.resolve("test").chain_ids
        top = Path(box.snapshots.layer(chain[-1]).path)
        assert (top / "etc" / "os").read_text() == "top"
        if box.driver == "vfs":
            assert not (top / "gone").exists()
        else:
            assert (top / "gone").is_char_device()
        assert not any(i.name.startswith("unpack-") for i in box.snapshots.walk())

    run(body)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress])
def test_compressed_archives_and_layers(
    run: Callable[[Body], None], pack: Callable[[bytes], bytes]
) -> None:
    async def body(box: ImageBox) -> None:
        await box.load(pack(docker_archive([BASE, TOP])))
        image = box.images.resolve("test")
        if pack is not lzma.compress:
            packed = [pack(BASE), pack(TOP)]
            diff_ids = [digest(BASE), digest(TOP)]
            kind = "gzip" if pack is gzip.compress else "zstd"
            media = f"application/vnd.oci.image.layer.v1.tar+{kind}"
            data = layout(packed, name="docker.io/library/oci:v1", media=media, diff_ids=diff_ids)
            await box.load(data)
            assert box.images.resolve("oci:v1").id == image.id

    run(body)


def test_save_and_load_again(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        packed = gzip.compress(BASE, mtime=0)
        media = "application/vnd.oci.image.layer.v1.tar+gzip"
        await box.load(layout([packed], name="x:1", media=media, diff_ids=[digest(BASE)]))
        await box.images.tag("x:1", "y", "2")
        first = box.images.resolve("x:1")
        saved = await box.save("x:1", "y:2")
        with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
            names = tar.getnames()
            manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
            repositories = json.load(tar.extractfile("repositories"))  # type: ignore[arg-type]
        assert manifest == [
            {
                "Config": "blobs/sha256/" + first.id[7:],
                "RepoTags": ["x:1", "y:2"],
                "Layers": ["blobs/sha256/" + digest(packed)[7:]],
            }
        ]
        assert "oci-layout" in names
        assert repositories == {"x": {"1": digest(BASE)[7:]}, "y": {"2": digest(BASE)[7:]}}
        for name in ("x:1", "y:2"):
            await box.images.remove(name, force=False, noprune=False)
        await box.load(saved)
        again = box.images.resolve("y:2")
        assert again.id == first.id
        assert again.manifest == first.manifest
        assert box.images.resolve("x:1").id == first.id
        assert "save" in box.events.actions

    run(body)


def test_platforms(run: Callable[[Body], None]) -> None:
    """`docker image load --platform` and `save --platform`."""

    async def body(box: ImageBox) -> None:
        async def load(data: bytes, platform: str) -> list[Any]:
            return await collect(box.images.load(pieces(data), quiet=True, platform=platform))

        there = docker_archive([BASE], ["there:1"], architecture="s390x")
        for data in (there, layout([BASE], name="docker.io/library/there:1", architecture="s390x")):
            with pytest.raises(NotFound, match=r"linux/arm64.* not found"):
                await load(data, "linux/arm64")
            assert not box.images.catalog.images
            assert await load(data, "linux/s390x") == [{"stream": "Loaded image: there:1\n"}]
            with pytest.raises(InvalidParameter, match="no suitable export target"):
                await anext(box.images.save(["there:1"], platform="linux/arm64"))
            assert await anext(box.images.save(["there:1"], platform="linux/s390x"))
            await box.images.remove("there:1", force=False, noprune=False)
        with pytest.raises(InvalidParameter, match="multiple platforms not supported"):
            await load(there, "linux/s390x,linux/arm64")
        await load(there, "")
        with pytest.raises(NotFound, match="does not match the specified platform"):
            await box.images.inspect("there:1", platform="linux/arm64")
        [row] = await box.images.list({}, everything=False, manifests=True)
        assert not isinstance(row.manifests, msgspec.UnsetType)
        [manifest] = row.manifests
        assert manifest.image_data.platform == {"os": "linux", "architecture": "s390x"}
        assert manifest.size.total == manifest.size.content + row.size

    run(body)


def test_parents_are_saved_and_loaded(run: Callable[[Body], None]) -> None:
    """In any order; a parent that is not in the archive is forgotten."""

    async def body(box: ImageBox) -> None:
        await box.load(docker_archive([BASE], ["base:1"]))
        made: list[str] = []
        for number, below in enumerate(("base:1", "made:0")):
            parent = box.images.resolve(below)
            box.snapshots.prepare(f"c{number}", parent.chain_id)
            image = await box.images.commit(
                CommitRequest(
                    f"c{number}", parent.id, "c" * 64, {}, {}, reference=parse(f"made:{number}")
                )
            )
            made.append(image.id)
            box.snapshots.remove(f"c{number}")
        for order in (made, made[::-1]):
            saved = await box.save(*order)
            for name in ("made:1", made[1], "made:0", made[0]):
                with contextlib.suppress(NotFound):
                    await box.images.remove(name, force=True, noprune=True)
            await box.load(saved)
            assert box.images.resolve(made[1]).parent == made[0]
            assert box.images.resolve(made[0]).parent == ""

    run(body)


def test_save_selects(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        await box.load(docker_archive([BASE], ["r:1"]))
        await box.load(docker_archive([TOP], ["r:2"]))

        async def tags(*names: str) -> list[Any]:
            with tarfile.open(fileobj=io.BytesIO(await box.save(*names))) as tar:
                items = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
            return sorted(item["RepoTags"] or [] for item in items)

        assert await tags("r") == [["r:1"], ["r:2"]]
        assert await tags("r:1") == [["r:1"]]
        assert await tags(box.images.resolve("r:1").id) == [[]]
        assert await tags("r:1", "r:1", "r:2") == [["r:1"], ["r:2"]]
        with pytest.raises(NotFound):
            await tags("nothing")
        with pytest.raises(NotFound):
            await tags("r:1", "r:3")

    run(body)


BAD: list[tuple[str, bytes, str]] = [
    ("rubbish", b"this is no archive" * 100, "invalid tar header"),
    ("empty", b"", "does not contain a manifest.json"),
    ("no manifest", archive([("x", b"y")]), "does not contain a manifest.json"),
    ("manifest is no json", archive([("manifest.json", b"{")]), "failed to decode"),
    ("null", archive([("manifest.json", b"null")]), "cannot be null"),
    ("no config", archive([("manifest.json", b'[{"Config": "c", "Layers": []}]')]), "c is missing"),
    (
        "config outside",
        archive([("manifest.json", b'[{"Config": "../../etc/passwd", "Layers": []}]')]),
        "outside",
    ),
    ("cut off", docker_archive([BASE, TOP])[:1_000_000], "unexpected EOF"),
    ("bad tag", docker_archive([BASE], ["UPPER:x"]), "must be lowercase"),
    ("no tag", docker_archive([BASE], ["name@sha256:" + "a" * 64]), "invalid tag"),
    ("windows", docker_archive([BASE], os="windows"), "cannot load windows image on linux"),
    (
        "wrong diff id",
        docker_archive([BASE], rootfs={"type": "layers", "diff_ids": ["sha256:" + "a" * 64]}),
        "wrong diff id",
    ),
    (
        "too few layers",
        docker_archive([BASE], rootfs={"type": "layers", "diff_ids": []}),
        "layers length mismatch",
    ),
    ("layer leads out", docker_archive([layer({"../../evil": "x"})]), "outside"),
    ("layer is rubbish", docker_archive([b"rubbish" * 1000]), "invalid tar header"),
    ("wrong blob", archive([("blobs/sha256/" + "a" * 64, b"x")]), "has digest"),
    (
        "wrong large blob",
        archive([("blobs/sha256/" + "a" * 64, b"x" * 3_000_000)]),
        "has digest",
    ),
]


@pytest.mark.parametrize(("name", "data", "text"), BAD, ids=[one[0] for one in BAD])
def test_bad_archives_leave_nothing(
    run: Callable[[Body], None], name: str, data: bytes, text: str
) -> None:
    async def body(box: ImageBox) -> None:
        before = box.files()
        with pytest.raises(GantryError, match=text):
            await box.load(data)
        assert box.files() == before
        assert not box.images.catalog.images
        assert not list(box.snapshots.walk())

    run(body)


def test_progress_of_a_load_comes_while_it_is_read(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        data = docker_archive([BASE, TOP])
        seen = asyncio.Event()

        async def patient() -> Any:
            yield data[:1_500_000]
            await seen.wait()  # the rest only comes when the progress so far has been told
            yield data[1_500_000:]

        told: list[dict[str, Any]] = []
        async for message in box.images.load(patient(), quiet=False):
            seen.set()
            told.append(message)
        bars = [one for one in told if one.get("status") == "Loading layer"]
        for layer_ in (BASE, TOP):
            mine = [one["progressDetail"] for one in bars if one["id"] == digest(layer_)[7:19]]
            assert mine[-1] == {"current": len(layer_), "total": len(layer_)}
        assert told[-1] == {"stream": "Loaded image: test:latest\n"}

        again = box.images.load(pieces(docker_archive([BASE, TOP])), quiet=True)
        assert [one async for one in again] == [{"stream": "Loaded image: test:latest\n"}]

    run(body)


def test_a_client_that_goes_away(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        data = docker_archive([BASE, TOP])
        before = box.files()

        async def broken() -> Any:
            yield data[:1_500_000]
            raise ConnectionResetError("gone")

        with pytest.raises(ConnectionResetError):
            await collect(box.images.load(broken(), quiet=False))

        async def hanging() -> Any:
            yield data[:1_500_000]
            await asyncio.Event().wait()

        task = asyncio.get_running_loop().create_task(
            collect(box.images.load(hanging(), quiet=False))
        )
        await asyncio.sleep(0)
        while not box.content.ingests():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while box.content.ingests() or any(box.snapshots.walk()):
            await asyncio.sleep(0.01)
        assert box.files() == before

    run(body)


def test_import(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        changes = ['CMD ["a", "b"]', "ENV X=1 Y='2 3'", "EXPOSE 80 90/udp", "LABEL l=m", "USER me"]
        identity = await box.import_(
            gzip.compress(BASE), "imported", tag="v", changes=changes, message="hello"
        )
        image = box.images.resolve("imported:v")
        assert image.id == identity
        assert image.comment == "hello"
        assert image.diff_ids == (digest(BASE),)
        assert image.config.cmd == ["a", "b"]
        assert image.config.env == ["X=1", "Y=2 3"]
        assert image.config.exposed_ports == {"80/tcp": {}, "90/udp": {}}
        assert image.config.user == "me"
        assert box.events.actions == ["tag", "import"]
        nameless = await box.import_(lzma.compress(TOP), platform="linux/arm64")
        assert box.images.resolve(nameless).architecture == "arm64"
        assert box.images.resolve(nameless).repo_tags == ()
        for data, options in (
            (b"rubbish" * 1000, {}),
            (BASE, {"changes": ["RUN x"]}),
            (BASE, {"platform": "windows/amd64"}),
            (BASE, {"repo": "UPPER"}),
            (layer({"../x": ""}), {}),
        ):
            before = box.files()
            with pytest.raises(GantryError):
                await box.import_(data, **options)
            assert box.files() == before

    run(body)


def test_import_from_a_url(run: Callable[[Body], None]) -> None:
    answers = {"/root.tar": (200, gzip.compress(BASE)), "/gone": (404, b"not here")}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        status, data = answers[path]
        head = f"HTTP/1.1 {status} {'OK' if status == 200 else 'Not Found'}\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        writer.close()

    async def body(box: ImageBox) -> None:
        async def fetch(url: str) -> list[Any]:
            fields = {"repo": "", "tag": "", "message": "", "changes": (), "platform": ""}
            return await collect(box.images.import_(url, **fields))  # type: ignore[arg-type] # texts

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            first, progress, last = await fetch(f"{host}/root.tar")
            assert first == {"status": f"Downloading from http://{host}/root.tar"}
            assert (progress["status"], progress["progressDetail"]["current"] > 0) == (
                "Importing",
                True,
            )
            image = box.images.resolve(last["status"])
            assert image.comment == f"Imported from {host}/root.tar"
            assert image.diff_ids == (digest(BASE),)
            with pytest.raises(NotFound, match=f"failed to GET http://{host}/gone with status 404"):
                await fetch(f"http://{host}/gone")
        with pytest.raises(GantryError, match="connect: connection refused"):
            await fetch(f"http://{host}/root.tar")
        for url, text in (("ftp://x/y", "unsupported protocol"), ("%2Fa%2Fb", "invalid URL esc")):
            with pytest.raises(InvalidParameter, match=text):
                await fetch(url)

    run(body)


def test_two_loads_of_the_same_at_once(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        data = docker_archive([BASE, TOP], ["a"])
        await asyncio.gather(*(box.load(data) for _ in range(4)))
        assert len(box.images.catalog.images) == 1
        await box.images.remove("a", force=False, noprune=False)
        assert not list(box.snapshots.walk())

    run(body)


def test_a_load_while_its_layers_are_removed(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        a = docker_archive([BASE, TOP], ["a"])
        b = docker_archive([BASE, TOP], ["b"], author="other")
        for _ in range(5):
            await box.load(a)
            await asyncio.gather(box.load(b), box.images.remove("a", force=False, noprune=False))
            saved = await box.save("b")
            assert len(saved) > 2_000_000
            await box.images.remove("b", force=False, noprune=False)
        assert not list(box.snapshots.walk())

    run(body)


def test_messages_of_pieces(run: Callable[[Body], None]) -> None:
    """However the body is cut."""

    async def body(box: ImageBox) -> None:
        data = docker_archive([BASE], ["a"])
        for size in (1, 511, 513, len(data)):
            assert (await box.load(data, size))[-1] == {"stream": "Loaded image: a:latest\n"}

    run(body)
