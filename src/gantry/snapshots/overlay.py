"""`overlay2`: each snapshot holds only its own changes, overlayfs stacks them.

`<root>/<id>/fs` has the snapshot's files, `work` is overlayfs's scratch space beside it.
A layer can be unpacked before its parents are there, since nothing of them is needed.

Mounted with `redirect_dir=nofollow,metacopy=off,index=off` where the kernel knows these: a
directory's or file's content is then always found in the layer that claims it, so the upper
folder alone is the layer's difference, and a layer from elsewhere that carries overlay
xattrs cannot point at another place. (`archive` drops such xattrs as well.)
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping, Sequence

from gantry.model.errors import InvalidParameter, System
from gantry.model.mount import Mount
from gantry.model.snapshot import Flavour, Kind, LayerFolder
from gantry.snapshots.filesystem import backing_name
from gantry.snapshots.folders import Entry, FolderSnapshotter
from gantry.snapshots.options import parse_size
from gantry.snapshots.quota import ProjectQuota

_PARAMETERS = "/sys/module/overlay/parameters"


class OverlaySnapshotter(FolderSnapshotter):
    """See the module. userxattr: for engines in a user namespace."""

    name = "overlay2"
    detached_layers = True

    def __init__(self, root: str, *, userxattr: bool = False, default_size: str = "") -> None:
        """default_size: `overlay2.size`, of containers that ask for none."""
        super().__init__(root)
        self._default_size = default_size
        self._flavour = Flavour.OVERLAY_USER if userxattr else Flavour.OVERLAY
        self._options = _mount_options(userxattr)
        self._quota: ProjectQuota | None = None
        self._quota_lock = threading.Lock()

    def prepare(
        self, key: str, parent: str | None, *, options: Mapping[str, str] = {}
    ) -> tuple[Mount, ...]:
        if self._default_size and parent is not None and not options:
            options = {"size": self._default_size}
        return super().prepare(key, parent, options=options)

    def _make(self, entry: Entry, path: str, options: Mapping[str, str]) -> None:
        mode, uid, gid = 0o755, 0, 0
        if entry.parent is not None:
            # The root of the container is the upper folder's: it looks as the image says.
            info = os.stat(self._path(self._parent(entry.parent), "fs"))
            mode, uid, gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
        for value in options.values():
            # Of all in it: between projects nothing can be renamed, and overlayfs moves what it
            # has made in `work` to `fs`.
            self._quotas().set(path, parse_size(value))
        fs = path + "/fs"
        os.mkdir(fs, 0o755)
        if uid or gid:
            os.chown(fs, uid, gid)
        if mode != 0o755 or stat.S_IMODE(os.stat(fs).st_mode) != mode:
            os.chmod(fs, mode)
        if entry.kind is Kind.ACTIVE:
            os.mkdir(path + "/work", 0o700)

    def _check_options(self, options: Mapping[str, str]) -> None:
        super()._check_options({k: v for k, v in options.items() if k.lower() != "size"})
        for value in options.values():
            parse_size(value)
        try:
            self._quotas()
        except System as error:
            raise InvalidParameter(
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
                f" or ext4 with 'prjquota': {error}"
            ) from error

    def _quotas(self) -> ProjectQuota:
        with self._quota_lock:
            if self._quota is None:
                self._quota = ProjectQuota(self.root, backing_name(self.root) == "xfs")
            return self._quota

    def _mounts(self, entry: Entry) -> tuple[Mount, ...]:
        below = [self._path(parent, "fs") for parent in self._ancestors(entry)]
        own = self._path(entry, "fs")
        if entry.kind is not Kind.ACTIVE:
            layers = below if entry.kind is Kind.VIEW else [own, *below]
            if len(layers) < 2:
                return (Mount("bind", layers[0] if layers else own, ("rbind", "ro")),)
            return (Mount("overlay", "overlay", ("lowerdir=" + ":".join(layers), *self._options)),)
        if not below:
            return (Mount("bind", own, ("rbind", "rw")),)
        return (
            Mount(
                "overlay",
                "overlay",
                (
                    "lowerdir=" + ":".join(below),
                    "upperdir=" + own,
                    "workdir=" + self._path(entry, "work"),
                    *self._options,
                ),
            ),
        )

    def _layer(self, entry: Entry) -> LayerFolder:
        lower = tuple(self._path(parent, "fs") for parent in self._ancestors(entry))
        return LayerFolder(self._path(entry, "fs"), self._flavour, lower)

    def graph_driver_data(self, key: str) -> dict[str, str]:
        entry = self._get(key)
        data = {
            "MergedDir": self._path(entry, "merged"),
            "UpperDir": self._path(entry, "fs"),
            "WorkDir": self._path(entry, "work"),
        }
        lower = [self._path(parent, "fs") for parent in self._ancestors(entry)]
        if lower:
            data["LowerDir"] = ":".join(lower)
        return data

    def status(self) -> Sequence[tuple[str, str]]:
        return [
            ("Backing Filesystem", backing_name(self.root)),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", str(self._flavour is Flavour.OVERLAY_USER).lower()),
        ]


def _mount_options(userxattr: bool) -> tuple[str, ...]:
    options = ["userxattr"] if userxattr else []
    for name, value in (("index", "off"), ("redirect_dir", "nofollow"), ("metacopy", "off")):
        # In a user namespace the kernel decides about redirects and metacopy by itself.
        if os.path.exists(f"{_PARAMETERS}/{name}") and not (userxattr and name != "index"):
            options.append(f"{name}={value}")
    return tuple(options)
