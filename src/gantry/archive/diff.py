"""Write a folder as a tar: a whole tree (`export`), or a snapshot's changes (`commit`).

The order is that of names, so the same tree gives the same bytes. Sockets cannot be in a tar
and are left out, as Docker does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from gantry.archive import header
from gantry.archive.header import BLOCK, Entry
from gantry.archive.names import OPAQUE, WHITEOUT
from gantry.model.snapshot import Flavour

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE: Final = 1 << 20
_END: Final = b"\0" * (2 * BLOCK)
_GATHER: Final = 256 << 10
STARTS_MAKE: Final = frozenset(
    (
        *(b".dockerenv", b"dev", b"dev/console", b"dev/pts", b"dev/shm", b"dev/mqueue"),
        *(b"etc", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf", b"etc/mtab"),
        *(b"proc", b"sys", b"sbin", b"sbin/docker-init"),
    )
)
"""Mount points that a container's start puts into its layer. Docker has them in a layer
of their own (moby `daemon/initlayer`), which is in no diff and in no image."""
_OPAQUE_NAMES: Final = (
    b"trusted.overlay.opaque",
    b"user.overlay.opaque",
    b"user.fuseoverlayfs.opaque",
)
_KINDS: Final = {
    stat.S_IFREG: header.REGULAR,
    stat.S_IFDIR: header.DIRECTORY,
    stat.S_IFLNK: header.SYMLINK,
    stat.S_IFCHR: header.CHARACTER,
    stat.S_IFBLK: header.BLOCK_DEVICE,
    stat.S_IFIFO: header.FIFO,
}


def tree(root: int) -> Iterator[bytes]:
    """The tar of all below the folder `root` (an fd), the folder itself left out."""
    writer = _Writer()
    yield from _gathered(writer.folder(root, b""))


def resource(at: int, name: bytes, shown: bytes) -> Iterator[bytes]:
    """The tar of one entry of the folder `at`, with all below it, under the name `shown`."""
    info = os.stat(name, dir_fd=at, follow_symlinks=False)
    yield from _gathered(_Writer().entry(at, name, shown, info))


def diff_layer(
    root: int, below: int | None, flavour: Flavour, *, ignore: frozenset[bytes] = frozenset()
) -> Iterator[bytes]:
    """The tar of what a snapshot changed of its parents, with whiteouts for deletions.

    root: the layer's folder (an fd). below: the parents' whole tree, only for PLAIN, where the
    two are compared. ignore: names that are left out when they are empty, of folders also when
    all in them is left out. Nothing may change it meanwhile; a file that shrinks while it is
    read is padded.
    """
    if flavour is not Flavour.PLAIN:
        yield from _gathered(_Writer(overlay=True, ignore=ignore).folder(root, b""))
    elif below is None:
        yield from _gathered(_Writer(ignore=ignore).folder(root, b""))
    else:
        yield from _gathered(_Writer(ignore=ignore).changed(root, below, b""))


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Small pieces together, and the end of the archive."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _GATHER:
            yield b"".join(waiting)
            waiting, size = [], 0
    waiting.append(_END)
    yield b"".join(waiting)


class _Writer:
    def __init__(self, *, overlay: bool = False, ignore: frozenset[bytes] = frozenset()) -> None:
        self._overlay = overlay
        self._ignore = ignore
        self._links: dict[tuple[int, int], bytes] = {}

    def folder(self, at: int, prefix: bytes) -> Iterator[bytes]:
        """All entries of a folder, depth first."""
        for name in sorted(os.fsencode(item) for item in os.listdir(at)):
            try:
                info = os.stat(name, dir_fd=at, follow_symlinks=False)
                yield from self.entry(at, name, prefix + name, info)
            except FileNotFoundError:
                continue  # it went away, before anything of it was written

    def entry(self, at: int, name: bytes, path: bytes, info: os.stat_result) -> Iterator[bytes]:
        """One entry, with all below it if it is a folder."""
        if self._overlay and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            yield whiteout(path)
            return
        if stat.S_ISDIR(info.st_mode):
            fd = os.open(name, _FOLDER, dir_fd=at)
            try:
                inner = self.folder(fd, path + b"/")
                opaque = self._overlay and _is_opaque(fd)
                first = next(inner, None) if path in self._ignore and not opaque else b""
                if first is None:
                    return
                yield from self.one(at, name, path, info)
                if opaque:
                    yield header.build(Entry(path + b"/" + OPAQUE, mode=0))
                if first:
                    yield first
                yield from inner
            finally:
                os.close(fd)
            return
        yield from self.one(at, name, path, info)

    def one(self, at: int, name: bytes, path: bytes, info: os.stat_result) -> Iterator[bytes]:
        kind = _KINDS.get(stat.S_IFMT(info.st_mode))
        if kind is None or (path in self._ignore and kind != header.DIRECTORY and _empty(info)):
            return
        entry = Entry(
            path,
            kind,
            stat.S_IMODE(info.st_mode),
            info.st_uid,
            info.st_gid,
            mtime_ns=info.st_mtime_ns,
        )
        if kind == header.DIRECTORY:
            entry.name = path + b"/"
        elif info.st_nlink > 1:
            identity = (info.st_dev, info.st_ino)
            first = self._links.setdefault(identity, path)
            if first != path:
                entry.type, entry.link = header.HARDLINK, first
                yield header.build(entry)
                return
        if kind == header.SYMLINK:
            entry.link = os.fsencode(os.readlink(name, dir_fd=at))
        elif kind in (header.CHARACTER, header.BLOCK_DEVICE):
            entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
        entry.xattrs = _xattrs(at, name)
        if kind != header.REGULAR:
            yield header.build(entry)
            return
        fd = _open_regular(at, name)
        if fd < 0:
            return
        try:
            entry.size = os.fstat(fd).st_size
            yield header.build(entry)
            yield from _content(fd, entry.size)
        finally:
            os.close(fd)

    def changed(self, at: int, below: int | None, prefix: bytes) -> Iterator[bytes]:
        """What is in the folder `at` and not, or not the same, in `below`; what is gone."""
        mine = {os.fsencode(item) for item in os.listdir(at)}
        theirs = {os.fsencode(item) for item in os.listdir(below)} if below is not None else set()
        for name in sorted(mine | theirs):
            path = prefix + name
            if name not in mine:
                yield whiteout(path)
                continue
            info = os.stat(name, dir_fd=at, follow_symlinks=False)
            old = None
            if name in theirs and below is not None:
                old = os.stat(name, dir_fd=below, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                if old is None or _differs(info, old) or _xattrs(at, name) != _xattrs(below, name):
                    yield from self.one(at, name, path, info)
                continue
            yield from self._changed_folder(at, below, path, info, old)

    def _changed_folder(
        self,
        at: int,
        below: int | None,
        path: bytes,
        info: os.stat_result,
        old: os.stat_result | None,
    ) -> Iterator[bytes]:
        name = path.rpartition(b"/")[2]
        same_kind = old is not None and stat.S_ISDIR(old.st_mode)
        fd = os.open(name, _FOLDER, dir_fd=at)
        try:
            if not same_kind or below is None:
                inner = self.changed(fd, None, path + b"/")
                first = next(inner, None) if path in self._ignore else b""
                if first is not None:
                    yield from self.one(at, name, path, info)
                    yield first
                    yield from inner
                return
            under = os.open(name, _FOLDER, dir_fd=below)
            try:
                inner = self.changed(fd, under, path + b"/")
                first = next(inner, None)
                looks = old is not None and _looks(info) != _looks(old)
                if first is not None or looks or _xattrs(at, name) != _xattrs(below, name):
                    yield from self.one(at, name, path, info)
                if first is not None:
                    yield first
                    yield from inner
            finally:
                os.close(under)
        finally:
            os.close(fd)


def _open_regular(at: int, name: bytes) -> int:
    """A regular file for reading; -1 when it has become something else meanwhile. Opened only
    when it is sure: to open a device has effects, and a container may put one there."""
    held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            return -1
        return os.open(b"/proc/self/fd/%d" % held, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(held)


def whiteout(path: bytes) -> bytes:
    """The entry that deletes `path`."""
    folder, slash, name = path.rpartition(b"/")
    return header.build(Entry(folder + slash + WHITEOUT + name, mode=0))


def _empty(info: os.stat_result) -> bool:
    """What a start makes is an empty file to mount something on, or the link /etc/mtab."""
    return info.st_size == 0 or stat.S_ISLNK(info.st_mode)


def _looks(info: os.stat_result) -> tuple[int, int, int]:
    return (info.st_mode, info.st_uid, info.st_gid)


def _differs(new: os.stat_result, old: os.stat_result) -> bool:
    """As moby's `sameFsTimeSpec` comparison: attributes, size and time; not content."""
    return (
        _looks(new) != _looks(old)
        or new.st_rdev != old.st_rdev
        or new.st_size != old.st_size
        or new.st_mtime_ns != old.st_mtime_ns
    )


def _is_opaque(fd: int) -> bool:
    for name in _OPAQUE_NAMES:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
                raise
    return False


def _xattrs(at: int | None, name: bytes) -> dict[bytes, bytes]:
    """What a layer carries: capabilities, users' own, ACLs; nothing of overlayfs or SELinux."""
    path = b"/proc/self/fd/%d/%s" % (at or 0, name)
    found: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return found
        raise
    for text in names:
        key = os.fsencode(text)
        if key == b"security.capability" or (
            key.startswith((b"user.", b"system.posix_acl_"))
            and not key.startswith((b"user.overlay.", b"user.fuseoverlayfs."))
        ):
            found[key] = os.getxattr(path, text, follow_symlinks=False)
    return found


def _content(fd: int, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = os.read(fd, min(_PIECE, left))
        if not piece:
            piece = b"\0" * min(_PIECE, left)  # it shrank: keep the promise of the header
        left -= len(piece)
        yield piece
    if size % BLOCK:
        yield b"\0" * (-size % BLOCK)
