"""A cgroup where the caller may have no right to one: then the container has none of its own.

As runc: what was asked for in so many words (a path, a limit) has to be there; what was
only the default is left out.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gantry.cgroups import files
from gantry.cgroups.layout import Layout
from gantry.cgroups.stats import Stats
from gantry.cgroups.v1 import V1Cgroup
from gantry.cgroups.v2 import V2Cgroup
from gantry.model.resources import Resources

_NOWHERE: Mapping[str, str] = MappingProxyType({})
_DENIED: Final = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))
_NONE: Final = "container could not join or create cgroup"


class RootlessCgroup:
    """`inner` as far as there is one. explicit: its path was given, it must be made."""

    def __init__(
        self, layout: Layout, inner: V1Cgroup | V2Cgroup | None, *, explicit: bool
    ) -> None:
        self._layout = layout
        self._inner = inner
        self._explicit = explicit

    unit = ""

    def create(self, resources: Resources) -> None:
        # Device rules are for root to make; a user namespace's processes make no devices.
        resources = resources.replace(devices=())
        inner = self._inner
        if isinstance(inner, V1Cgroup) and not self._explicit:
            allowed = {name: path for name, path in inner.paths().items() if _may_make(path)}
            self._inner = inner = V1Cgroup(self._layout, allowed) if allowed else None
        try:
            if inner is not None:
                inner.create(resources)
        except OSError as error:
            if self._explicit or error.errno not in _DENIED:
                raise
            self._inner = inner = None
        if inner is None:
            _refuse(resources)

    def attach(self, pid: int, below: Mapping[str, str] = _NOWHERE) -> None:
        if self._inner is None:
            return
        try:
            self._inner.attach(pid, below)
        except OSError as error:
            if self._explicit or error.errno not in _DENIED:
                raise
            self._inner.destroy()
            self._inner = None

    def entrances(self, below: Mapping[str, str] = _NOWHERE) -> tuple[str, ...]:
        return ()

    def set(self, resources: Resources) -> None:
        if self._inner is None:
            _refuse(resources)
        else:
            self._inner.set(resources.replace(devices=()))

    def paths(self) -> dict[str, str]:
        return {} if self._inner is None else self._inner.paths()

    def _there(self) -> V1Cgroup | V2Cgroup:
        if self._inner is None:
            raise OSError(errno.EOPNOTSUPP, "cgroups not configured for container")
        return self._inner

    def pids(self) -> list[int]:
        if self._inner is None:
            raise FileNotFoundError(errno.ENOENT, "the container has no cgroup of its own")
        return self._inner.pids()

    def freeze(self) -> None:
        self._there().freeze()

    def thaw(self) -> None:
        self._there().thaw()

    def frozen(self) -> bool:
        return self._inner is not None and self._inner.frozen()

    def kill(self) -> bool:
        return self._inner is not None and self._inner.kill()

    def stats(self) -> Stats:
        return Stats() if self._inner is None else self._inner.stats()

    def oom_kills(self) -> int:
        return 0 if self._inner is None else self._inner.oom_kills()

    def destroy(self) -> None:
        if self._inner is not None:
            self._inner.destroy()


def _may_make(folder: str) -> bool:
    try:
        files.make(folder)
    except OSError as error:
        if error.errno in _DENIED:
            return False
        raise
    return True


def _refuse(resources: Resources) -> None:
    """OSError: a limit was asked for, and there is nothing to hold it."""
    asked = {
        "memory": resources.memory is not None
        and bool(resources.memory.limit or resources.memory.reservation or resources.memory.swap),
        "cpu": resources.cpu is not None and resources.cpu != type(resources.cpu)(),
        "pids": resources.pids is not None and resources.pids.limit is not None,
        "blkio": resources.block_io is not None
        and resources.block_io != type(resources.block_io)(),
        "hugetlb": bool(resources.hugepage_limits),
        "rdma": bool(resources.rdma),
        "unified": bool(resources.unified),
    }
    for name, wanted in asked.items():
        if wanted:
            raise OSError(errno.EPERM, f"cannot set {name} limit: {_NONE}")
