"""The image verbs over real files: list, tag, remove, prune, commit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.imagebox import (
    BASE,
    TOP,
    Body,
    ImageBox,
    docker_archive,
)

from gantry.images.create import CommitRequest
from gantry.model.errors import Conflict, GantryError, InvalidParameter, NotFound
from gantry.oci.image_reference import parse


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
