"""Blobs by digest, in an OCI image layout on disk, verified while they stream in.

On disk::

    <root>/oci-layout                   {"imageLayoutVersion": "1.0.0"}
    <root>/blobs/sha256/<hex>           whole, verified, read-only
    <root>/ingest/<name>/data           on its way in
    <root>/ingest/<name>/ref            what it will be (a digest, or any text of the caller)
    <root>/ingest/<name>/missing        holes in the data, where it is written in several places

A blob appears in `blobs` by one rename after its bytes are on the disk and its digest was
found right: what is there is whole. A write that was broken off can be taken up again under
the same ref, also by the next process. Blocking: callers use threads for what is large.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from gantry.model.errors import Conflict, InvalidParameter, NotFound, System
from gantry.oci.image_digest import is_digest

_LAYOUT: Final = b'{"imageLayoutVersion": "1.0.0"}'
_INDEX: Final = b'{"schemaVersion":2,"manifests":[]}'
_READ: Final = 1 << 20
_VECTORS: Final = 512
"""Pieces one pwritev(2) takes (IOV_MAX is 1024)."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """mtime_ns: when it came."""

    digest: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Ingest:
    """A write that has not been finished. name: of its folder; offset: bytes that are there."""

    name: str
    ref: str
    offset: int
    mtime_ns: int


class Writer:
    """One blob on its way in; a context manager: what was not committed is dropped on leaving,
    unless `keep` was called.

    Not thread-safe; use it from one thread at a time.
    """

    def __init__(self, store: ContentStore, folder: str, fd: int, algorithm: str) -> None:
        self._store = store
        self._folder = folder
        self._hash = hashlib.new(algorithm)
        self._algorithm = algorithm
        self._kept = False
        self.fd = fd
        """The data file, readable too; -1 when closed."""
        self.offset = 0
        """Bytes written and hashed."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._kept:
            self.close()
        else:
            self.abort()

    def write(self, data: bytes | memoryview) -> None:
        """Append. System when the disk cannot take it."""
        self.write_all([data])

    def write_all(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append several, without putting them together first."""
        for piece in pieces:
            self._hash.update(piece)
        try:
            self.offset = write_at(self.fd, pieces, self.offset)
        except OSError as error:
            raise System(f"cannot write {self._folder}: {error}") from error

    def catch_up(self, to: int) -> None:
        """Hash what another writer of the file (`fd`) has put down, up to offset `to`."""
        while self.offset < to:
            piece = os.pread(self.fd, min(_READ, to - self.offset), self.offset)
            if not piece:
                raise System(f"{self._folder}: shorter than expected")
            self._hash.update(piece)
            self.offset += len(piece)

    def digest(self) -> str:
        """Of what was written so far."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def commit(
        self, expected: str | None = None, size: int | None = None, *, later: bool = False
    ) -> str:
        """Verify, put in place, and return the digest. Having it already is success.

        later: its bytes go to the disk in the background; `ContentStore.settle` waits for that.

        InvalidParameter when digest or size are not what was expected; the data is dropped.
        """
        digest = self.digest()
        if size is not None and size != self.offset:
            self.abort()
            raise InvalidParameter(
                f"unexpected commit size {self.offset}, expected {size}: failed precondition"
            )
        if expected is not None and expected != digest:
            self.abort()
            raise InvalidParameter(f"unexpected commit digest {digest}, expected {expected}")
        try:
            if self.offset != os.fstat(self.fd).st_size:
                os.ftruncate(self.fd, self.offset)
            os.fchmod(self.fd, 0o444)
            if not later:
                os.fdatasync(self.fd)
            target = self._store.path(digest)
            os.makedirs(os.path.dirname(target), mode=0o711, exist_ok=True)
            os.rename(os.path.join(self._folder, "data"), target)
        except OSError as error:
            self.abort()
            raise System(f"cannot store {digest}: {error}") from error
        self._kept = True
        if later:
            self._store.sync_later(self.fd)  # which closes it
            self.fd = -1
        self.close()
        self._store.drop_folder(self._folder)
        return digest

    def save_missing(self, spans: Sequence[tuple[int, int]]) -> None:
        """Note which [start, end) of the data are not there yet, for a later `resume` of a
        blob that is written in several places at once."""
        path = os.path.join(self._folder, "missing")
        with open(path + ".new", "w", encoding="ascii") as file:
            file.write("".join(f"{start} {end}\n" for start, end in spans))
        os.rename(path + ".new", path)

    def missing(self) -> list[tuple[int, int]] | None:
        """What `save_missing` noted; None when nothing was."""
        return _read_missing(self._folder)

    def restart(self) -> None:
        """Begin again at the first byte."""
        self._hash = hashlib.new(self._algorithm)
        self.offset = 0
        os.ftruncate(self.fd, 0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, "missing"))

    def keep(self) -> None:
        """Leave the data for a later `resume`."""
        self._kept = True

    def abort(self) -> None:
        """Drop the data."""
        self._kept = True
        self.close()
        self._store.drop_folder(self._folder)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def write_at(fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
    """Write all of `pieces` one after the other from `offset`; where they end. OSError."""
    left = list(pieces)
    while left:
        done = os.pwritev(fd, left[:_VECTORS], offset)
        offset += done
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if done:
            left[0] = memoryview(left[0])[done:]
    return offset


def _read_missing(folder: str) -> list[tuple[int, int]] | None:
    try:
        with open(os.path.join(folder, "missing"), encoding="ascii") as file:
            pairs = [line.split() for line in file]
            return [(int(start), int(end)) for start, end in pairs]
    except (FileNotFoundError, ValueError):
        return None


class ContentStore:
    """See the module."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._blobs = os.path.join(root, "blobs")
        self._ingest = os.path.join(root, "ingest")
        self._syncs = ThreadPoolExecutor(max_workers=2, thread_name_prefix="content-sync")
        self._syncing: set[Future[None]] = set()
        try:
            os.makedirs(os.path.join(self._blobs, "sha256"), mode=0o711, exist_ok=True)
            os.makedirs(self._ingest, mode=0o700, exist_ok=True)
            for name, data in (("oci-layout", _LAYOUT), ("index.json", _INDEX)):
                path = os.path.join(root, name)
                if not os.path.exists(path):
                    with open(path, "wb") as file:
                        file.write(data)
        except OSError as error:
            raise System(f"cannot open content store {root}: {error}") from error

    def path(self, digest: str) -> str:
        """Where a blob lies or would. InvalidParameter for what is no digest."""
        if not is_digest(digest):
            raise InvalidParameter(f"invalid digest {digest!r}")
        algorithm, _, value = digest.partition(":")
        return os.path.join(self._blobs, algorithm, value)

    def size(self, digest: str) -> int | None:
        """Bytes of a blob; None when it is not here."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def exists(self, digest: str) -> bool:
        return self.size(digest) is not None

    def open(self, digest: str) -> int:
        """A read-only fd, the caller's. NotFound."""
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"content digest {digest}: not found")

    def read(self, digest: str, limit: int) -> bytes:
        """A whole small blob. NotFound; InvalidParameter when it is larger than `limit`."""
        with os.fdopen(self.open(digest), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise InvalidParameter(f"content {digest} has {size} bytes, at most {limit} go")
            return file.read()

    def put(self, data: bytes, expected: str | None = None) -> str:
        """Store a small blob; its digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if expected in (None, digest) and self.exists(digest):
            return digest
        with self.writer() as writer:
            writer.write(data)
            return writer.commit(expected)

    def delete(self, digest: str) -> None:
        """Not being there is success."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(digest))

    def set_aside(self, digests: Iterable[str]) -> list[str]:
        """Take blobs out of the store, quickly; `drop` deletes what this returns, which can
        take its time. A crash in between leaves it to `clean_ingests`."""
        aside: list[str] = []
        for digest in digests:
            path = os.path.join(self._ingest, "gone-" + secrets.token_hex(8))
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path(digest), path)
                aside.append(path)
        return aside

    @staticmethod
    def drop(aside: Iterable[str]) -> None:
        """Delete what was set aside. Blocks."""
        for path in aside:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def walk(self) -> Iterator[BlobInfo]:
        """All blobs, in no order."""
        for algorithm in os.listdir(self._blobs):
            with os.scandir(os.path.join(self._blobs, algorithm)) as found:
                for item in found:
                    digest = f"{algorithm}:{item.name}"
                    if is_digest(digest):
                        with contextlib.suppress(FileNotFoundError):
                            info = item.stat()
                            yield BlobInfo(digest, info.st_size, info.st_mtime_ns)

    def verify(self, digest: str) -> bool:
        """Read a blob again: whether it is what its name says. NotFound."""
        algorithm = digest.partition(":")[0]
        with os.fdopen(self.open(digest), "rb", buffering=0) as file:
            return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}" == digest

    def sync_later(self, fd: int) -> None:
        """Bring a file's bytes to the disk in the background, and close it."""

        def sync() -> None:
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)

        future = self._syncs.submit(sync)
        self._syncing.add(future)
        future.add_done_callback(
            lambda done: None if done.exception() else self._syncing.discard(done)
        )

    def settle(self) -> None:
        """Wait until all that was committed `later` is on the disk. System when that failed."""
        for future in list(self._syncing):
            try:
                future.result()
            except OSError as error:
                self._syncing.discard(future)
                raise System(f"cannot write content store {self.root}: {error}") from error

    # ---- ingest

    def writer(self, ref: str = "", *, algorithm: str = "sha256") -> Writer:
        """A new blob. ref: for a later `resume`; "" for one that nobody will take up."""
        folder = os.path.join(self._ingest, secrets.token_hex(8))
        try:
            os.mkdir(folder, 0o700)
            if ref:
                with open(os.path.join(folder, "ref"), "w", encoding="utf-8") as file:
                    file.write(ref)
            fd = os.open(
                os.path.join(folder, "data"),
                os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                0o600,
            )
        except OSError as error:
            self.drop_folder(folder)
            raise System(f"cannot write to content store {self.root}: {error}") from error
        return Writer(self, folder, fd, algorithm)

    def resume(self, name: str, *, algorithm: str = "sha256") -> Writer:
        """Go on with an `Ingest`: its bytes are hashed again, and writing appends. Blocks.

        NotFound; Conflict when somebody else (in any process) writes it.
        """
        import fcntl

        folder = os.path.join(self._ingest, os.path.basename(name))
        try:
            fd = os.open(os.path.join(folder, "data"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"ingest {name}: not found")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Conflict(f"ingest {name} is locked: unavailable")
        writer = Writer(self, folder, fd, algorithm)
        there = os.fstat(fd).st_size
        missing = writer.missing()
        if missing:
            there = min(there, *(start for start, _ in missing))
        writer.catch_up(there)
        return writer

    def ingests(self) -> list[Ingest]:
        """All unfinished writes."""
        found: list[Ingest] = []
        for name in os.listdir(self._ingest):
            folder = os.path.join(self._ingest, name)
            try:
                info = os.stat(os.path.join(folder, "data"))
                ref = ""
                with (
                    contextlib.suppress(FileNotFoundError),
                    open(os.path.join(folder, "ref"), encoding="utf-8") as file,
                ):
                    ref = file.read()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise System(f"cannot read {folder}: {error}") from error
                continue
            found.append(Ingest(name, ref, info.st_size, info.st_mtime_ns))
        return found

    def clean_ingests(self, *, keep_seconds: float) -> None:
        """Drop unfinished writes; those with a ref only when untouched for that long. For
        start-up: whoever writes now would lose its file."""
        keep = {
            item.name
            for item in self.ingests()
            if item.ref and item.mtime_ns / 1e9 > time.time() - keep_seconds
        }
        for name in os.listdir(self._ingest):
            path = os.path.join(self._ingest, name)
            if name.startswith("gone-"):
                self.drop([path])
            elif name not in keep:
                self.drop_folder(path)

    def drop_folder(self, folder: str) -> None:
        """Delete an ingest folder, as far as it is there."""
        for name in ("data", "ref", "missing", "missing.new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(folder)
