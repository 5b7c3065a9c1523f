"""Snapshots: layer file systems by name, after containerd's `core/snapshots`.

Glossary: an *active* snapshot is a writable layer, a *view* a read-only one; both have a
key that the caller chooses (a container's id). A *committed* snapshot is a layer that will
never change; it has a name (its chain id) and can be the parent of others. No driver
mounts anything: they emit `Mount` values, which whoever needs the files applies in a mount
namespace of its own.

Life cycle::

    mounts = driver.prepare("unpack-1", None)        # a writable layer with nothing below
    ... apply the layer's tar ...
    driver.commit("sha256:aa…", "unpack-1")          # now immutable
    mounts = driver.prepare("c0ffee…", "sha256:aa…") # a container's writable layer
    driver.remove("c0ffee…")

Standard library only: the launcher's packages import it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gantry.model.mount import Mount


class Kind(enum.Enum):
    ACTIVE = "active"
    VIEW = "view"
    COMMITTED = "committed"


class Flavour(enum.Enum):
    """How a deletion looks in a layer's own folder."""

    OVERLAY = "overlay"
    """Only this layer's entries; whiteouts are 0:0 character devices and opaque xattrs."""
    OVERLAY_USER = "overlay-user"
    """As OVERLAY with user.* xattrs, for engines without CAP_SYS_ADMIN."""
    PLAIN = "plain"
    """The whole tree, parents' files included; a deleted file is not there."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """name: key or committed name. parent: a committed name or None."""

    name: str
    kind: Kind
    parent: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot holds by itself, without its parents."""

    bytes: int
    inodes: int


@dataclass(frozen=True, slots=True)
class LayerFolder:
    """Where one snapshot's own files lie on the host, for those who apply or read layers.

    path: a folder; for flavour PLAIN it is the whole tree.
    lower: the folders of the parents, nearest first (flavour OVERLAY), or the parent's whole
    tree as the only element (PLAIN), or nothing.
    mounts, lower_mounts: where the files are not just there but have to be mounted, how; the
    paths say nothing then. `gantry.snapshots.private.opened` gives fds in either case.
    """

    path: str
    flavour: Flavour
    lower: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    lower_mounts: tuple[Mount, ...] = ()


class Snapshotter(Protocol):
    """One storage driver. Blocking; safe to call from several threads.

    NotFound: the key, name or parent is unknown. Conflict: the key or name exists, or a
    snapshot that has children is removed. System: the kernel or the disk failed.
    """

    name: str
    """As `docker info` shows it: overlay2, vfs, btrfs ..."""

    detached_layers: bool
    """Layers can be applied before their parents are there (`prepare` with parent None and
    `commit` with the parent): unpacking can go on in parallel."""

    def prepare(
        self, key: str, parent: str | None, *, options: Mapping[str, str] = {}
    ) -> tuple[Mount, ...]:
        """A new writable layer; its mounts. options: {"size": "10G"} where quotas exist,
        InvalidParameter where they do not."""

    def view(self, key: str, parent: str | None) -> tuple[Mount, ...]:
        """A read-only look at a committed snapshot (at nothing: an empty folder)."""

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """The mounts of an active snapshot or view, as `prepare` gave them."""

    def commit(self, name: str, key: str, *, parent: str | None = None) -> None:
        """Make an active snapshot immutable under `name`. The key is gone then. parent: only
        for a detached layer, which lies on this one from now on."""

    def remove(self, key: str) -> None:
        """Forget a key or a committed name. The files may be deleted later (`cleanup`)."""

    def stat(self, key: str) -> SnapshotInfo: ...

    def exists(self, key: str) -> bool: ...

    def usage(self, key: str) -> Usage:
        """Counts files: slow for large active snapshots."""

    def walk(self) -> Iterator[SnapshotInfo]:
        """All snapshots, in no order; a copy taken at the first step."""

    def layer(self, key: str) -> LayerFolder:
        """The folder of a key or a committed name."""

    def graph_driver_data(self, key: str) -> dict[str, str]:
        """`GraphDriver.Data` of inspect."""

    def status(self) -> Sequence[tuple[str, str]]:
        """`DriverStatus` of info."""

    def cleanup(self) -> None:
        """Delete what earlier `remove`s and a crash left behind; blocks until done."""

    def close(self) -> None:
        """Finish background work. The driver cannot be used any more."""
