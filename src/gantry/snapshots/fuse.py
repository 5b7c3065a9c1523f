"""`fuse-overlayfs`: as overlay2, where the kernel has no overlay or does not let us use it.

The file system is a program: it is started by the first `mounts` of a snapshot, which is then
mounted on the host (`gantry.snapshots.hostmounts`), and ends with its last mount.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from gantry.model.errors import System
from gantry.model.mount import Mount
from gantry.model.snapshot import Kind
from gantry.snapshots.folders import Entry
from gantry.snapshots.hostmounts import HostMounts
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
        self._host = HostMounts(root)

    def _mounts(self, entry: Entry) -> tuple[Mount, ...]:
        emitted = super()._mounts(entry)
        if emitted[0].type != "overlay":
            return emitted
        words = [word for word in emitted[0].options if word.partition("=")[0] in _KEPT]
        point = self._host.ensure(self._path(entry), lambda at: self._start(at, words))
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
        self._host.drop(path)
        super()._seal(entry, path)

    def remove(self, key: str) -> None:
        entry = self._get(key)
        if not self._children.get(key):
            self._host.drop(self._path(entry))
        super().remove(key)

    def close(self) -> None:
        super().close()
        self._host.close()


_KEPT = ("lowerdir", "upperdir", "workdir")
