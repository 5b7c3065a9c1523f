"""Apply a layer's tar to a folder: by fds, never by path strings, never outside of it.

Every entry's parent is resolved with openat2(RESOLVE_IN_ROOT) under the folder's fd, so
symlinks that the archive made lead where they would in a container, at worst to the
folder's own root. The last component is created (O_EXCL, O_NOFOLLOW) or replaced, never
followed. Folders get their modes, owners and times at the end: until then they are 0700 and
nothing in them is reachable by others.

What is accepted follows moby's `go-archive` (diff.go, archive.go); deletions are image-spec's
whiteouts, put down as the flavour of the snapshot wants them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gantry.archive import header
from gantry.archive.attributes import chmod_node, set_xattr
from gantry.archive.errors import ArchiveError, NeedsParents
from gantry.archive.header import Entry
from gantry.archive.names import META, OPAQUE, WHITEOUT, clean, show
from gantry.archive.reader import TarReader
from gantry.archive.removal import remove
from gantry.kernel import procfs, syscalls
from gantry.model.snapshot import Flavour

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_INSIDE: Final = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_OPEN_FOLDERS: Final = 64


@dataclass(frozen=True, slots=True)
class Applied:
    """size: bytes of file data, as Docker counts a layer. implicit: folders that the archive
    used and did not describe; `implicit.adopt` gives them the looks of the parents' ones."""

    size: int
    entries: int
    implicit: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Above these an archive is refused (a bomb). None: as much as the disk takes."""

    size: int | None = None
    entries: int | None = None


def apply_layer(
    root: int,
    reader: TarReader,
    flavour: Flavour,
    *,
    limits: Limits = Limits(),
    fresh: bool = False,
    umask: int = 0o777,
    cancelled: Callable[[], bool] = lambda: False,
) -> Applied:
    """Apply all entries below the folder `root` (an fd).

    fresh: the folder held nothing before. umask: the process's, as far as it is known; the
    bits are set by a call more a file. ArchiveError:
    the archive is bad. NeedsParents: it must be applied on top of its parents, as
    `Flavour.PLAIN`, in the mounted whole. OSError as the kernel has it. After any of these
    the folder is half made and of no use.
    """
    applier = _Applier(root, flavour, limits, fresh, umask)
    try:
        for entry in reader:
            applier.entry(entry, reader)
            if cancelled():
                raise ArchiveError("cancelled")
        applier.finish()
    except RecursionError:
        raise ArchiveError("archive is nested too deeply")
    finally:
        applier.close()
    return Applied(applier.size, applier.entries, tuple(applier.implicit))


class _Applier:
    def __init__(
        self, root: int, flavour: Flavour, limits: Limits, fresh: bool, umask: int
    ) -> None:
        self.root = root
        self.size = 0
        self.entries = 0
        self.implicit: dict[bytes, None] = {}
        self._overlay = flavour is not Flavour.PLAIN
        self._opaque = b"user" if flavour is Flavour.OVERLAY_USER else b"trusted"
        self._limits = limits
        # In folders that we made, new files are ours (no setgid bit of somebody's is around).
        self._own = (os.geteuid(), os.getegid()) if fresh else (-1, -1)
        self._open: dict[bytes, int] = {}
        self._stale = False
        self._masked = umask
        self._folders: dict[bytes, Entry] = {}
        self._made: set[bytes] = set()
        self._makers: Final = {
            header.DIRECTORY: self._directory,
            header.REGULAR: self._regular,
            header.SYMLINK: self._symlink,
            header.HARDLINK: self._hardlink,
            header.CHARACTER: self._device,
            header.BLOCK_DEVICE: self._device,
            header.FIFO: self._device,
        }

    def entry(self, entry: Entry, reader: TarReader) -> None:
        self.entries += 1
        if self._stale or len(self._open) >= _OPEN_FOLDERS:
            self._forget()
        if self._limits.entries is not None and self.entries > self._limits.entries:
            raise ArchiveError("archive has too many entries")
        name = clean(entry.name)
        parent, _, base = name.rpartition(b"/")
        if not base:
            if entry.type == header.DIRECTORY:
                self._folders[b""] = entry
            return
        if base.startswith(WHITEOUT):
            self._whiteout(parent, base)
            return
        maker = self._makers.get(entry.type)
        if maker is None:
            raise ArchiveError(f"unhandled tar header type {entry.type}")
        if len(base) > 255:
            raise ArchiveError(f"file name too long: {show(name)}")
        fd = self._parent(parent)
        try:
            maker(fd, base, entry, reader, name)
        except FileExistsError:
            if self._clear(fd, base, name, entry.type == header.DIRECTORY):
                fd = self._parent(parent)
                maker(fd, base, entry, reader, name)
            else:
                self.implicit.pop(name, None)
                self._folders[name] = entry
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
                raise ArchiveError(f"{show(name)}: {os.strerror(error.errno)}")
            raise
        if not self._overlay:
            self._made.add(name)

    # ---- one kind of entry each

    def _regular(self, at: int, base: bytes, entry: Entry, reader: TarReader, name: bytes) -> None:
        if self._limits.size is not None and self.size + entry.size > self._limits.size:
            raise ArchiveError("archive is too large")
        mode = entry.mode
        fd = os.open(base, _CREATE, mode, dir_fd=at)
        self.size += entry.size
        try:
            if entry.sparse is not None:
                _write_sparse(fd, entry, reader)
            else:
                for piece in reader.data():
                    while (done := os.write(fd, piece)) < len(piece):
                        piece = piece[done:]
            if (entry.uid, entry.gid) != self._own:
                os.fchown(fd, entry.uid, entry.gid)
                if mode & 0o6000:
                    os.fchmod(fd, mode)  # the change of owner took these bits
            if mode & self._masked:
                os.fchmod(fd, mode)
            for key, value in entry.xattrs.items():
                set_xattr(fd, key, value)
            mtime = entry.mtime_ns
            os.utime(fd, ns=(mtime if entry.atime_ns is None else entry.atime_ns, mtime))
        finally:
            os.close(fd)

    def _directory(
        self, at: int, base: bytes, entry: Entry, reader: TarReader, name: bytes
    ) -> None:
        os.mkdir(base, 0o700, dir_fd=at)
        self._folders[name] = entry

    def _symlink(self, at: int, base: bytes, entry: Entry, reader: TarReader, name: bytes) -> None:
        if not entry.link:
            raise ArchiveError(f"{show(name)}: symlink to nothing")
        os.symlink(entry.link, base, dir_fd=at)
        if self._overlay:
            self.size += len(entry.link)  # as Docker's overlay2 counts (lstat's st_size)
        self._attributes(at, base, entry)

    def _device(self, at: int, base: bytes, entry: Entry, reader: TarReader, name: bytes) -> None:
        kind = {
            header.CHARACTER: stat.S_IFCHR,
            header.BLOCK_DEVICE: stat.S_IFBLK,
            header.FIFO: stat.S_IFIFO,
        }[entry.type]
        if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
            raise ArchiveError(f"{show(name)}: device number out of range")
        device = os.makedev(entry.major, entry.minor)
        if self._overlay and kind == stat.S_IFCHR and device == 0:
            raise ArchiveError(f"{show(name)}: device 0:0 is no device")
        try:
            os.mknod(base, kind | entry.mode, device, dir_fd=at)
        except PermissionError:
            if not procfs.in_user_namespace():
                raise
            return  # devices cannot be made there; Docker leaves them out, too
        self._attributes(at, base, entry)

    def _hardlink(self, at: int, base: bytes, entry: Entry, reader: TarReader, name: bytes) -> None:
        target = clean(entry.link)
        parent, _, last = target.rpartition(b"/")
        if not last:
            raise ArchiveError(f"{show(name)}: invalid hardlink {show(entry.link)}")
        if target == name:
            return
        try:
            source = self._resolve(parent)
            os.link(last, base, src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            if self._overlay:
                raise NeedsParents(show(name))
            raise ArchiveError(f"invalid hardlink {show(name)} -> {show(entry.link)}")
        except PermissionError:
            raise ArchiveError(f"invalid hardlink {show(name)} -> {show(entry.link)}")

    def _attributes(self, at: int, base: bytes, entry: Entry) -> None:
        if (entry.uid, entry.gid) != self._own:
            os.chown(base, entry.uid, entry.gid, dir_fd=at, follow_symlinks=False)
        if entry.type != header.SYMLINK and entry.mode & (self._masked | 0o6000):
            chmod_node(at, base, entry.mode)
        for key, value in entry.xattrs.items():
            set_xattr(b"/proc/self/fd/%d/%s" % (at, base), key, value)
        mtime = entry.mtime_ns
        os.utime(base, ns=(mtime, mtime), dir_fd=at, follow_symlinks=False)

    # ---- deletions

    def _whiteout(self, parent: bytes, base: bytes) -> None:
        name = base[len(WHITEOUT) :]
        if base.startswith(META) and base != OPAQUE:
            return  # aufs's own bookkeeping
        if name in (b"", b".", b".."):
            raise ArchiveError(f"invalid whiteout {show(_join(parent, base))}")
        if self._overlay:
            fd = self._parent(parent)
            if base == OPAQUE:
                self._set_opaque(fd)
            else:
                self._mark_deleted(fd, name)
            return
        try:
            fd = self._resolve(parent)
        except (FileNotFoundError, NotADirectoryError):
            return  # there is nothing to delete
        for child in _names(fd) if base == OPAQUE else [name]:
            self._remove_lower(fd, child, _join(parent, child))

    def _mark_deleted(self, at: int, name: bytes) -> None:
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=at)
        except FileExistsError:
            # A whiteout speaks of the layers below, never of its own layer's entries.
            info = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self._opaque_child(at, name)

    def _set_opaque(self, fd: int) -> None:
        os.setxattr(b"/proc/self/fd/%d" % fd, self._opaque + b".overlay.opaque", b"y")

    def _remove_lower(self, at: int, base: bytes, name: bytes) -> None:
        """Remove what the layers below put at `name`, and keep this layer's own."""
        try:
            info = os.stat(base, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(info.st_mode):
            if name not in self._made:
                os.unlink(base, dir_fd=at)
            return
        self._stale = True
        fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
        try:
            for child in _names(fd):
                self._remove_lower(fd, child, _join(name, child))
        finally:
            os.close(fd)
        if name not in self._made and name not in self.implicit:
            try:
                os.rmdir(base, dir_fd=at)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise

    # ---- folders

    def _parent(self, path: bytes) -> int:
        """An O_PATH fd of the folder `path`, made with its parents where it is missing."""
        if not path:
            return self.root
        fd = self._open.get(path)
        if fd is not None:
            return fd
        try:
            fd = syscalls.openat2(self.root, path, _LOOK, resolve=_INSIDE)
        except (FileNotFoundError, NotADirectoryError):
            self._make_folder(path)
            try:
                fd = syscalls.openat2(self.root, path, _LOOK, resolve=_INSIDE)
            except (FileNotFoundError, NotADirectoryError):
                raise ArchiveError(f"{show(path)}: not a directory")
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                raise ArchiveError(f"{show(path)}: {os.strerror(error.errno)}")
            raise
        self._open[path] = fd
        return fd

    def _resolve(self, path: bytes) -> int:
        """As `_parent`, but nothing is made."""
        if not path:
            return self.root
        fd = self._open.get(path)
        if fd is None:
            fd = self._open[path] = syscalls.openat2(self.root, path, _LOOK, resolve=_INSIDE)
        return fd

    def _make_folder(self, path: bytes) -> None:
        """Make what is missing of `path`, from the top."""
        end = -1
        at = self.root
        try:
            while end < len(path):
                start = end + 1
                end = path.find(b"/", start)
                end = len(path) if end < 0 else end
                self._make_part(at, path[start:end], path[:end])
                below = syscalls.openat2(self.root, path[:end], _LOOK, resolve=_INSIDE)
                if at != self.root:
                    os.close(at)
                at = below
        except (FileNotFoundError, NotADirectoryError):
            raise ArchiveError(f"{show(path[:end])}: not a directory")
        finally:
            if at != self.root:
                os.close(at)

    def _make_part(self, at: int, base: bytes, path: bytes) -> None:
        if len(base) > 255:
            raise ArchiveError(f"file name too long: {show(path)}")
        try:
            os.mkdir(base, 0o755, dir_fd=at)
        except FileExistsError:
            info = os.stat(base, dir_fd=at, follow_symlinks=False)
            if not (self._overlay and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0):
                return  # a folder, a symlink to one, or what the next look refuses
            os.unlink(base, dir_fd=at)
            os.mkdir(base, 0o755, dir_fd=at)
            self._opaque_child(at, base)
        self.implicit[path] = None

    def _clear(self, at: int, base: bytes, name: bytes, folder: bool) -> bool:
        """Make room for an entry whose name is taken; False when it is there already."""
        info = os.stat(base, dir_fd=at, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            if folder:
                return False
            remove(at, base)
            self._forget()
            return True
        os.unlink(base, dir_fd=at)
        if stat.S_ISLNK(info.st_mode):
            self._forget()
        if folder and self._overlay and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            # Below was deleted, and now there is a folder again: it shows nothing of below.
            os.mkdir(base, 0o700, dir_fd=at)
            self._opaque_child(at, base)
            return False
        return True

    def _opaque_child(self, at: int, base: bytes) -> None:
        fd = os.open(base, _LOOK | os.O_NOFOLLOW, dir_fd=at)
        try:
            self._set_opaque(fd)
        finally:
            os.close(fd)

    def _forget(self) -> None:
        """Close the cached folders: they are many, or one of them was replaced."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        self._stale = False

    # ---- the end

    def finish(self) -> None:
        """Folders' owners, modes, times: the deepest first, since each can lock us out."""
        self._forget()
        for name, entry in reversed(self._folders.items()):
            try:
                fd = syscalls.openat2(
                    self.root,
                    name or b".",
                    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
                    resolve=_INSIDE,
                )
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # replaced by a later entry
                raise
            try:
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, entry.mode)
                for key, value in entry.xattrs.items():
                    set_xattr(fd, key, value)
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(fd)
            self.implicit.pop(name, None)

    def close(self) -> None:
        self._forget()


def _write_sparse(fd: int, entry: Entry, reader: TarReader) -> None:
    chunks = iter(entry.sparse or ())
    position = end = 0
    for piece in reader.data():
        while piece:
            while position == end:
                position, length = next(chunks)
                end = position + length
            done = os.pwrite(fd, piece[: end - position], position)
            position += done
            piece = piece[done:]
    os.ftruncate(fd, entry.real_size)


def _names(at: int) -> list[bytes]:
    """What is in the folder that an O_PATH fd points at."""
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name
