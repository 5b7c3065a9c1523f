"""`fuse-overlayfs`: as overlay2, where the kernel has no overlay or does not let us use it.

The file system is a program, so here, unlike with every other driver, a snapshot that is used
is mounted on the host: `<root>/<id>/merged`, from the first `mounts` until it is committed,
removed, or the driver is closed with nobody using it. The program is started then and ends
with its mount; after a crash of the engine both are found again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping

from gantry.archive.removal import remove_tree
from gantry.kernel import procfs
from gantry.model.errors import System
from gantry.model.mount import Mount
from gantry.model.snapshot import Kind
from gantry.mounts.apply import unmount
from gantry.snapshots.folders import Entry
from gantry.snapshots.overlay import OverlaySnapshotter

PROGRAM = "fuse-overlayfs"
_TIMEOUT = 30.0


class FuseOverlaySnapshotter(OverlaySnapshotter):
    """See the module. System where there is no such program or no /dev/fuse."""

    name = "fuse-overlayfs"

    def __init__(self, root: str) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise System(f'driver not supported: fuse-overlayfs: exec: "{PROGRAM}": not found')
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise System("driver not supported: fuse-overlayfs: /dev/fuse is not usable")
        super().__init__(root)
        self._program = program
        self._mounting = threading.Lock()
        self._mounted = {
            mount.mount_point
            for mount in procfs.mountinfo()
            if mount.mount_point.startswith(os.path.abspath(root) + "/")
        }

    def _make(self, entry: Entry, path: str, options: Mapping[str, str]) -> None:
        super()._make(entry, path, options)
        os.mkdir(path + "/merged", 0o700)

    def _mounts(self, entry: Entry) -> tuple[Mount, ...]:
        emitted = super()._mounts(entry)
        if emitted[0].type != "overlay":
            return emitted
        point = self._path(entry, "merged")
        words = [word for word in emitted[0].options if word.partition("=")[0] in _KEPT]
        with self._mounting:
            if point not in self._mounted:
                self._start(point, words)
                self._mounted.add(point)
        access = "rw" if entry.kind is Kind.ACTIVE else "ro"
        return (Mount("bind", point, ("rbind", access)),)

    def _start(self, point: str, words: list[str]) -> None:
        options = ",".join((*words, "allow_other", "dev", "suid"))
        try:
            done = subprocess.run(
                [self._program, "-o", options, point],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise System(f"cannot start {PROGRAM}: {error}") from error
        if done.returncode:
            raise System(f"cannot start {PROGRAM}: {done.stderr.strip()}")

    def _seal(self, entry: Entry, path: str) -> None:
        self._stop(path)
        super()._seal(entry, path)

    def remove(self, key: str) -> None:
        entry = self._get(key)
        if not self._children.get(key):
            self._stop(self._path(entry))
        super().remove(key)

    def _delete(self, path: str) -> None:
        unmount(path + "/merged")
        remove_tree(path)

    def _stop(self, path: str) -> None:
        point = path + "/merged"
        with self._mounting:
            if point in self._mounted:
                unmount(point)
                self._mounted.discard(point)


_KEPT = ("lowerdir", "upperdir", "workdir")
