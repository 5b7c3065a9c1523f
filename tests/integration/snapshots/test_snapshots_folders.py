"""The drivers that need nothing but the kernel, against the contract."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gantry.model.snapshot import Snapshotter
from gantry.snapshots.overlay import OverlaySnapshotter
from gantry.snapshots.vfs import VfsSnapshotter
from gantry.testing.snapshots import SnapshotterContract

pytestmark = pytest.mark.integration


class TestOverlay(SnapshotterContract):
    def open(self, root: str) -> Snapshotter:
        return OverlaySnapshotter(root)

    def test_detached_layers(self, root: str) -> None:
        """A layer made before its parent lies on it after the commit."""
        driver = self.open(root)
        driver.prepare("top", None)
        Path(driver.layer("top").path, "t").write_text("t")
        self.layer(driver, "bottom", None, b="b")
        driver.commit("both", "top", parent="bottom")
        self.see(driver.view("v", "both"), {"b": "b", "t": "t"})
        driver.close()
        driver = self.open(root)
        assert driver.stat("both").parent == "bottom"
        driver.close()

    def test_a_crash_in_the_middle(self, root: str) -> None:
        driver = self.open(root)
        driver.prepare("whole", None)
        os.mkdir(root + "/abcdef")
        os.mkdir(root + "/abcdef/fs")
        os.mkdir(root + "/trash/ghijkl")
        driver.close()
        driver = self.open(root)
        assert [info.name for info in driver.walk()] == ["whole"]
        driver.cleanup()
        assert len(os.listdir(root)) == 2
        assert os.listdir(root + "/trash") == []
        driver.close()


class TestOverlayByUsers(SnapshotterContract):
    """With user.* xattrs, as an engine in a user namespace has to."""

    def open(self, root: str) -> Snapshotter:
        return OverlaySnapshotter(root, userxattr=True)


class TestVfs(SnapshotterContract):
    def open(self, root: str) -> Snapshotter:
        return VfsSnapshotter(root)
