"""`devicemapper`: each snapshot is a thin device with a whole file system on it.

A pool of thin devices lies on a block device of the user's (`dm.thinpooldev`) or, by default,
on two sparse files in `<root>/pool`. One device, the base, gets an empty file system once; a
first layer is a snapshot of it, every other one of its parent. `<root>/<id>/device` is a
symlink that says "<number> <bytes>".

A device is activated and mounted on the host (`gantry.snapshots.hostmounts`) when its mounts are
asked for, and let go when it is committed or removed. A removed device that is still in use is
tried again at `cleanup`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gantry.archive.removal import remove_tree
from gantry.model.errors import InvalidParameter, System
from gantry.model.mount import Mount
from gantry.model.snapshot import Flavour, Kind, LayerFolder, Usage
from gantry.mounts.apply import apply
from gantry.snapshots import loop, thinpool
from gantry.snapshots.folders import Entry, FolderSnapshotter
from gantry.snapshots.hostmounts import HostMounts
from gantry.snapshots.options import parse_options, parse_size
from gantry.snapshots.private import mounted
from gantry.snapshots.thinpool import SECTOR, ThinPool
from gantry.snapshots.trees import difference

_KNOWN: Final = frozenset(
    {
        "basesize",
        "blocksize",
        "fs",
        "loopdatasize",
        "loopmetadatasize",
        "mkfsarg",
        "mountopt",
        "thinpooldev",
        "use_deferred_removal",
        "use_deferred_deletion",
    }
)


@dataclass(frozen=True, slots=True)
class DeviceMapperOptions:
    """`dm.*` storage options. Sizes in bytes."""

    base_size: int = 10 << 30
    block_size: int = 64 << 10
    fs: str = "ext4"
    mkfs_arguments: tuple[str, ...] = ()
    mount_options: tuple[str, ...] = ()
    pool: str = ""
    data_size: int = 100 << 30
    metadata_size: int = 2 << 30

    @staticmethod
    def parse(options: Sequence[str]) -> DeviceMapperOptions:
        arguments = [o.partition("=")[2] for o in options if o.lower().startswith("dm.mkfsarg=")]
        found = parse_options(list(options), "dm", _KNOWN)
        fs = found.get("fs", "ext4")
        if fs not in ("ext4", "xfs"):
            raise InvalidParameter(f"devmapper: Unsupported filesystem {fs}")
        pool = found.get("thinpooldev", "").removeprefix("/dev/mapper/")
        return DeviceMapperOptions(
            parse_size(found.get("basesize", "10G")),
            parse_size(found.get("blocksize", "64K")),
            fs,
            tuple(word for argument in arguments for word in argument.split()),
            tuple(filter(None, found.get("mountopt", "").split(","))),
            pool,
            parse_size(found.get("loopdatasize", "100G")),
            parse_size(found.get("loopmetadatasize", "2G")),
        )


class DeviceMapperSnapshotter(FolderSnapshotter):
    """See the module. System where the kernel has no thin pools."""

    name = "devicemapper"

    def __init__(self, root: str, options: Sequence[str] = ()) -> None:
        self._options = DeviceMapperOptions.parse(options)
        if shutil.which("dmsetup") is None:
            raise System("driver not supported: devicemapper: dmsetup is not installed")
        if "thin-pool" not in (thinpool.dmsetup("targets", check=False) or ""):
            subprocess.run(["modprobe", "-q", "dm-thin-pool"], check=False)
        if "thin-pool" not in (thinpool.dmsetup("targets", check=False) or ""):
            raise System("driver not supported: devicemapper: the kernel has no thin-pool target")
        super().__init__(root)
        info = os.stat(root)
        self._prefix = f"gantry-{os.major(info.st_dev)}-{os.minor(info.st_dev)}-{info.st_ino}"
        self._host = HostMounts(root)
        self._loops = os.path.join(root, "pool")
        self._pool = ThinPool(self._options.pool or self._prefix + "-pool")
        self._next = 1
        try:
            self._open_pool()
            self._base, self._base_size = self._open_base()
        except OSError as error:
            raise System(f"cannot open devicemapper in {root}: {error}") from error

    # ---- the pool

    def _open_pool(self) -> None:
        if self._options.pool:
            if not self._pool.exists():
                raise System(f"devmapper: thin pool device {self._pool.name} does not exist")
            return
        os.makedirs(self._loops, mode=0o700, exist_ok=True)
        sizes = (("data", self._options.data_size), ("metadata", self._options.metadata_size))
        devices: list[str] = []
        for name, size in sizes:
            path = os.path.join(self._loops, name)
            with open(path, "ab") as file:
                if os.fstat(file.fileno()).st_size < size:
                    file.truncate(size)
            devices.append(loop.attach(path))
        if not self._pool.exists():
            sectors = os.stat(os.path.join(self._loops, "data")).st_size // SECTOR
            self._pool.create(devices[0], devices[1], sectors, self._options.block_size // SECTOR)

    def _open_base(self) -> tuple[int, int]:
        """(number, bytes) of the device with the empty file system; made once."""
        path = os.path.join(self.root, "base")
        try:
            number, size = map(int, os.readlink(path).split())
            return number, size
        except FileNotFoundError:
            pass
        size = self._options.base_size
        number = self._pool.create_thin(self._next)
        name = self._prefix + "-base"
        device = self._pool.activate(name, number, size)
        try:
            self._mkfs(device)
            with mounted((Mount(self._options.fs, device),)) as fd:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir("lost+found", dir_fd=fd)
                os.fchmod(fd, 0o755)
        except BaseException:
            self._pool.deactivate(name)
            self._pool.delete(number)
            raise
        if not self._pool.deactivate(name):
            raise System("devicemapper: the base device stays busy")
        os.symlink(f"{number} {size}", path)
        return number, size

    def _mkfs(self, device: str) -> None:
        command = [f"mkfs.{self._options.fs}", *self._options.mkfs_arguments]
        if self._options.fs == "ext4":
            command += ["-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]
        try:
            done = subprocess.run([*command, device], capture_output=True, text=True, check=False)
        except OSError as error:
            raise System(f"devicemapper: cannot run {command[0]}: {error}") from error
        if done.returncode:
            raise System(f"devicemapper: {command[0]}: {done.stderr.strip()}")

    def close(self) -> None:
        """The pool stays for the next start where anything is in use; else it is let go."""
        super().close()
        self._host.close()
        for entry in list(self._entries.values()):
            self._pool.deactivate(self._device_name(entry))
        if self._options.pool:
            return
        self._pool.remove()
        if not self._pool.exists():
            for name in ("data", "metadata"):
                device = loop.find(os.path.join(self._loops, name))
                if device is not None:
                    loop.detach(device)

    # ---- snapshots

    def _load(self) -> None:
        super()._load()
        self._orphans = [name for name in self._orphans if name not in ("pool", "base")]

    def _check_options(self, options: Mapping[str, str]) -> None:
        super()._check_options({k: v for k, v in options.items() if k.lower() != "size"})
        for value in options.values():
            if parse_size(value) < self._base_size:
                raise InvalidParameter(
                    f"devmapper: Container size cannot be smaller than {self._base_size}"
                )

    def _make(self, entry: Entry, path: str, options: Mapping[str, str]) -> None:
        if entry.parent is None:
            origin, size, name = self._base, self._base_size, None
        else:
            parent = self._parent(entry.parent)
            origin, size = self._device(self._path(parent))
            name = self._device_name(parent)
        busy = name if name is not None and thinpool.active(name) else None
        with self._lock:
            number = self._pool.create_snapshot(origin, self._next, busy)
            self._next = number + 1
        os.symlink(f"{number} {size}", path + "/device")
        for value in options.values():
            self._grow(entry, path, number, parse_size(value))

    def _grow(self, entry: Entry, path: str, number: int, size: int) -> None:
        device = self._pool.activate(self._device_name(entry), number, size)
        command = ["resize2fs", "-f", device]
        with contextlib.ExitStack() as scope:
            if self._options.fs == "xfs":
                fd = scope.enter_context(mounted((Mount("xfs", device, ("nouuid",)),)))
                command = ["xfs_growfs", f"/proc/{os.getpid()}/fd/{fd}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise System(f"devicemapper: {command[0]}: {done.stderr.strip()}")
        os.unlink(path + "/device")
        os.symlink(f"{number} {size}", path + "/device")

    def _device(self, path: str) -> tuple[int, int]:
        number, size = os.readlink(path + "/device").split()
        return int(number), int(size)

    def _device_name(self, entry: Entry) -> str:
        return f"{self._prefix}-{entry.id}"

    def _mounts(self, entry: Entry) -> tuple[Mount, ...]:
        access = "rw" if entry.kind is Kind.ACTIVE else "ro"
        return (Mount("bind", self._mounted(entry), ("rbind", access)),)

    def _mounted(self, entry: Entry) -> str:
        """Where a snapshot is mounted."""
        try:
            number, size = self._device(self._path(entry))
        except OSError as error:
            raise System(f"cannot read snapshot {entry.name}: {error}") from error
        options = [*self._options.mount_options]
        if self._options.fs == "xfs":
            options.append("nouuid")
        if entry.kind is not Kind.ACTIVE:
            options.append("ro")

        def mount(point: str) -> None:
            device = self._pool.activate(self._device_name(entry), number, size)
            apply((Mount(self._options.fs, device, tuple(options)),), point)

        return self._host.ensure(self._path(entry), mount)

    def _layer(self, entry: Entry) -> LayerFolder:
        lower: tuple[str, ...] = ()
        if entry.parent is not None:
            lower = (self._mounted(self._parent(entry.parent)),)
        return LayerFolder(self._mounted(entry), Flavour.PLAIN, lower)

    def _seal(self, entry: Entry, path: str) -> None:
        self._host.drop(path)
        name = self._device_name(entry)
        if not self._pool.deactivate(name):
            thinpool.dmsetup("suspend", name)  # flushes the file system
            thinpool.dmsetup("resume", name)

    def remove(self, key: str) -> None:
        entry = self._get(key)
        if not self._children.get(key):
            self._host.drop(self._path(entry))
        super().remove(key)

    def _delete(self, path: str) -> None:
        """Runs for what is in the trash; what is still busy stays there."""
        try:
            number, _ = self._device(path)
        except FileNotFoundError:
            remove_tree(path)
            return
        if not self._pool.deactivate(f"{self._prefix}-{os.path.basename(path)}"):
            return
        try:
            self._pool.delete(number)
        except System as error:
            if "No data" not in str(error):  # it is gone already
                raise OSError(f"{error}") from error
        remove_tree(path)

    def usage(self, key: str) -> Usage:
        layer = self.layer(key)
        return difference(layer.path, layer.lower[0] if layer.lower else None)

    def graph_driver_data(self, key: str) -> dict[str, str]:
        entry = self._get(key)
        number, size = self._device(self._path(entry))
        return {
            "DeviceId": str(number),
            "DeviceName": self._device_name(entry),
            "DeviceSize": str(size),
        }

    def status(self) -> Sequence[tuple[str, str]]:
        pool = self._pool.status()
        block = self._pool.block_sectors() * SECTOR

        def size(count: int) -> str:
            return f"{count / 1e9:.4g}GB"

        rows = [
            ("Pool Name", self._pool.name),
            ("Pool Blocksize", f"{block / 1e3:.4g}kB"),
            ("Base Device Size", size(self._base_size)),
            ("Backing Filesystem", self._options.fs),
            ("Udev Sync Supported", "false"),
            ("Data Space Used", size(pool.data_used * block)),
            ("Data Space Total", size(pool.data_total * block)),
            ("Data Space Available", size((pool.data_total - pool.data_used) * block)),
            ("Metadata Space Used", size(pool.metadata_used * 4096)),
            ("Metadata Space Total", size(pool.metadata_total * 4096)),
        ]
        if not self._options.pool:
            rows += [
                ("Data loop file", os.path.join(self._loops, "data")),
                ("Metadata loop file", os.path.join(self._loops, "metadata")),
            ]
        return rows
