"""What layers hold, as they lie on disk: looked at, verified, unpacked again."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.imagebox import (
    BASE,
    TOP,
    Body,
    ImageBox,
    digest,
    docker_archive,
    layer,
)

from gantry.model.errors import InvalidParameter, NotFound


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
