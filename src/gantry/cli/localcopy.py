"""This machine's side of `cp`: tars made of files here, and tars put into place here.

What comes out of a container is hostile: every path is walked from a directory's
descriptor, component by component, and no symbolic link is followed on the way.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from typing import IO

from gantry.model.errors import GantryError

_PIECE = 1 << 18


def asserts_directory(path: str) -> bool:
    """`dir/` and `dir/.` claim to be directories."""
    return path.endswith("/") or posixpath.basename(path) == "."


def split_entry(path: str) -> tuple[str, str]:
    """Directory and name; `dir/.` keeps its dot (its contents are meant)."""
    cleaned = posixpath.normpath(path)
    if posixpath.basename(path) == ".":
        return cleaned, "."
    return posixpath.dirname(cleaned) or ".", posixpath.basename(cleaned)


class _Pipe(io.RawIOBase):
    """Collects what tarfile writes until it is taken."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def write(self, data: object) -> int:
        assert isinstance(data, bytes | bytearray | memoryview)
        self._held.append(bytes(data))
        return len(data)

    def writable(self) -> bool:
        return True

    def take(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        return data


def pack(path: str, name: str) -> Iterator[bytes]:
    """A file or folder as a tar stream in which it is called `name`."""
    pipe = _Pipe()
    with tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_PIECE) as tar:
        for source, arcname in _walk(path, name):
            member = tar.gettarinfo(source, arcname)
            if member is None:
                continue  # a socket
            if member.isreg():
                with open(source, "rb") as file:
                    tar.addfile(member)
                    yield pipe.take()
                    yield from _content(tar, pipe, file, member.size)
            else:
                tar.addfile(member)
            yield pipe.take()
    yield pipe.take()


def _walk(path: str, name: str) -> Iterator[tuple[str, str]]:
    """Folders before what is in them, links not followed."""
    yield path, name
    if os.path.isdir(path) and not os.path.islink(path):
        for entry in sorted(os.listdir(path)):
            yield from _walk(os.path.join(path, entry), f"{name}/{entry}")


def _content(tar: tarfile.TarFile, pipe: _Pipe, file: IO[bytes], size: int) -> Iterator[bytes]:
    """A file's bytes in pieces, padded: tarfile would copy it whole into memory first."""
    left = size
    assert tar.fileobj is not None
    while left:
        piece = file.read(min(left, _PIECE))
        if not piece:
            # It shrank: the header has promised the size.
            piece = b"\0" * min(left, _PIECE)
        tar.fileobj.write(piece)
        left -= len(piece)
        yield pipe.take()
    padding = -size % tarfile.BLOCKSIZE
    if padding:
        tar.fileobj.write(b"\0" * padding)
    tar.offset += size + padding


class Reader(io.RawIOBase):
    """Pieces of a body as a file for tarfile."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""
        self.taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        assert isinstance(buffer, bytearray | memoryview)
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._held = piece
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        self.taken += count
        return count


def unpack(stream: Reader, folder: str, old: str, new: str, *, owners: bool) -> None:
    """Puts a tar's entries under `folder`, the first component `old` renamed to `new`.

    `owners` keeps numeric owners (needs root); modes and times are kept in any case.
    """
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    directories: list[tuple[str, tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=io.BufferedReader(stream, _PIECE), mode="r|") as tar:
            for member in tar:
                parts = _parts(_renamed(member.name, old, new))
                if not parts:
                    continue
                if member.islnk():
                    member.linkname = _renamed(member.linkname, old, new)
                _place(tar, member, root, parts, owners=owners)
                if member.isdir():
                    directories.append(("/".join(parts), member))
        # Times of folders last: what is put into them changes them.
        for path, member in reversed(directories):
            parent, name = _parent(root, _parts(path))
            try:
                os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(parent)
    except tarfile.TarError as error:
        raise GantryError(f"invalid tar stream: {error}") from error
    finally:
        os.close(root)


def _renamed(name: str, old: str, new: str) -> str:
    name = name.lstrip("/")
    first, slash, rest = name.partition("/")
    return f"{new}{slash}{rest}" if first == old and new else name


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise GantryError(f"refusing an entry that leaves the folder: {name}")
    return parts


def _parent(root: int, parts: list[str]) -> tuple[int, str]:
    """A descriptor of the folder that holds the entry (made if need be), and its name."""
    descriptor = os.dup(root)
    try:
        for part in parts[:-1]:
            try:
                os.mkdir(part, 0o755, dir_fd=descriptor)
            except FileExistsError:
                pass
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            following = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = following
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, parts[-1]


def _place(
    tar: tarfile.TarFile, member: tarfile.TarInfo, root: int, parts: list[str], *, owners: bool
) -> None:
    parent, name = _parent(root, parts)
    try:
        _clear(parent, name, member)
        if member.isdir():
            _folder(parent, name)
        elif member.isreg():
            _file(tar, member, parent, name)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            other, source = _parent(root, _parts(member.linkname))
            try:
                os.link(source, name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(other)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            device = os.makedev(member.devmajor, member.devminor)
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        else:
            return
        if owners:
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if not (member.issym() or member.islnk()):
            _mode(parent, name, member.mode)
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(parent)


def _clear(parent: int, name: str, member: tarfile.TarInfo) -> None:
    """What is in the way goes, unless it is a folder: that is kept for a folder."""
    try:
        found = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return
    is_folder = stat.S_ISDIR(found.st_mode)
    if is_folder and not member.isdir():
        raise GantryError(f"cannot overwrite directory with non-directory: {name}")
    if not is_folder:
        if member.isdir():
            raise GantryError(f"cannot overwrite non-directory with directory: {name}")
        os.unlink(name, dir_fd=parent)


def _folder(parent: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        pass


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=parent)
    source = tar.extractfile(member)
    assert source is not None
    with os.fdopen(descriptor, "wb") as file:
        while piece := source.read(_PIECE):
            file.write(piece)


def _mode(parent: int, name: str, mode: int) -> None:
    """chmod without following a link: by a descriptor that is no link."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except OSError:
        return  # a device without a driver, or a special file we may not open
    try:
        os.fchmod(descriptor, mode & 0o7777)
    finally:
        os.close(descriptor)
