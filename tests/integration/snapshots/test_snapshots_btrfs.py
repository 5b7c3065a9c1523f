"""The btrfs driver, on a loop file."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.disks import disk

from gantry.model.errors import InvalidParameter, System
from gantry.model.snapshot import Snapshotter
from gantry.snapshots.btrfs import BtrfsSnapshotter
from gantry.testing.snapshots import SnapshotterContract, in_mounts

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with disk(tmp_path_factory.mktemp("btrfs"), 512 << 20, ["mkfs.btrfs", "-f"]) as point:
        yield point


class TestBtrfs(SnapshotterContract):
    @pytest.fixture
    def root(self, btrfs: Path, request: pytest.FixtureRequest) -> str:
        return str(btrfs / request.node.name)

    def open(self, root: str) -> Snapshotter:
        return BtrfsSnapshotter(root)

    def test_sizes(self, root: str) -> None:
        driver = self.open(root)
        self.layer(driver, "base", None, a="1")
        with pytest.raises(InvalidParameter):
            driver.prepare("x", "base", options={"size": "huge"})
        mounts = driver.prepare("x", "base", options={"size": "20M"})

        def fill(path: str) -> None:
            with pytest.raises(OSError) as error, open(path + "/big", "wb", buffering=0) as file:
                for _ in range(40):
                    file.write(os.urandom(1 << 20))
                    os.fsync(file.fileno())
            assert error.value.errno == errno.EDQUOT

        in_mounts(mounts, fill)
        driver.close()

    def test_subvolumes_made_inside(self, root: str) -> None:
        """A container may make some itself: they go with it."""
        driver = self.open(root)
        driver.prepare("x", None)
        inside = driver.layer("x").path + "/deep/er"
        os.makedirs(inside)
        for name in ("a", "a/b", "c"):
            subprocess.run(
                ["btrfs", "subvolume", "create", f"{inside}/{name}"],
                check=True,
                capture_output=True,
            )
        driver.remove("x")
        driver.cleanup()
        assert os.listdir(root + "/trash") == []
        driver.close()


def test_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(System, match="prerequisites for driver not satisfied"):
        BtrfsSnapshotter(str(tmp_path / "x"))
