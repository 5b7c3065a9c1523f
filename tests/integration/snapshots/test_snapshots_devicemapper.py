"""The devicemapper driver, on its own loop devices; where the kernel has dm-thin."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gantry.model.errors import InvalidParameter
from gantry.model.snapshot import Snapshotter
from gantry.snapshots import loop
from gantry.snapshots.devicemapper import DeviceMapperOptions, DeviceMapperSnapshotter
from gantry.snapshots.thinpool import dmsetup
from gantry.testing.snapshots import SnapshotterContract, in_mounts

pytestmark = pytest.mark.integration

SMALL = ["dm.basesize=64M", "dm.loopdatasize=1G", "dm.loopmetadatasize=64M"]


def has_thin_pools() -> bool:
    if shutil.which("dmsetup") is None:
        return False
    subprocess.run(["modprobe", "-q", "dm-thin-pool"], check=False)
    return "thin-pool" in (dmsetup("targets", check=False) or "")


class TestOptions:
    def test_parsed(self) -> None:
        options = DeviceMapperOptions.parse(
            [
                "dm.basesize=20G",
                "dm.fs=xfs",
                "dm.mkfsarg=-K -q",
                "dm.mountopt=nodiscard,noatime",
                "dm.blocksize=512K",
                "dm.thinpooldev=/dev/mapper/thin",
            ]
        )
        assert options.base_size == 20 << 30
        assert options.mkfs_arguments == ("-K", "-q")
        assert options.mount_options == ("nodiscard", "noatime")
        assert options.pool == "thin"

    @pytest.mark.parametrize(
        "option", ["dm.basesize=huge", "dm.fs=ntfs", "dm.colour=blue", "zfs.fsname=x", "dm.fs"]
    )
    def test_refused(self, option: str) -> None:
        with pytest.raises(InvalidParameter):
            DeviceMapperOptions.parse([option])


def test_loop_devices(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * (1 << 20))
    device = loop.attach(str(file))
    try:
        assert loop.attach(str(file)) == device
        assert Path(device).read_bytes()[:4] == b"xxxx"
        os.truncate(file, 2 << 20)
        loop.grown(device)
    finally:
        loop.detach(device)
    assert loop.find(str(file)) is None


@pytest.mark.skipif(not has_thin_pools(), reason="the kernel has no thin-pool target")
class TestDeviceMapper(SnapshotterContract):
    def open(self, root: str) -> Snapshotter:
        return DeviceMapperSnapshotter(root, SMALL)

    def files(self, root: str) -> list[str]:
        return [name for name in super().files(root) if not name.startswith("pool")]

    @pytest.fixture(autouse=True)
    def no_device_stays(self) -> Iterator[None]:
        yield
        left = [line for line in (dmsetup("ls") or "").splitlines() if "gantry-" in line]
        for line in sorted(left, key=lambda one: "pool" in one):
            dmsetup("remove", "--force", "--retry", line.split()[0], check=False)

    def test_closing_lets_go(self, root: str) -> None:
        driver = self.open(root)
        self.layer(driver, "base", None, a="1")
        self.see(driver.prepare("x", "base"), {"a": "1"})
        driver.close()
        assert "gantry-" not in (dmsetup("ls") or "")
        assert loop.find(root + "/pool/data") is None
        driver = self.open(root)
        self.see(driver.mounts("x"), {"a": "1"})
        driver.close()

    def test_sizes(self, root: str) -> None:
        driver = self.open(root)
        self.layer(driver, "base", None, a="1")
        with pytest.raises(InvalidParameter, match="cannot be smaller"):
            driver.prepare("x", "base", options={"size": "1M"})

        def fill(megabytes: int) -> None:
            def write(path: str) -> None:
                with open(path + "/big", "wb", buffering=0) as file:
                    for _ in range(megabytes):
                        file.write(bytes(1 << 20))

            in_mounts(driver.mounts("x"), write)

        driver.prepare("x", "base", options={"size": "128M"})
        fill(90)
        driver.remove("x")
        mounts = driver.prepare("x", "base")

        def full(path: str) -> None:
            with pytest.raises(OSError) as error, open(path + "/big", "wb", buffering=0) as file:
                for _ in range(90):
                    file.write(bytes(1 << 20))
            assert error.value.errno == errno.ENOSPC

        in_mounts(mounts, full)
        driver.close()
