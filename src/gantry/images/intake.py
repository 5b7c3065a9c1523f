"""The first half of `docker load`: an archive's members become blobs while it streams by.

Each is hashed on the way, and what looks like a layer is unpacked by a worker at the same
time: the archive's own index comes last in most archives, and only then it is known what
belongs to what.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Final

from gantry.archive import header
from gantry.archive.compression import Compression, decompress, detect
from gantry.archive.header import Entry
from gantry.archive.names import clean
from gantry.archive.reader import Source, TarReader
from gantry.content.store import ContentStore, Writer
from gantry.images import messages
from gantry.images.layers import Layers, Pending
from gantry.images.messages import Say
from gantry.model.errors import InvalidParameter
from gantry.oci.image_digest import is_digest

_SMALL: Final = 1 << 20
"""Bytes: what is smaller may be JSON and is kept in memory while loading."""
_LINKS: Final = 10
_TICK: Final = 0.1
"""Seconds between two messages of one progress bar."""
_TEXTS: Final = frozenset({b"manifest.json", b"index.json", b"oci-layout", b"repositories"})

LOADING: Final = "Loading layer"


@dataclass(slots=True)
class Member:
    """A file of the archive, as a blob. head: its first bytes."""

    digest: str
    size: int
    head: bytes
    pending: Pending | None = None


@dataclass(slots=True)
class Archive:
    """What has been read.

    texts: the archive's own documents. fresh: digests that this load has added to the content
    store. shown: those whose progress has been told.
    """

    members: dict[bytes, Member] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)
    texts: dict[bytes, bytes] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    begun: list[Pending] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)

    def member(self, path: str) -> Member | None:
        """By name, through the symlinks of the archive itself."""
        name = clean(path.encode("utf-8", "surrogateescape"))
        for _ in range(_LINKS):
            found = self.members.get(name)
            if found is not None:
                return found
            if name not in self.links:
                return None
            name = self.links[name]
        return None


class Intake:
    """Reads one archive, in a thread, into `archive`."""

    def __init__(
        self, content: ContentStore, layers: Layers, archive: Archive, say: Say | None
    ) -> None:
        """say: told of the progress, on the running loop."""
        self.archive = archive
        self._content = content
        self._layers = layers
        self._loop = asyncio.get_running_loop()
        self._say = say
        self._told = ("", 0.0)

    def read(self, source: Source) -> None:
        """InvalidParameter, ArchiveError, System; what `source` raises."""
        _, plain = decompress(source)
        reader = TarReader(plain)
        for entry in reader:
            name = clean(entry.name)
            if entry.type == header.REGULAR:
                self._member(name, entry, reader)
            elif entry.type == header.SYMLINK:
                folder = name.rpartition(b"/")[0]
                with contextlib.suppress(InvalidParameter):
                    self.archive.links[name] = clean(folder + b"/" + entry.link)
            elif entry.type == header.HARDLINK:
                self.archive.links[name] = clean(entry.link)

    def _member(self, name: bytes, entry: Entry, reader: TarReader) -> None:
        if entry.sparse is not None:
            raise InvalidParameter("invalid archive: sparse member")
        if entry.size <= _SMALL:
            data = reader.read(_SMALL)
            if name in _TEXTS:
                self.archive.texts[name] = data
                return
            with self._content.writer() as writer:
                writer.write(data)
                self._store(name, writer, Member("", entry.size, data[:16]))
            return
        digest = _named_digest(name)
        if digest is not None and self._content.size(digest) == entry.size:
            head = b""
            for piece in reader.data():
                head = head or bytes(piece[:16])
                break
            self.archive.members[name] = Member(digest, entry.size, head)
            return
        self._large(name, entry, reader)

    def _large(self, name: bytes, entry: Entry, reader: TarReader) -> None:
        pending: Pending | None = None
        head = b""
        with self._content.writer() as writer:
            for piece in reader.data():
                if not head:
                    head = bytes(piece[:300])
                    if _layer_like(head):
                        begin = self._begin(writer.fd, entry.size)
                        pending = asyncio.run_coroutine_threadsafe(begin, self._loop).result()
                        self.archive.begun.extend([pending] if pending else [])
                writer.write(piece)
                if pending is not None:
                    pending.job.advance(writer.offset)
                if _layer_like(head):
                    self._tell(_short(name), writer.offset, entry.size)
            if pending is not None:
                pending.job.finish(writer.offset)
            member = Member("", entry.size, head[:16], pending)
            self._store(name, writer, member)
            self.archive.shown.add(member.digest)

    async def _begin(self, fd: int, size: int) -> Pending | None:
        return self._layers.begin(fd, size=size)

    def _store(self, name: bytes, writer: Writer, member: Member) -> None:
        digest = writer.digest()
        named = _named_digest(name)
        if named is not None and named.startswith("sha256:") and named != digest:
            raise InvalidParameter(f"invalid archive: {name.decode()} has digest {digest}")
        if self._content.exists(digest):
            writer.abort()
        else:
            writer.commit(later=True)
            self.archive.fresh.add(digest)
        member.digest = digest
        self.archive.members[name] = member

    def _tell(self, identity: str, current: int, total: int) -> None:
        """Not more often than anybody can read, but always the first and the last."""
        name, since = self._told
        now = time.monotonic()
        if self._say is None or (name == identity and current < total and now < since + _TICK):
            return
        self._told = identity, now
        self._loop.call_soon_threadsafe(
            self._say, messages.progress(LOADING, identity, current, total)
        )


def _short(name: bytes) -> str:
    """What a layer is shown as while its diff id is not known: the hex digits in its name."""
    parts = [part.partition(b".")[0] for part in name.split(b"/")]
    digits = max(parts, key=lambda part: (part.strip(b"0123456789abcdef") == b"", len(part)))
    return messages.short(digits.decode("latin-1"))


def _named_digest(name: bytes) -> str | None:
    """The digest that a layout's file name promises."""
    parts = name.split(b"/")
    if len(parts) == 3 and parts[0] == b"blobs":
        digest = b":".join(parts[1:]).decode("latin-1")
        return digest if is_digest(digest) else None
    return None


def _layer_like(head: bytes) -> bool:
    return detect(head) is not Compression.NONE or head[257:262] == b"ustar"
