"""Mounts on the host, for drivers whose file systems a container's own namespace cannot make:
a program serves them, or a block device has to be opened that the container's cgroup denies.

Each snapshot in use is mounted at `<root>/<id>/merged` and emitted as a bind mount of that. A
detached bind mount of it lives on in its container when the one here is let go, so all are
let go when the driver is closed, and made again when they are asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from gantry.kernel import mountapi, procfs, syscalls
from gantry.model.errors import System
from gantry.mounts.apply import unmount

POINT = "merged"


class HostMounts:
    """What is mounted below one driver's root. Thread-safe."""

    def __init__(self, root: str) -> None:
        """Those that an earlier process left are known too."""
        self._lock = threading.Lock()
        inside = os.path.realpath(root) + "/"
        self._points = {
            mount.mount_point
            for mount in procfs.mountinfo()
            if mount.mount_point.startswith(inside)
        }

    def ensure(self, folder: str, mount: Callable[[str], None]) -> str:
        """The mount point in a snapshot's folder, where `mount(point)` is called once."""
        point = os.path.join(os.path.realpath(folder), POINT)
        with self._lock:
            if point not in self._points:
                try:
                    os.makedirs(point, mode=0o700, exist_ok=True)
                    mount(point)
                    # What comes and goes here is not to be seen in other namespaces.
                    syscalls.mount("", point, None, mountapi.MS_PRIVATE)
                except OSError as error:
                    unmount(point)
                    raise System(f"cannot mount snapshot: {error}") from error
                self._points.add(point)
        return point

    def drop(self, folder: str) -> None:
        point = os.path.join(os.path.realpath(folder), POINT)
        with self._lock:
            if point in self._points:
                unmount(point)
                self._points.discard(point)

    def close(self) -> None:
        with self._lock:
            for point in self._points:
                unmount(point)
            self._points.clear()
