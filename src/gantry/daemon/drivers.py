"""Concrete drivers by name: the only place that knows which ones there are."""

from __future__ import annotations

import logging
import os

from gantry.model.errors import InvalidParameter, System
from gantry.model.snapshot import Snapshotter

_log = logging.getLogger(__name__)

_ALIASES = {"overlay": "overlay2"}


def snapshotter(name: str, data_root: str) -> Snapshotter:
    """The storage driver `name`; "": the one whose data is there, or the best that works."""
    root = os.path.join(data_root, "snapshots")
    wanted = _ALIASES.get(name, name)
    if wanted:
        return _open(wanted, os.path.join(root, wanted))
    for prior in ("overlay2", "vfs"):
        if os.path.isdir(os.path.join(root, prior)):
            return _open(prior, os.path.join(root, prior))
    try:
        return _open("overlay2", os.path.join(root, "overlay2"))
    except System as error:
        _log.warning("overlay2 does not work here (%s): using vfs", error)
        return _open("vfs", os.path.join(root, "vfs"))


def _open(name: str, root: str) -> Snapshotter:
    if name == "overlay2":
        from gantry.snapshots.overlay import OverlaySnapshotter

        return OverlaySnapshotter(root)
    if name == "vfs":
        from gantry.snapshots.vfs import VfsSnapshotter

        return VfsSnapshotter(root)
    raise InvalidParameter(
        f"error initializing graphdriver: driver not supported: {name} (overlay2, vfs)"
    )
