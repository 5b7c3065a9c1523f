"""Which driver is taken; sizes of overlay2; drivers that are not here."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.disks import disk

from gantry.kernel.syscalls import capget, capset
from gantry.model.errors import InvalidParameter, System
from gantry.model.snapshot import Snapshotter
from gantry.snapshots.aufs import open_aufs
from gantry.snapshots.choice import choose
from gantry.snapshots.options import parse_options, parse_size
from gantry.snapshots.overlay import OverlaySnapshotter
from gantry.snapshots.vfs import VfsSnapshotter
from gantry.snapshots.zfs import ZfsSnapshotter
from gantry.testing.snapshots import SnapshotterContract, in_mounts

pytestmark = pytest.mark.integration

_CAP_SYS_RESOURCE = 24


def broken(root: str) -> Snapshotter:
    os.makedirs(root + "/trash", exist_ok=True)
    raise System("does not work here")


Drivers = dict[str, Callable[[str], Snapshotter]]
ALL: Drivers = {"overlay2": OverlaySnapshotter, "vfs": VfsSnapshotter, "aufs": open_aufs}


class TestChoice:
    def test_asked_for(self, tmp_path: Path) -> None:
        root = str(tmp_path)
        assert choose("vfs", root, ALL).name == "vfs"
        assert choose("overlay", root, ALL).name == "overlay2"
        with pytest.raises(InvalidParameter, match="driver not supported: colour"):
            choose("colour", root, ALL)
        with pytest.raises(System, match="aufs"):
            choose("aufs", root, ALL)

    def test_the_first_that_works(self, tmp_path: Path) -> None:
        assert choose("", str(tmp_path), {**ALL, "overlay2": broken}).name == "vfs"
        assert os.listdir(tmp_path) == ["vfs"]
        with pytest.raises(System, match="no driver works: overlay2: does not work here"):
            choose("", str(tmp_path / "x"), {"overlay2": broken})

    def test_prior_data(self, tmp_path: Path) -> None:
        root = str(tmp_path)
        choose("vfs", root, ALL).prepare("x", None)
        choose("overlay2", root, ALL)
        assert choose("", root, ALL).name == "vfs"
        choose("overlay2", root, ALL).prepare("x", None)
        with pytest.raises(InvalidParameter, match="several valid graphdrivers: overlay2, vfs"):
            choose("", root, ALL)
        assert choose("overlay2", root, ALL).name == "overlay2"
        with pytest.raises(System, match="prior storage driver overlay2 failed"):
            choose("", root, {"overlay2": broken})


class TestOptions:
    def test_sizes(self) -> None:
        assert parse_size("10G") == 10 << 30
        assert parse_size("1.5m") == 3 << 19
        assert parse_size("4096") == 4096
        assert parse_size("1KiB") == 1024
        for bad in ("", "x", "-1", "0", "1 parsec"):
            with pytest.raises(InvalidParameter):
                parse_size(bad)

    def test_names(self) -> None:
        assert parse_options(["dm.fs=xfs"], "dm", frozenset({"fs"})) == {"fs": "xfs"}
        for bad in ("fs=xfs", "dm.x=1", "dm.fs"):
            with pytest.raises(InvalidParameter):
                parse_options([bad], "dm", frozenset({"fs"}))


@pytest.fixture(params=["xfs", "ext4"])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system with project quotas, where the kernel has them."""
    make, options = {
        "xfs": (["mkfs.xfs", "-f"], "loop,pquota"),
        "ext4": (["mkfs.ext4", "-q", "-O", "project,quota"], "loop,prjquota"),
    }[str(request.param)]
    with disk(tmp_path, 512 << 20, make, options) as point:
        yield point


class TestQuota:
    def test_overlay(self, limited: Path) -> None:
        driver = OverlaySnapshotter(str(limited / "overlay2"))
        try:
            mounts = driver.prepare("x", None, options={"size": "20M"})
        except InvalidParameter as error:
            pytest.skip(str(error))
        driver.prepare("free", None)
        driver.commit("base", "free")

        def full(path: str) -> None:
            # But for XFS, whoever has CAP_SYS_RESOURCE is above quotas; containers have it not.
            effective, permitted, inheritable = capget()
            capset(effective & ~(1 << _CAP_SYS_RESOURCE), permitted, inheritable)
            with pytest.raises(OSError) as error, open(path + "/big", "wb", buffering=0) as file:
                for _ in range(40):
                    file.write(bytes(1 << 20))
            assert error.value.errno in (errno.EDQUOT, errno.ENOSPC)

        in_mounts(mounts, full)
        in_mounts(driver.prepare("y", "base", options={"size": "20M"}), full)

        def fits(path: str) -> None:
            with open(path + "/big", "wb", buffering=0) as file:
                for _ in range(40):
                    file.write(bytes(1 << 20))

        in_mounts(driver.prepare("z", "base"), fits)
        again = OverlaySnapshotter(str(limited / "overlay2"))
        in_mounts(again.prepare("w", None, options={"size": "20M"}), full)
        again.close()
        driver.close()

    def test_not_here(self, tmp_path: Path) -> None:
        with disk(tmp_path, 64 << 20, ["mkfs.ext4", "-q"]) as point:
            driver = OverlaySnapshotter(str(point / "overlay2"))
            with pytest.raises(InvalidParameter, match="supported only for overlay over xfs"):
                driver.prepare("x", None, options={"size": "20M"})
            with pytest.raises(InvalidParameter):
                driver.prepare("x", None, options={"size": "huge"})
            driver.close()


class TestManyLayers:
    def test_more_than_a_page_of_options(self, tmp_path: Path) -> None:
        root = tmp_path / ("long-" * 30)
        driver = OverlaySnapshotter(str(root))
        parent: str | None = None
        for number in range(125):
            driver.prepare("k", parent)
            (Path(driver.layer("k").path) / f"f{number}").write_text("")
            parent = f"l{number}"
            driver.commit(parent, "k")
        mounts = driver.prepare("top", parent)
        assert len(",".join(mounts[0].options)) > 16_000

        def look(path: str) -> None:
            assert len(os.listdir(path)) == 125
            Path(path, "new").write_text("")

        try:
            in_mounts(mounts, look)
        except AssertionError:
            if _kernel() < (6, 7):
                pytest.skip("this kernel takes a page of mount options only")
            raise
        driver.close()


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


class TestZfs:
    def test_commands(self, tmp_path: Path) -> None:
        """What zfs is told, without one."""
        said: list[str] = []

        def run(*arguments: str) -> str:
            said.append(" ".join(arguments))
            return "0\n"

        driver = ZfsSnapshotter(str(tmp_path), ["zfs.fsname=tank/gantry"], run)
        assert said == ["list -H -o name tank/gantry"]
        with pytest.raises(InvalidParameter):
            ZfsSnapshotter(str(tmp_path), ["zfs.colour=blue"], run)
        with pytest.raises(System):
            driver.prepare("base", None)  # there is nothing to mount
        created = [line for line in said if line.startswith("create")]
        assert created[0].startswith("create -o mountpoint=legacy tank/gantry/")
        driver.cleanup()
        assert any(line.startswith("destroy -r tank/gantry/") for line in said)
        driver.close()

    def test_not_here(self, tmp_path: Path) -> None:
        def run(*arguments: str) -> str:
            return ""

        with pytest.raises(System, match="prerequisites for driver not satisfied"):
            ZfsSnapshotter(str(tmp_path), [], run)


@pytest.mark.skipif(shutil.which("zpool") is None, reason="no ZFS here")
class TestZfsContract(SnapshotterContract):
    @pytest.fixture(scope="class")
    def pool(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        file = tmp_path_factory.mktemp("zfs") / "file"
        with file.open("wb") as disk_file:
            disk_file.truncate(512 << 20)
        name = f"gantry-test-{os.getpid()}"
        subprocess.run(["zpool", "create", "-m", "none", name, str(file)], check=True)
        yield name
        subprocess.run(["zpool", "destroy", "-f", name], check=True)

    @pytest.fixture(autouse=True)
    def dataset(self, pool: str, request: pytest.FixtureRequest) -> None:
        self.name = f"{pool}/{request.node.name}"
        subprocess.run(["zfs", "create", "-o", "mountpoint=none", self.name], check=True)

    def open(self, root: str) -> Snapshotter:
        return ZfsSnapshotter(root, [f"zfs.fsname={self.name}"])
