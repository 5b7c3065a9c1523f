"""Which storage driver to use, as dockerd decides (moby `daemon/graphdriver`).

1. The one that was asked for (`storage-driver`), under its own or an old name.
2. The one whose data is there. Data of several, and none asked for, is an error.
3. The first of the usual ones that works here.

Opening is the caller's: it knows the drivers. An error of the second or third kind is told
with what was tried.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from gantry.model.errors import GantryError, InvalidParameter, System
from gantry.model.snapshot import Snapshotter

Open = Callable[[str], Snapshotter]
"""Make a driver on a root folder. GantryError where it does not work."""

ALIASES: Final = {"overlay": "overlay2", "fuse-overlay": "fuse-overlayfs"}
USUAL: Final = ("overlay2", "btrfs", "zfs", "fuse-overlayfs", "vfs")
"""In the order of preference. devicemapper is only taken when asked for, as its data is
nowhere else and its default pool is slow."""


def choose(wanted: str, root: str, drivers: Mapping[str, Open]) -> Snapshotter:
    """Open the driver to use below the folder `root`, each in a folder of its name."""
    name = ALIASES.get(wanted, wanted)
    if name:
        if name not in drivers:
            raise InvalidParameter(
                f"error initializing graphdriver: driver not supported: {wanted}"
            )
        try:
            return drivers[name](os.path.join(root, name))
        except System as error:
            raise System(f"error initializing graphdriver: {error}") from error
    prior = [name for name in drivers if _has_data(os.path.join(root, name))]
    if len(prior) > 1:
        raise InvalidParameter(
            f"error initializing graphdriver: {root} contains several valid graphdrivers:"
            f" {', '.join(sorted(prior))}; cleanup or explicitly choose storage driver"
            " (-s <DRIVER>)"
        )
    if prior:
        try:
            return drivers[prior[0]](os.path.join(root, prior[0]))
        except GantryError as error:
            raise System(
                f"error initializing graphdriver: prior storage driver {prior[0]} failed: {error}"
            ) from error
    tried: list[str] = []
    for name in USUAL:
        if name in drivers and (name != "btrfs" or _on(root, "btrfs")):
            try:
                return drivers[name](os.path.join(root, name))
            except GantryError as error:
                tried.append(f"{name}: {error}")
                _drop_empty(os.path.join(root, name))
    raise System("error initializing graphdriver: no driver works: " + "; ".join(tried))


def _has_data(path: str) -> bool:
    """A folder with more in it than an empty trash."""
    try:
        return any(name != "trash" for name in os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _on(root: str, fs: str) -> bool:
    from gantry.snapshots.filesystem import backing_name

    while not os.path.isdir(root):
        root = os.path.dirname(root)
    return backing_name(root) == fs


def _drop_empty(path: str) -> None:
    for folder in (os.path.join(path, "trash"), path):
        try:
            os.rmdir(folder)
        except OSError:
            return
