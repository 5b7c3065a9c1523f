"""What drivers with a folder a snapshot share: names, parents, trash.

On disk::

    <root>/<id>/meta      a symlink to nowhere: "<kind> <parent name or -> <name>"
    <root>/<id>/…         the driver's own files
    <root>/trash/<id>/    removed, not yet deleted

`meta` is made last and replaced by rename, so a snapshot is there whole or not at all: a
folder without it is what a crash left and goes at `cleanup`. A symlink because it is one
system call to make, one to read, and on most file systems lies in the inode. Ids are short:
an overlay of many layers names each in one page of mount options.

All names are known in memory; two processes must not use one root at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gantry.archive.removal import remove_tree
from gantry.model.errors import Conflict, InvalidParameter, NotFound, System
from gantry.model.mount import Mount
from gantry.model.snapshot import Kind, LayerFolder, SnapshotInfo, Usage
from gantry.snapshots.trees import disk_usage

_log = logging.getLogger(__name__)

_PATIENCE = 5.0
"""Seconds that `close` lets the trash be emptied; the rest goes at the next start."""
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_LETTERS = {Kind.ACTIVE: "a", Kind.VIEW: "v", Kind.COMMITTED: "c"}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One snapshot. id: its folder's name; name: key or committed name."""

    id: str
    kind: Kind
    parent: str | None
    name: str


class FolderSnapshotter(ABC):
    """See the module, and `gantry.model.snapshot.Snapshotter` for what the methods promise."""

    name = ""
    detached_layers = False

    def __init__(self, root: str) -> None:
        """Make or open `root`. What a crash left is only deleted by `cleanup`."""
        self.root = root
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._children: dict[str, int] = {}
        self._pending: set[str] = set()
        self._orphans: list[str] = []
        self._trash = os.path.join(root, "trash")
        self._bin: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._sweeper: threading.Thread | None = None
        self._sweep_lock = threading.Lock()
        self._stopping = False
        try:
            os.makedirs(self._trash, mode=0o700, exist_ok=True)
            os.chmod(root, 0o710)
            self._load()
        except OSError as error:
            raise System(f"cannot open snapshots in {root}: {error}") from error

    # ---- what drivers say

    @abstractmethod
    def _make(self, entry: Entry, path: str, options: Mapping[str, str]) -> None:
        """Make the files of a new snapshot below `path`, a fresh folder (mode 0700)."""

    @abstractmethod
    def _mounts(self, entry: Entry) -> tuple[Mount, ...]: ...

    @abstractmethod
    def _layer(self, entry: Entry) -> LayerFolder: ...

    def _seal(self, entry: Entry, path: str) -> None:
        """`entry` becomes committed: drop what only a writable layer needs."""
        with contextlib.suppress(FileNotFoundError):
            remove_tree(os.path.join(path, "work"))

    def _delete(self, path: str) -> None:
        """Delete a folder in the trash with all its files."""
        remove_tree(path)

    def _check_options(self, options: Mapping[str, str]) -> None:
        for key in options:
            raise InvalidParameter(
                f"--storage-opt {key} is not supported by storage driver {self.name}"
                " on this file system"
            )

    # ---- the Protocol

    def prepare(
        self, key: str, parent: str | None, *, options: Mapping[str, str] = {}
    ) -> tuple[Mount, ...]:
        if options:
            self._check_options(options)
        return self._mounts(self._create(Kind.ACTIVE, key, parent, options))

    def view(self, key: str, parent: str | None) -> tuple[Mount, ...]:
        return self._mounts(self._create(Kind.VIEW, key, parent, {}))

    def mounts(self, key: str) -> tuple[Mount, ...]:
        return self._mounts(self._get(key))

    def commit(self, name: str, key: str, *, parent: str | None = None) -> None:
        entry = self._get(key)
        if entry.kind is not Kind.ACTIVE:
            raise Conflict(f"snapshot {key} is not active")
        if parent is not None and parent != entry.parent:
            if not self.detached_layers or entry.parent is not None:
                raise InvalidParameter(f"snapshot {key} cannot get another parent")
            self._parent(parent)
        sealed = replace(
            entry, kind=Kind.COMMITTED, name=name, parent=entry.parent if parent is None else parent
        )
        self._reserve(name)
        try:
            path = os.path.join(self.root, entry.id)
            self._seal(entry, path)
            os.symlink(_encode(sealed), os.path.join(path, "meta.new"))
            os.rename(os.path.join(path, "meta.new"), os.path.join(path, "meta"))
        except OSError as error:
            raise System(f"cannot commit snapshot {key}: {error}") from error
        finally:
            self._pending.discard(name)
        with self._lock:
            del self._entries[key]
            self._entries[name] = sealed
            if sealed.parent is not None and entry.parent is None:
                self._children[sealed.parent] = self._children.get(sealed.parent, 0) + 1

    def remove(self, key: str) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                raise NotFound(f"snapshot {key} does not exist")
            if self._children.get(key):
                raise Conflict(f"snapshot {key} has children")
            try:
                os.rename(os.path.join(self.root, entry.id), os.path.join(self._trash, entry.id))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise System(f"cannot remove snapshot {key}: {error}") from error
            self._forget(entry)
        self._sweep_later(entry.id)

    def stat(self, key: str) -> SnapshotInfo:
        entry = self._get(key)
        return SnapshotInfo(entry.name, entry.kind, entry.parent)

    def exists(self, key: str) -> bool:
        return key in self._entries

    def usage(self, key: str) -> Usage:
        return disk_usage(self._layer(self._get(key)).path)

    def walk(self) -> Iterator[SnapshotInfo]:
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            yield SnapshotInfo(entry.name, entry.kind, entry.parent)

    def layer(self, key: str) -> LayerFolder:
        return self._layer(self._get(key))

    def graph_driver_data(self, key: str) -> dict[str, str]:
        return {}

    def status(self) -> Sequence[tuple[str, str]]:
        return []

    def cleanup(self) -> None:
        orphans, self._orphans = self._orphans, []
        for orphan in orphans:
            with contextlib.suppress(OSError):
                os.rename(os.path.join(self.root, orphan), os.path.join(self._trash, orphan))
        for name in os.listdir(self._trash):
            self._sweep(name)

    def close(self) -> None:
        if self._sweeper is not None:
            self._bin.put(None)
            self._sweeper.join(_PATIENCE)
            self._stopping = True
            self._sweeper.join()
            self._sweeper = None

    # ---- inside

    def _path(self, entry: Entry, *parts: str) -> str:
        return os.path.join(self.root, entry.id, *parts)

    def _get(self, key: str) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            raise NotFound(f"snapshot {key} does not exist")
        return entry

    def _parent(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None or entry.kind is not Kind.COMMITTED:
            raise NotFound(f"parent snapshot {name} does not exist")
        return entry

    def _ancestors(self, entry: Entry) -> list[Entry]:
        """Committed parents, nearest first."""
        found: list[Entry] = []
        parent = entry.parent
        while parent is not None:
            above = self._parent(parent)
            found.append(above)
            parent = above.parent
        return found

    def _reserve(self, name: str) -> None:
        with self._lock:
            if name in self._entries or name in self._pending:
                raise Conflict(f"snapshot {name} already exists")
            self._pending.add(name)

    def _create(
        self, kind: Kind, key: str, parent: str | None, options: Mapping[str, str]
    ) -> Entry:
        if parent is not None:
            self._parent(parent)
        self._reserve(key)
        entry = Entry("", kind, parent, key)
        try:
            entry = replace(entry, id=self._folder())
            path = os.path.join(self.root, entry.id)
            self._make(entry, path, options)
            os.symlink(_encode(entry), os.path.join(path, "meta"))
        except BaseException as error:
            if entry.id:
                self._discard(entry.id)
            if isinstance(error, OSError):
                raise System(f"cannot make snapshot {key}: {error}") from error
            raise
        finally:
            self._pending.discard(key)
        with self._lock:
            self._entries[key] = entry
            if parent is not None:
                self._children[parent] = self._children.get(parent, 0) + 1
        return entry

    def _folder(self) -> str:
        while True:
            identity = "".join(_ALPHABET[byte & 31] for byte in os.urandom(6))
            try:
                os.mkdir(os.path.join(self.root, identity), 0o700)
            except FileExistsError:
                continue
            return identity

    def _discard(self, identity: str) -> None:
        with contextlib.suppress(OSError):
            os.rename(os.path.join(self.root, identity), os.path.join(self._trash, identity))
            self._sweep_later(identity)

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.name]
        if entry.parent is not None:
            left = self._children.get(entry.parent, 0) - 1
            if left > 0:
                self._children[entry.parent] = left
            else:
                self._children.pop(entry.parent, None)

    def _load(self) -> None:
        with os.scandir(self.root) as found:
            names = [item.name for item in found if item.is_dir(follow_symlinks=False)]
        for identity in names:
            if identity == "trash":
                continue
            try:
                entry = _decode(identity, os.readlink(os.path.join(self.root, identity, "meta")))
            except (OSError, ValueError, KeyError):
                self._orphans.append(identity)
                continue
            self._entries[entry.name] = entry
        for entry in self._entries.values():
            if entry.parent is not None:
                self._children[entry.parent] = self._children.get(entry.parent, 0) + 1

    def _sweep_later(self, identity: str) -> None:
        with self._lock:
            if self._sweeper is None:
                self._sweeper = threading.Thread(
                    target=self._sweeping, name=f"{self.name}-trash", daemon=True
                )
                self._sweeper.start()
        self._bin.put(identity)

    def _sweeping(self) -> None:
        while not self._stopping and (identity := self._bin.get()) is not None:
            self._sweep(identity)

    def _sweep(self, identity: str) -> None:
        with self._sweep_lock:  # `cleanup` returns when also the thread is done
            try:
                self._delete(os.path.join(self._trash, identity))
            except FileNotFoundError:
                return
            except OSError as error:
                _log.warning("cannot delete %s/%s: %s", self._trash, identity, error)


def _encode(entry: Entry) -> str:
    return f"{_LETTERS[entry.kind]} {entry.parent or '-'} {entry.name}"


def _decode(identity: str, meta: str) -> Entry:
    letter, parent, name = meta.split(" ", 2)
    return Entry(identity, _KINDS[letter], None if parent == "-" else parent, name)
