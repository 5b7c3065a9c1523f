"""A device-mapper thin pool, by dmsetup(8): thin devices, snapshots of them, their activation.

Kernel documentation: admin-guide/device-mapper/thin-provisioning.rst. Devices have numbers
(24 bits) in the pool; an activated one is `/dev/mapper/<name>`.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

from gantry.model.errors import System

SECTOR = 512
_MAX = (1 << 24) - 1


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Blocks of data and metadata: used and in all."""

    data_used: int
    data_total: int
    metadata_used: int
    metadata_total: int
    mode: str


class ThinPool:
    """One pool by its device-mapper name. Blocking; System with what dmsetup said."""

    def __init__(self, name: str) -> None:
        self.name = name

    def exists(self) -> bool:
        return dmsetup("info", self.name, check=False) is not None

    def create(self, data: str, metadata: str, sectors: int, block_sectors: int) -> None:
        table = (
            f"0 {sectors} thin-pool {metadata} {data} {block_sectors} 32768 1 skip_block_zeroing"
        )
        dmsetup("create", self.name, "--table", table)

    def remove(self) -> None:
        dmsetup("remove", "--retry", self.name, check=False)

    def status(self) -> PoolStatus:
        words = (dmsetup("status", self.name) or "").split()
        if len(words) < 8 or words[2] != "thin-pool":
            raise System(f"devicemapper: pool {self.name} is in no good state: {' '.join(words)}")
        metadata, data = words[4].split("/"), words[5].split("/")
        return PoolStatus(int(data[0]), int(data[1]), int(metadata[0]), int(metadata[1]), words[7])

    def block_sectors(self) -> int:
        return int((dmsetup("table", self.name) or "").split()[5])

    # ---- devices

    def create_thin(self, first: int) -> int:
        """A new, empty device; its number, the first free one from `first`."""
        return self._numbered("create_thin {}", first)

    def create_snapshot(self, origin: int, first: int, active: str | None) -> int:
        """A snapshot of a device. active: the origin's name where it is activated: what is
        in memory of its file system goes to it first."""
        if active is not None:
            dmsetup("suspend", active)
        try:
            return self._numbered(f"create_snap {{}} {origin}", first)
        finally:
            if active is not None:
                dmsetup("resume", active)

    def delete(self, number: int) -> None:
        dmsetup("message", self.name, "0", f"delete {number}")

    def _numbered(self, message: str, first: int) -> int:
        for number in range(first, min(first + 10_000, _MAX)):
            try:
                dmsetup("message", self.name, "0", message.format(number))
                return number
            except System as error:
                if "File exists" not in str(error):
                    raise
        raise System(f"devicemapper: no free device number in pool {self.name}")

    # ---- activation

    def activate(self, name: str, number: int, size: int) -> str:
        """`/dev/mapper/<name>` of a device; size in bytes."""
        path = "/dev/mapper/" + name
        if not os.path.exists(path):
            table = f"0 {size // SECTOR} thin /dev/mapper/{self.name} {number}"
            dmsetup("create", name, "--table", table)
        return path

    def deactivate(self, name: str) -> bool:
        """False while somebody uses it."""
        if not os.path.exists("/dev/mapper/" + name):
            return True
        try:
            dmsetup("remove", "--retry", name)
        except System as error:
            if re.search(r"busy", str(error), re.IGNORECASE):
                return False
            raise
        return True


def active(name: str) -> bool:
    return os.path.exists("/dev/mapper/" + name)


def dmsetup(*arguments: str, check: bool = True) -> str | None:
    """What dmsetup printed; None when it failed and need not have worked."""
    environment = {**os.environ, "DM_DISABLE_UDEV": "1", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["dmsetup", "--noudevsync", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    except OSError as error:
        raise System(f"devicemapper: cannot run dmsetup: {error}") from error
    if done.returncode:
        if not check:
            return None
        raise System(f"devicemapper: dmsetup {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
