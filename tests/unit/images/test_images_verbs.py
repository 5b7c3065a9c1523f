"""The image verbs over real files: load, save, import, list, tag, remove, prune, commit."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import lzma
import os
import stat
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from tests.support.imagebox import (
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
from gantry.model.errors import Conflict, GantryError, InvalidParameter, NotFound
from gantry.oci.image_reference import parse

BASE = layer({"etc": None, "etc/os": "base", "gone": "x"})
TOP = layer({"etc/os": "top", ".wh.gone": b"", "big": b"z" * 2_000_000})

Body = Callable[[ImageBox], Awaitable[None]]


@pytest.fixture(params=["overlay2", "vfs"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Body], None]:
    if request.param == "overlay2" and os.geteuid() != 0:
        pytest.skip("needs root")

    def runner(body: Body) -> None:
        async def main() -> None:
            async with ImageBox(tmp_path, request.param) as box:
                await body(box)

        asyncio.run(main())

    return runner


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


def test_tagging(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        await box.load(docker_archive([BASE], ["a"]))
        await box.load(docker_archive([TOP], ["b"]))
        a, b = box.images.resolve("a"), box.images.resolve("b")
        await box.images.tag("a", "host:5000/x/y", "1")
        assert box.images.resolve("host:5000/x/y:1").id == a.id
        await box.images.tag("b", "a", "latest")
        assert box.images.resolve("a").id == b.id
        assert box.images.resolve(a.id).repo_tags == ("host:5000/x/y:1",)
        assert (box.images.resolve("a").last_tag_time_ns or 0) > 0
        for repo, tag in (("UPPER", ""), ("x", "not valid"), ("sha256", ""), ("x@" + a.id, "")):
            with pytest.raises(InvalidParameter):
                await box.images.tag("a", repo, tag)
        with pytest.raises(NotFound, match="No such image: nothing:latest"):
            await box.images.tag("nothing", "x", "")
        messages = await box.load(docker_archive([BASE], ["a"]))
        assert messages[0]["stream"].startswith("The image a:latest already exists, renaming")

    run(body)


def test_resolving(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        await box.load(docker_archive([BASE], ["a"]))
        identity = box.images.resolve("a").id
        for name in (
            identity,
            identity[7:],
            identity[7:13],
            "a",
            "docker.io/a",
            "library/a:latest",
        ):
            assert box.images.resolve(name).id == identity
        for name, text in (
            ("b", "No such image: b:latest"),
            ("a:2", "No such image: a:2"),
            ("x/y@sha256:" + "a" * 64, "No such image: x/y@sha256:" + "a" * 64),
            ("sha256:" + "b" * 64, "No such image: sha256:" + "b" * 64),
        ):
            with pytest.raises(NotFound) as error:
                box.images.resolve(name)
            assert str(error.value) == text
        with pytest.raises(InvalidParameter):
            box.images.resolve("UPPER")
        assert box.images.resolve("a", "linux").id == identity
        with pytest.raises(NotFound, match="does not match the specified platform"):
            box.images.resolve("a", "linux/s390x")

    run(body)


class TestList:
    async def fill(self, box: ImageBox) -> None:
        await box.load(docker_archive([BASE], ["old:1"], created="2020-01-01T00:00:00Z"))
        await box.load(
            docker_archive(
                [BASE, TOP],
                ["new:1", "host.io/new:2"],
                created="2021-01-01T00:00:00Z",
                config={"Labels": {"k": "v"}},
            )
        )
        await box.load(docker_archive([TOP], [], created="2022-01-01T00:00:00Z"))

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, [[], ["new:1", "host.io/new:2"], ["old:1"]]),
            ({"dangling": ["true"]}, [[]]),
            ({"dangling": ["false"]}, [["new:1", "host.io/new:2"], ["old:1"]]),
            ({"dangling": ["1"]}, [[]]),
            ({"reference": ["new"]}, [["new:1"]]),
            ({"reference": ["*/new"]}, [["host.io/new:2"]]),
            ({"reference": ["new:*", "old:1"]}, [["new:1"], ["old:1"]]),
            ({"reference": ["docker.io/library/*"]}, [["new:1"], ["old:1"]]),
            ({"reference": ["[on]*:?"]}, [["new:1"], ["old:1"]]),
            ({"label": ["k"]}, [["new:1", "host.io/new:2"]]),
            ({"label": ["k=v"]}, [["new:1", "host.io/new:2"]]),
            ({"label": ["k=w"]}, []),
            ({"before": ["new:1"]}, [["old:1"]]),
            ({"since": ["old:1"]}, [[], ["new:1", "host.io/new:2"]]),
            ({"since": ["old:1"], "until": ["2021-06-01"]}, [["new:1", "host.io/new:2"]]),
            ({"until": ["24h"]}, [[], ["new:1", "host.io/new:2"], ["old:1"]]),
        ],
    )
    def test_filters(
        self, run: Callable[[Body], None], filters: dict[str, list[str]], expected: list[Any]
    ) -> None:
        async def body(box: ImageBox) -> None:
            await self.fill(box)
            rows = await box.images.list(filters, everything=False)
            assert [row.repo_tags for row in rows] == expected

        run(body)

    @pytest.mark.parametrize(
        ("filters", "error"),
        [
            ({"colour": ["blue"]}, "invalid filter 'colour'"),
            ({"dangling": ["maybe"]}, r"invalid filter 'dangling=\[maybe\]'"),
            ({"dangling": ["true", "false"]}, "invalid filter 'dangling="),
            ({"before": ["nothing"]}, "No such image"),
            (
                {"until": ["yesterday"]},
                "invalid value for 'until' filter: failed to parse value as time or duration:"
                ' invalid seconds "yesterday": invalid syntax',
            ),
            ({"reference": ["[x"]}, "syntax error in pattern"),
        ],
    )
    def test_bad_filters(
        self, run: Callable[[Body], None], filters: dict[str, list[str]], error: str
    ) -> None:
        async def body(box: ImageBox) -> None:
            await self.fill(box)
            with pytest.raises(GantryError, match=error):
                await box.images.list(filters, everything=False)

        run(body)

    def test_sizes_and_users(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await self.fill(box)
            box.users.users[box.images.resolve("old:1").id] = [("c1", True), ("c2", False)]
            rows = await box.images.list({}, everything=False, shared_size=True)
            by_tag = {tuple(row.repo_tags): row for row in rows}
            assert by_tag["old:1",].containers == 2
            assert by_tag["old:1",].shared_size == 5
            assert by_tag["new:1", "host.io/new:2"].shared_size == 5
            assert by_tag[()].shared_size == 0
            usage = await box.images.disk_usage()
            assert usage["LayersSize"] == 5 + 2 * 2_000_003

        run(body)


class TestRemove:
    def test_untag_then_delete(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            empty = box.files()
            await box.load(docker_archive([BASE, TOP], ["a", "b"]))
            image = box.images.resolve("a")
            assert await box.images.remove("a", force=False, noprune=False) == [
                {"Untagged": "a:latest"}
            ]
            assert await box.images.remove("b", force=False, noprune=False) == [
                {"Untagged": "b:latest"},
                {"Deleted": image.id},
                {"Deleted": image.chain_ids[1]},
                {"Deleted": image.chain_ids[0]},
            ]
            assert box.files() == empty
            assert not list(box.snapshots.walk())
            assert not box.store.images
            assert not box.store.references
            assert box.events.actions == ["load", "untag", "untag", "delete"]

        run(body)

    def test_by_id(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE], ["a", "b"]))
            identity = box.images.resolve("a").id
            short = identity[7:19]
            with pytest.raises(Conflict) as error:
                await box.images.remove(short, force=False, noprune=False)
            assert str(error.value) == (
                f"conflict: unable to delete {short} (must be forced) -"
                " image is referenced in multiple repositories"
            )
            rows = await box.images.remove(short, force=True, noprune=False)
            assert [next(iter(row)) for row in rows] == [
                "Untagged",
                "Untagged",
                "Deleted",
                "Deleted",
            ]
            await box.load(docker_archive([BASE], ["a"]))
            rows = await box.images.remove(short, force=False, noprune=False)
            assert rows[0] == {"Untagged": "a:latest"}

        run(body)

    def test_containers_in_the_way(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE], ["a"]))
            identity = box.images.resolve("a").id
            short = identity[7:19]
            box.users.users[identity] = [("c" * 64, False)]

            async def text(name: str, force: bool) -> str:
                with pytest.raises(Conflict) as error:
                    await box.images.remove(name, force=force, noprune=False)
                return str(error.value)

            assert await text("a", False) == (
                'conflict: unable to remove repository reference "a" (must force) - container'
                f" cccccccccccc is using its referenced image {short}"
            )
            assert await text(short, False) == (
                f"conflict: unable to delete {short} (must be forced) - image is being used by"
                " stopped container cccccccccccc"
            )
            box.users.users[identity] = [("c" * 64, True)]
            assert await text(short, True) == (
                f"conflict: unable to delete {short} (cannot be forced) - image is being used by"
                " running container cccccccccccc"
            )
            # By name and forced, the name goes and the image stays.
            assert await box.images.remove("a", force=True, noprune=False) == [
                {"Untagged": "a:latest"}
            ]
            assert box.images.resolve(identity).repo_tags == ()

        run(body)

    def test_children(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE], ["a"]))
            parent = box.images.resolve("a")
            box.snapshots.prepare("c", parent.chain_id)
            child = await box.images.commit(
                CommitRequest("c", parent.id, "c" * 64, {"Cmd": ["x"]}, {"Cmd": ["y", "z"]})
            )
            box.snapshots.remove("c")
            short = parent.id[7:19]
            with pytest.raises(Conflict) as error:
                await box.images.remove(short, force=True, noprune=False)
            assert str(error.value) == (
                f"conflict: unable to delete {short} (cannot be forced) -"
                " image has dependent child images"
            )
            await box.images.remove("a", force=False, noprune=False)
            rows = await box.images.remove(child.id, force=False, noprune=True)
            assert parent.id not in [row.get("Deleted") for row in rows]
            assert box.images.resolve(parent.id)

        run(body)

    def test_untagged_parents_go_along(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE], ["a"]))
            parent = box.images.resolve("a")
            box.snapshots.prepare("c", parent.chain_id)
            child = await box.images.commit(
                CommitRequest("c", parent.id, "c" * 64, {}, {}, reference=parse("child:1"))
            )
            box.snapshots.remove("c")
            await box.images.remove("a", force=False, noprune=False)
            rows = await box.images.list({}, everything=False)
            assert [row.id for row in rows] == [child.id], "intermediate images are not listed"
            assert len(await box.images.list({}, everything=True)) == 2
            gone = await box.images.remove("child:1", force=False, noprune=False)
            assert {"Deleted": parent.id} in gone
            assert not box.images.catalog.images
            assert not list(box.snapshots.walk())

        run(body)

    def test_a_container_keeps_the_layers(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE, TOP], ["a"]))
            image = box.images.resolve("a")
            box.snapshots.prepare("c", image.chain_id)
            box.users.users[image.id] = [("c", False)]
            rows = await box.images.remove("a", force=True, noprune=False)
            assert {"Deleted": image.id} in rows
            if box.driver != "vfs":
                assert box.snapshots.exists(image.chain_ids[0])
            assert box.snapshots.exists(image.chain_ids[1])
            box.images.drop_orphans()
            assert box.snapshots.exists(image.chain_ids[1])
            box.snapshots.remove("c")
            box.images.drop_orphans()
            assert not list(box.snapshots.walk())

        run(body)

    @pytest.mark.parametrize("again", [False, True])
    def test_after_a_restart(self, run: Callable[[Body], None], again: bool) -> None:
        """A container's layers are still known as nobody else's, unless an image came back."""

        async def body(box: ImageBox) -> None:
            data = docker_archive([BASE, TOP], ["a"])
            await box.load(data)
            image = box.images.resolve("a")
            box.snapshots.prepare("c", image.chain_id)
            box.users.users[image.id] = [("c", False)]
            await box.images.remove("a", force=True, noprune=False)
            await box.images.recover()
            if again:
                await box.load(data)
            box.snapshots.remove("c")
            box.images.drop_orphans()
            assert len(list(box.snapshots.walk())) == (2 if again else 0)

        run(body)

    def test_shared_layers_stay(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE], ["a"]))
            await box.load(docker_archive([BASE, TOP], ["b"]))
            a, b = box.images.resolve("a"), box.images.resolve("b")
            rows = await box.images.remove("b", force=False, noprune=False)
            assert rows[1:] == [{"Deleted": b.id}, {"Deleted": b.chain_ids[1]}]
            assert box.snapshots.exists(a.chain_ids[0])
            saved = await box.save("a")
            await box.images.remove("a", force=False, noprune=False)
            await box.load(saved)

        run(body)


class TestPrune:
    def test_dangling_only(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE], ["a"]))
            await box.load(docker_archive([TOP], []))
            report = await box.images.prune({})
            assert report["SpaceReclaimed"] == 2_000_003
            assert len(report["ImagesDeleted"]) == 2
            assert [i.repo_tags for i in box.images.catalog.images.values()] == [("a:latest",)]
            assert await box.images.prune({}) == {"ImagesDeleted": None, "SpaceReclaimed": 0}
            assert box.events.events[-1][1:] == ("prune", "", {"reclaimed": "0"})

        run(body)

    def test_all_but_used(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE], ["a"]))
            await box.load(docker_archive([TOP], ["b", "c"]))
            box.users.users[box.images.resolve("a").id] = [("x", False)]
            await box.images.prune({"dangling": ["false"]})
            assert [i.repo_tags for i in box.images.catalog.images.values()] == [("a:latest",)]

        run(body)

    def test_filters(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE], [], config={"Labels": {"keep": "1"}}))
            for filters in ({"label!": ["keep"]}, {"label": ["x"]}, {"until": ["2019-01-01"]}):
                report = await box.images.prune(filters)
                assert report["ImagesDeleted"] is None
            for bad in ({"x": ["y"]}, {"until": ["1h", "2h"]}, {"until": ["x"]}):
                with pytest.raises(InvalidParameter):
                    await box.images.prune(bad)
            assert (await box.images.prune({"label": ["keep"]}))["ImagesDeleted"]

        run(body)


def test_commit(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox) -> None:
        await box.load(docker_archive([BASE], ["a"]))
        parent = box.images.resolve("a")
        box.snapshots.prepare("c", parent.chain_id)
        folder = Path(box.snapshots.layer("c").path)
        (folder / "new").write_text("new")
        image = await box.images.commit(
            CommitRequest(
                "c",
                parent.id,
                "c" * 64,
                {"Cmd": ["new"], "Env": ["A=1", "B=2"]},
                {"Cmd": ["ran", "this"]},
                author="me",
                comment="why",
                reference=parse("made:1"),
            )
        )
        assert image.parent == parent.id
        assert image.diff_ids[:1] == parent.diff_ids
        assert image.config.cmd == ["new"]
        assert image.config.env == ["A=1", "B=2"]
        assert (image.author, image.comment) == ("me", "why")
        assert image.history[-1].created_by == "ran this"
        assert image.history[:-1] == parent.history
        assert image.layer_sizes[-1] == 3
        made = Path(box.snapshots.layer(image.chain_ids[-1]).path)
        assert (made / "new").read_text() == "new"
        assert (folder / "new").exists(), "the container goes on"

    run(body)


def test_a_new_process(run: Callable[[Body], None]) -> None:
    """All is there again, and what a crash left is not."""

    async def body(box: ImageBox) -> None:
        await box.load(docker_archive([BASE, TOP], ["a", "b"]))
        before = box.images.resolve("a")
        files = box.files()
        box.content.put(b"nobody refers to this")
        writer = box.content.writer()
        writer.write(b"x")
        writer.close()
        box.snapshots.prepare("unpack-1", None)
        box.snapshots.prepare("lost", None)
        box.snapshots.commit("sha256:" + "e" * 64, "lost")
        await box.images.aclose()
        box.open()
        await box.images.recover()
        assert box.images.resolve("a") == before
        assert box.files() == files
        assert {info.name for info in box.snapshots.walk()} == set(before.chain_ids)

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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
class TestLayersThatLeanOnOthers:
    """Entries that make sense only together with the layers below."""

    def merged(self, box: ImageBox, name: str) -> dict[str, str]:
        from gantry.snapshots.private import mounted

        chain = box.images.resolve(name).chain_id
        found: dict[str, str] = {}
        with mounted(box.snapshots.view("look", chain)) as fd:
            for folder, _, files, at in os.fwalk(".", dir_fd=fd):
                for file in files:
                    path = os.path.normpath(os.path.join(folder, file))
                    info = os.stat(file, dir_fd=at, follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        with open(os.open(file, os.O_RDONLY, dir_fd=at)) as text:
                            found[path] = text.read()
        box.snapshots.remove("look")
        return found

    def links(self) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, kind, link in (
                ("hard", tarfile.LNKTYPE, "usr/lib/one"),
                ("lib/two", tarfile.REGTYPE, ""),
                ("lib/.wh.three", tarfile.REGTYPE, ""),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, link
                tar.addfile(info)
        return out.getvalue()

    def test_hardlinks_and_symlinked_folders(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as tar:
                link = tarfile.TarInfo("lib")
                link.type, link.linkname = tarfile.SYMTYPE, "usr/lib"
                tar.addfile(link)
                for name in ("one", "three"):
                    info = tarfile.TarInfo(f"usr/lib/{name}")
                    info.size = 3
                    tar.addfile(info, io.BytesIO(b"old"))
            for layers in ([out.getvalue(), self.links()], [out.getvalue(), TOP, self.links()]):
                await box.load(docker_archive(layers, ["a"]))
                found = self.merged(box, "a")
                found.pop("big", None)
                found.pop("etc/os", None)
                assert found == {"usr/lib/one": "old", "hard": "old", "usr/lib/two": ""}

        run(body)

    def test_leading_to_nothing(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            for layers in ([self.links()], [BASE, self.links()]):
                with pytest.raises(InvalidParameter):
                    await box.load(docker_archive(layers, ["a"]))
                assert not list(box.snapshots.walk()) or layers[0] == BASE

        run(body)

    def test_folders_keep_their_looks(self, run: Callable[[Body], None]) -> None:
        """A layer that does not mention a folder does not change it."""

        async def body(box: ImageBox) -> None:
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as tar:
                info = tarfile.TarInfo("d")
                info.type, info.mode, info.uid, info.mtime = tarfile.DIRTYPE, 0o1777, 5, 1234
                tar.addfile(info)
            await box.load(docker_archive([out.getvalue(), layer({"d/x": "x"})], ["a"]))
            from gantry.snapshots.private import mounted

            with mounted(box.snapshots.view("look", box.images.resolve("a").chain_id)) as fd:
                info2 = os.stat("d", dir_fd=fd)
                assert (stat.S_IMODE(info2.st_mode), info2.st_uid) == (0o1777, 5)

        run(body)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
class TestVerify:
    def test_all_is_well(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE, TOP], ["a"]))
            found = [one async for one in box.images.verify()]
            assert [one.damage for one in found] == [""] * 6
            assert {one.kind for one in found} == {"blob", "snapshot"}
            assert [info async for info in box.images.verify("a")] == found
            with pytest.raises(NotFound):
                assert [one async for one in box.images.verify("b")]
            assert not any(info.name.startswith("verify-") for info in box.snapshots.walk())

        run(body)

    def test_damage_is_found(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE, TOP], ["a"]))
            image = box.images.resolve("a")
            top = Path(box.snapshots.layer(image.chain_ids[1]).path)

            async def damages(kind: str = "snapshot") -> dict[str, str]:
                found = [one async for one in box.images.verify()]
                return {one.digest: one.damage for one in found if one.damage and one.kind == kind}

            (top / "etc" / "os").write_text("TOP")
            assert await damages() == {image.chain_ids[1]: "'etc/os': content differs"}
            os.unlink(top / "etc" / "os")
            if box.driver == "vfs":
                assert await damages() == {image.chain_ids[1]: "'etc/os': missing"}
            (top / "etc" / "os").write_text("top")
            os.chmod(top / "etc" / "os", 0o644)
            os.chmod(top / "big", 0o600)
            assert await damages() == {image.chain_ids[1]: "'big': mode 600"}
            os.chmod(top / "big", 0o644)
            blob = box.content.path(digest(BASE))
            os.chmod(blob, 0o600)
            Path(blob).write_bytes(BASE[:-1] + b"x")
            found = await damages("blob")
            assert found[digest(BASE)] == "content does not match its digest"
            os.unlink(blob)
            assert (await damages("blob"))[digest(BASE)] == "missing"

        run(body)

    def test_unpack_again(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox) -> None:
            await box.load(docker_archive([BASE, TOP], ["a"]))
            chain = box.images.resolve("a").chain_ids
            for one in reversed(chain):
                box.snapshots.remove(one)
            damaged = [one.digest async for one in box.images.verify() if one.damage]
            assert damaged == list(chain)
            assert [one.digest async for one in box.images.unpack("a")] == list(chain)
            assert [one.damage async for one in box.images.verify()] == [""] * 6

        run(body)
