"""Concrete storage drivers by name: the only place that knows which ones there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from gantry.kernel import procfs
from gantry.model.errors import InvalidParameter
from gantry.model.snapshot import Snapshotter
from gantry.snapshots.choice import ALIASES, choose

_PREFIXES = {"devicemapper": "dm.", "zfs": "zfs.", "btrfs": "btrfs.", "overlay2": "overlay2."}


def snapshotter(name: str, data_root: str, options: Sequence[str] = ()) -> Snapshotter:
    """The storage driver `name`; "": the one whose data is there, or the best that works.

    options: `storage-opts` ("dm.basesize=20G"). InvalidParameter, System.
    """
    driver = ALIASES.get(name, name)
    if options and driver:
        _check(driver, options)
    root = os.path.join(data_root, "snapshots")
    os.makedirs(root, mode=0o710, exist_ok=True)
    drivers = {each: partial(make, list(options)) for each, make in _MAKERS.items()}
    return choose(name, root, drivers)


def _check(driver: str, options: Sequence[str]) -> None:
    prefix = _PREFIXES.get(driver, driver + ".")
    for option in options:
        if not option.lower().startswith(prefix):
            raise InvalidParameter(f"{driver}: Unknown option {option.partition('=')[0]}")


def _overlay2(options: Sequence[str], root: str) -> Snapshotter:
    from gantry.snapshots.options import parse_options, parse_size
    from gantry.snapshots.overlay import OverlaySnapshotter

    mine = [option for option in options if option.lower().startswith("overlay2.")]
    found = parse_options(mine, "overlay2", frozenset({"size", "override_kernel_check"}))
    if "size" in found:
        parse_size(found["size"])
    return OverlaySnapshotter(
        root, userxattr=procfs.in_user_namespace(), default_size=found.get("size", "")
    )


def _vfs(options: Sequence[str], root: str) -> Snapshotter:
    from gantry.snapshots.vfs import VfsSnapshotter

    return VfsSnapshotter(root)


def _btrfs(options: Sequence[str], root: str) -> Snapshotter:
    from gantry.snapshots.btrfs import BtrfsSnapshotter
    from gantry.snapshots.options import parse_options, parse_size

    mine = [option for option in options if option.lower().startswith("btrfs.")]
    least = parse_options(mine, "btrfs", frozenset({"min_space"})).get("min_space")
    return BtrfsSnapshotter(root, min_space=parse_size(least) if least else 0)


def _zfs(options: Sequence[str], root: str) -> Snapshotter:
    from gantry.snapshots.zfs import ZfsSnapshotter

    return ZfsSnapshotter(root, [o for o in options if o.lower().startswith("zfs.")])


def _fuse(options: Sequence[str], root: str) -> Snapshotter:
    from gantry.snapshots.fuse import FuseOverlaySnapshotter

    return FuseOverlaySnapshotter(root)


def _devicemapper(options: Sequence[str], root: str) -> Snapshotter:
    from gantry.snapshots.devicemapper import DeviceMapperSnapshotter

    return DeviceMapperSnapshotter(root, [o for o in options if o.lower().startswith("dm.")])


def _aufs(options: Sequence[str], root: str) -> Snapshotter:
    from gantry.snapshots.aufs import open_aufs

    return open_aufs(root)


_MAKERS: dict[str, Callable[[Sequence[str], str], Snapshotter]] = {
    "overlay2": _overlay2,
    "btrfs": _btrfs,
    "zfs": _zfs,
    "fuse-overlayfs": _fuse,
    "devicemapper": _devicemapper,
    "vfs": _vfs,
    "aufs": _aufs,
}
