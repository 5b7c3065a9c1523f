"""`zfs`: each snapshot is a dataset, a layer one with a ZFS snapshot to clone from.

By the zfs(8) command line. Datasets are `<fsname>/<id>` with `mountpoint=legacy`, so nothing
is mounted on the host; what is emitted has file system type "zfs". `zfs.fsname` names the
parent dataset, by default the one that the root folder is on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gantry.archive.removal import remove_tree
from gantry.kernel import procfs
from gantry.model.errors import System
from gantry.model.mount import Mount
from gantry.model.snapshot import Flavour, Kind, LayerFolder, Usage
from gantry.snapshots.folders import Entry, FolderSnapshotter
from gantry.snapshots.options import parse_options, parse_size
from gantry.snapshots.private import mounted

Run = Callable[..., str]
"""Run `zfs` with these arguments: its output. System when it fails."""

_KNOWN: Final = frozenset({"fsname"})
_LAYER: Final = "@layer"


class ZfsSnapshotter(FolderSnapshotter):
    """See the module. System where ZFS is not there."""

    name = "zfs"

    def __init__(self, root: str, options: Sequence[str] = (), run: Run | None = None) -> None:
        found = parse_options(list(options), "zfs", _KNOWN)
        if run is None and shutil.which("zfs") is None:
            raise System("driver not supported: zfs: the zfs command is not installed")
        self._zfs: Run = run or _zfs
        super().__init__(root)
        self._parent_dataset = found.get("fsname") or _dataset_of(root)
        self._zfs("list", "-H", "-o", "name", self._parent_dataset)

    def _dataset(self, entry: Entry) -> str:
        return f"{self._parent_dataset}/{entry.id}"

    def _check_options(self, options: Mapping[str, str]) -> None:
        super()._check_options({k: v for k, v in options.items() if k.lower() != "size"})
        for value in options.values():
            parse_size(value)

    def _make(self, entry: Entry, path: str, options: Mapping[str, str]) -> None:
        words = ["-o", "mountpoint=legacy"]
        for value in options.values():
            words += ["-o", f"refquota={parse_size(value)}"]
        if entry.parent is None:
            self._zfs("create", *words, self._dataset(entry))
            with mounted((Mount("zfs", self._dataset(entry)),)) as fd:
                os.fchmod(fd, 0o755)
        else:
            parent = self._dataset(self._parent(entry.parent)) + _LAYER
            self._zfs("clone", *words, parent, self._dataset(entry))

    def _seal(self, entry: Entry, path: str) -> None:
        self._zfs("snapshot", self._dataset(entry) + _LAYER)

    def _delete(self, path: str) -> None:
        dataset = f"{self._parent_dataset}/{os.path.basename(path)}"
        try:
            self._zfs("destroy", "-r", dataset)
        except System as error:
            if "does not exist" not in str(error):
                raise OSError(str(error)) from error
        remove_tree(path)

    def _mounts(self, entry: Entry) -> tuple[Mount, ...]:
        if entry.kind is Kind.ACTIVE:
            return (Mount("zfs", self._dataset(entry)),)
        suffix = _LAYER if entry.kind is Kind.COMMITTED else ""
        return (Mount("zfs", self._dataset(entry) + suffix, ("ro",)),)

    def _layer(self, entry: Entry) -> LayerFolder:
        below: tuple[Mount, ...] = ()
        if entry.parent is not None:
            below = self._mounts(self._parent(entry.parent))
        return LayerFolder("", Flavour.PLAIN, ("",) if below else (), self._mounts(entry), below)

    def usage(self, key: str) -> Usage:
        entry = self._get(key)
        used = self._zfs("get", "-H", "-p", "-o", "value", "used", self._dataset(entry))
        return Usage(int(used.strip() or 0), 0)

    def graph_driver_data(self, key: str) -> dict[str, str]:
        return {"Dataset": self._dataset(self._get(key)), "Mountpoint": ""}

    def status(self) -> Sequence[tuple[str, str]]:
        values = self._zfs(
            *("list", "-H", "-p", "-o", "used,available,quota,compression"),
            self._parent_dataset,
        ).split()
        used, available, quota, compression = (*values, "", "", "", "")[:4]
        return [
            ("Zpool", self._parent_dataset.partition("/")[0]),
            ("Parent Dataset", self._parent_dataset),
            ("Space Used By Parent", used),
            ("Space Available", available),
            ("Parent Quota", quota if quota != "0" else "no"),
            ("Compression", compression),
        ]


def _dataset_of(root: str) -> str:
    """The dataset that a folder is on. System where it is on another file system."""
    best = ("", "", "")
    path = os.path.abspath(root)
    for mount in procfs.mountinfo():
        point = mount.mount_point
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, mount.fstype, mount.source)
    if best[1] != "zfs":
        raise System(
            "driver not supported: zfs: prerequisites for driver not satisfied"
            f" (wrong filesystem?): {root}"
        )
    return best[2]


def _zfs(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["zfs", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise System(f"cannot run zfs: {error}") from error
    if done.returncode:
        raise System(f"zfs {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
