"""Files of containers: cp both ways, export, diff, and what a new volume starts with.

The container's tree is held by fd (`gantry.containers.view`); every path is resolved inside
it by the kernel, and archives are written and applied relative to fds. Blocking work is done
in threads; nothing of the container is run or loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import stat as modes
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from gantry.archive.apply import apply_layer
from gantry.archive.compression import decompress
from gantry.archive.diff import resource, tree
from gantry.archive.errors import ArchiveError
from gantry.archive.header import Entry
from gantry.archive.reader import TarReader
from gantry.containers import changes as difference
from gantry.containers.clock import rfc3339
from gantry.containers.core import Core
from gantry.containers.identity import Identities
from gantry.containers.record import Container, MountRecord, Record
from gantry.containers.rootfs import Unsure, layers_of
from gantry.containers.view import Tree
from gantry.images.bridge import Inlet, outlet
from gantry.ipc.owner import TaskOwner
from gantry.kernel.syscalls import RESOLVE_IN_ROOT, openat2
from gantry.model.errors import Conflict, InvalidParameter, NotFound, System
from gantry.model.mount import Mount
from gantry.model.snapshot import Flavour
from gantry.mounts.resolve import ensure_directory, open_in_root, open_plain

Json = dict[str, Any]

_LOOK: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_VIRTUAL: Final = ("/proc", "/sys", "/dev")
_GO_BITS: Final = (
    (modes.S_ISDIR, 1 << 31),
    (modes.S_ISLNK, 1 << 27),
    (modes.S_ISBLK, 1 << 26),
    (modes.S_ISCHR, 1 << 26 | 1 << 21),
    (modes.S_ISFIFO, 1 << 25),
    (modes.S_ISSOCK, 1 << 24),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a container: the folder it is in, by fd, and its last part.

    base: "." where the path itself names the folder. shown: the name in archives.
    """

    parent: int
    base: str
    shown: str
    path: str


class Archives:
    """HEAD, GET and PUT archive, GET export and changes; volumes' first content."""

    def __init__(self, core: Core, identities: Identities) -> None:
        self._core = core
        self._identities = identities

    async def stat(self, name: str, path: str) -> Json:
        """{"name", "size", "mode" (Go's), "mtime", "linkTarget"}. NotFound."""
        container = self._core.table.get(name)
        return await asyncio.to_thread(self._stat, container, name, path)

    def get(self, name: str, path: str) -> AsyncIterator[bytes]:
        """The tar of one file or folder, under its own name."""
        container = self._core.table.get(name)
        self._core.event(container, "archive-path", {"path": path})
        return outlet(self._read(container, name, path))

    async def put(
        self,
        name: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        """Unpack a tar (plain or compressed) in the folder `path`."""
        container = self._core.table.get(name)
        owner: tuple[int, int] | None = None
        if copy_uid_gid and container.record.config.user:
            identity = await self._identities.of(container, container.record.config.user)
            owner = (identity.uid, identity.gid)
        inlet = Inlet()
        feeding = TaskOwner("archive")
        feeding.spawn(inlet.feed(body), "body")
        try:
            await asyncio.to_thread(
                self._write, container, name, path, inlet, owner, no_overwrite_dir_non_dir
            )
        finally:
            inlet.close()
            await feeding.aclose()
        self._core.event(container, "extract-to-dir", {"path": path})

    def export(self, name: str) -> AsyncIterator[bytes]:
        """The tar of the whole file system, without volumes."""
        container = self._core.table.get(name)
        if container.state.dead:
            raise Conflict(f"You cannot export container {container.id} which is Dead")
        if container.state.removing:
            raise Conflict(f"You cannot export container {container.id} which is being removed")
        self._core.event(container, "export")
        return outlet(self._export(container))

    async def changes(self, name: str) -> list[Json]:
        """[{"Path", "Kind"}]: 0 changed, 1 added, 2 deleted."""
        container = self._core.table.get(name)
        folder = self._core.snapshots.layer(container.id)
        found = await asyncio.to_thread(difference.of_layer, folder)
        return [{"Path": path, "Kind": kind} for path, kind in found]

    async def populate(self, record: Record, mount: MountRecord, volume: str) -> None:
        """Copy what the image has at the mount's place into the empty folder `volume`."""
        mounts = self._core.snapshots.mounts(record.id)
        await asyncio.to_thread(_populate, mounts, mount.destination, volume)

    async def make_folder(self, record: Record, path: str) -> None:
        """The folder `path` and its parents, where they are missing. InvalidParameter."""
        mounts = self._core.snapshots.mounts(record.id)
        try:
            layers = layers_of(mounts)
        except Unsure:
            layers = None
        if layers is None or not any(_has_folder(each, path) for each in layers.lower):
            await asyncio.to_thread(_make_folder, mounts, path)

    # ---- in threads

    def _tree(self, container: Container, *, alone: bool = False) -> Tree:
        """The container's files: with its volumes and binds, or `alone` without."""
        pid = container.state.pid
        if pid and container.live.task is not None:
            own = [mount.destination for mount in container.record.mounts]
            hide = [
                path
                for path in _VIRTUAL
                if not any(each == path or each.startswith(path + "/") for each in own)
            ]
            # Its process may end just now; then the files are there without it.
            with contextlib.suppress(System):
                return Tree.of_process(pid, hide=hide, alone=alone)
        mounts = list(self._core.snapshots.mounts(container.id))
        if not alone:
            mounts += self._extra(container)
        return Tree.mounted(mounts)

    def _extra(self, container: Container) -> list[Mount]:
        folder = self._core.folder(container.id)
        own = ("resolv.conf", "hostname", "hosts")
        extra = [
            Mount("bind", f"{folder}/{name}", ("rbind",), f"/etc/{name}")
            for name in own
            if os.path.exists(f"{folder}/{name}")
        ]
        for mount in sorted(container.record.mounts, key=lambda m: m.destination.count("/")):
            if mount.kind == "volume":
                source = self._core.volumes.path(mount.name)
            elif mount.kind == "bind":
                source = mount.source
            else:
                continue
            if os.path.exists(source):
                options = ("rbind",) if mount.writable else ("rbind", "ro")
                extra.append(Mount("bind", source, options, mount.destination))
        return extra

    def _stat(self, container: Container, name: str, path: str) -> Json:
        with ExitStack() as scope:
            tree_ = scope.enter_context(self._tree(container))
            place = _find(name, tree_, path, scope)
            info = _lstat(name, place)
            target = ""
            if modes.S_ISLNK(info.st_mode):
                target = _final_target(tree_, place.path)
            return {
                "name": place.shown,
                "size": info.st_size,
                "mode": go_mode(info.st_mode),
                "mtime": rfc3339(info.st_mtime_ns),
                "linkTarget": target,
            }

    def _read(self, container: Container, name: str, path: str) -> Iterator[bytes]:
        with ExitStack() as scope:
            tree_ = scope.enter_context(self._tree(container))
            place = _find(name, tree_, path, scope)
            _lstat(name, place)
            shown = place.shown if place.shown != "/" else "."
            try:
                yield from resource(place.parent, os.fsencode(place.base), os.fsencode(shown))
            except OSError as error:  # a running container changes things meanwhile
                raise _missing(name, path, error) from error

    def _write(
        self,
        container: Container,
        name: str,
        path: str,
        inlet: Inlet,
        owner: tuple[int, int] | None,
        keep_kinds: bool,
    ) -> None:
        with ExitStack() as scope:
            tree_ = scope.enter_context(self._tree(container))
            try:
                held = open_in_root(tree_.root, path)
            except OSError as error:
                raise _missing(name, path, error) from None
            scope.callback(os.close, held)
            if not modes.S_ISDIR(os.fstat(held).st_mode):
                raise InvalidParameter("extraction point is not a directory")
            real = os.path.normpath("/" + os.readlink(f"/proc/self/fd/{held}").lstrip("/"))
            if container.record.host_config.readonly_rootfs and _on_rootfs(container, real):
                raise InvalidParameter("container rootfs is marked read-only")
            root = os.open(f"/proc/self/fd/{held}", _LOOK & ~os.O_PATH)
            scope.callback(os.close, root)
            _, source = decompress(inlet.read)
            reader = _Reader(source, root, owner, keep_kinds)
            try:
                apply_layer(root, reader, Flavour.PLAIN)
            except ArchiveError as error:
                raise InvalidParameter(str(error)) from None
            except OSError as error:
                if error.errno == errno.EROFS:
                    what = "container rootfs" if _on_rootfs(container, path) else "mounted volume"
                    raise InvalidParameter(f"{what} is marked read-only") from None
                raise System(f"cannot extract to {path}: {error}") from error

    def _export(self, container: Container) -> Iterator[bytes]:
        with self._tree(container, alone=True) as tree_:
            root = os.open(".", _LOOK & ~os.O_PATH, dir_fd=tree_.root)
            try:
                yield from tree(root)
            finally:
                os.close(root)


class _Reader(TarReader):
    """Entries with what `docker cp` changes of them."""

    def __init__(
        self, source: Any, root: int, owner: tuple[int, int] | None, keep_kinds: bool
    ) -> None:
        super().__init__(source)
        self._root = root
        self._owner = owner
        self._keep_kinds = keep_kinds

    def __iter__(self) -> Iterator[Entry]:
        for entry in super().__iter__():
            if self._owner is not None:
                entry.uid, entry.gid = self._owner
            if self._keep_kinds:
                self._check(entry)
            yield entry

    def _check(self, entry: Entry) -> None:
        name = entry.name.strip(b"/")
        if name in (b"", b"."):
            return
        try:
            held = openat2(self._root, name, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_IN_ROOT)
        except OSError:
            return
        try:
            old = modes.S_ISDIR(os.fstat(held).st_mode)
        finally:
            os.close(held)
        new = entry.type == ord("5")
        shown = name.decode(errors="replace")
        if old and not new:
            raise ArchiveError(f'cannot overwrite directory "/{shown}" with non-directory')
        if new and not old:
            raise ArchiveError(f'cannot overwrite non-directory "/{shown}" with directory')


def _find(name: str, tree_: Tree, path: str, scope: ExitStack) -> Place:
    """The parent is resolved with all symlinks; the last part is left as it is. name: the
    container's, as the client wrote it."""
    absolute = "/" + path.lstrip("/")
    whole = posixpath.normpath(absolute).replace("//", "/")
    if absolute.endswith(("/", "/.")) or whole == "/":
        folder, base = whole, "."
    else:
        folder, base = posixpath.split(whole)
    try:
        parent = open_in_root(tree_.root, folder, _LOOK)
    except OSError as error:
        raise _missing(name, path, error) from None
    scope.callback(os.close, parent)
    shown = posixpath.basename(whole) or "/"
    if absolute.endswith("/."):
        shown = "."
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    scope.callback(os.close, readable)
    return Place(readable, base, shown, whole)


def _lstat(name: str, place: Place) -> os.stat_result:
    try:
        return os.stat(place.base, dir_fd=place.parent, follow_symlinks=False)
    except OSError as error:
        raise _missing(name, place.path, error) from None


def _missing(name: str, path: str, error: OSError) -> Exception:
    if error.errno in (errno.ENOENT, errno.ELOOP):
        return NotFound(f"Could not find the file {path} in container {name}")
    if error.errno == errno.ENOTDIR:
        return InvalidParameter(f"lstat {path}: not a directory")
    return System(f"{path}: {error.strerror}")


def _final_target(tree_: Tree, path: str) -> str:
    """Where a symlink leads in the end, as an absolute path in the container."""
    for _ in range(40):
        try:
            held = open_in_root(tree_.root, path, follow=False)
        except OSError:
            return path
        try:
            if not modes.S_ISLNK(os.fstat(held).st_mode):
                return path
            link = os.readlink("", dir_fd=held)
        finally:
            os.close(held)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return path


def _on_rootfs(container: Container, path: str) -> bool:
    absolute = posixpath.normpath("/" + path.lstrip("/"))
    return not any(
        absolute == m.destination or absolute.startswith(m.destination + "/")
        for m in container.record.mounts
    )


def go_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode."""
    result = mode & 0o777
    for test, bits in _GO_BITS:
        if test(mode):
            result |= bits
    if mode & modes.S_ISUID:
        result |= 1 << 23
    if mode & modes.S_ISGID:
        result |= 1 << 22
    if mode & modes.S_ISVTX:
        result |= 1 << 20
    return result


def _populate(mounts: tuple[Mount, ...], destination: str, volume: str) -> None:
    with ExitStack() as scope:
        tree_ = scope.enter_context(Tree.mounted(mounts))
        try:
            held = open_in_root(tree_.root, destination, _LOOK)
        except OSError:
            return  # the image has nothing there
        scope.callback(os.close, held)
        source = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held)
        scope.callback(os.close, source)
        target = os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        scope.callback(os.close, target)
        pieces = tree(source)
        apply_layer(target, TarReader(lambda: next(pieces, b"")), Flavour.PLAIN, fresh=True)
        info = os.fstat(source)
        os.fchown(target, info.st_uid, info.st_gid)
        os.fchmod(target, modes.S_IMODE(info.st_mode))
        with contextlib.suppress(OSError):
            os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _has_folder(layer: str, path: str) -> bool:
    root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_plain(root, path, os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


def _make_folder(mounts: tuple[Mount, ...], path: str) -> None:
    with Tree.mounted(mounts) as tree_:
        try:
            os.close(ensure_directory(tree_.root, path))
        except OSError as error:
            raise InvalidParameter(f"Cannot mkdir: {path} is not a directory") from error
