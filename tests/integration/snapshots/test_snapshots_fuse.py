"""fuse-overlayfs, where the program is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from gantry.kernel import procfs
from gantry.model.errors import System
from gantry.model.snapshot import Snapshotter
from gantry.snapshots import fuse
from gantry.snapshots.fuse import FuseOverlaySnapshotter
from gantry.testing.snapshots import SnapshotterContract

pytestmark = pytest.mark.integration


@pytest.mark.skipif(shutil.which("fuse-overlayfs") is None, reason="fuse-overlayfs not installed")
class TestFuseOverlay(SnapshotterContract):
    def open(self, root: str) -> Snapshotter:
        return FuseOverlaySnapshotter(root)

    def test_found_again_after_a_crash(self, root: str) -> None:
        driver = self.open(root)
        self.layer(driver, "base", None, a="1")
        mounts = driver.prepare("x", "base")
        again = self.open(root)
        assert again.mounts("x") == mounts
        self.see(mounts, {"a": "1"})
        again.remove("x")
        again.cleanup()
        assert not [one for one in procfs.mountinfo() if one.mount_point.startswith(root)]

    @pytest.fixture(autouse=True)
    def nothing_stays_mounted(self, root: str) -> Iterator[None]:
        yield
        from gantry.mounts.apply import unmount

        for one in procfs.mountinfo():
            if one.mount_point.startswith(root):
                unmount(one.mount_point)


def test_without_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(fuse, "PROGRAM", "no-such-program")
    with pytest.raises(System, match="not found"):
        FuseOverlaySnapshotter(str(tmp_path))
