"""`vfs`: each snapshot is a whole copy of its parent. Works everywhere, costs the most.

Where the file system can share file data (btrfs, xfs, bcachefs), copies share it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from gantry.model.mount import Mount
from gantry.model.snapshot import Flavour, Kind, LayerFolder, Usage
from gantry.snapshots.folders import Entry, FolderSnapshotter
from gantry.snapshots.trees import copy_tree, difference


class VfsSnapshotter(FolderSnapshotter):
    """See the module."""

    name = "vfs"

    def _make(self, entry: Entry, path: str, options: Mapping[str, str]) -> None:
        fs = path + "/fs"
        os.mkdir(fs, 0o755)
        if entry.parent is None:
            os.chmod(fs, 0o755)
        elif entry.kind is Kind.ACTIVE:
            copy_tree(self._path(self._parent(entry.parent), "fs"), fs)

    def _mounts(self, entry: Entry) -> tuple[Mount, ...]:
        if entry.kind is Kind.ACTIVE:
            return (Mount("bind", self._path(entry, "fs"), ("rbind", "rw")),)
        source = entry
        if entry.kind is Kind.VIEW and entry.parent is not None:
            source = self._parent(entry.parent)
        return (Mount("bind", self._path(source, "fs"), ("rbind", "ro")),)

    def _layer(self, entry: Entry) -> LayerFolder:
        lower = (self._path(self._parent(entry.parent), "fs"),) if entry.parent else ()
        return LayerFolder(self._path(entry, "fs"), Flavour.PLAIN, lower)

    def usage(self, key: str) -> Usage:
        layer = self.layer(key)
        return difference(layer.path, layer.lower[0] if layer.lower else None)
