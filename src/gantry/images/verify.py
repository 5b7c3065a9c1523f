"""`gantry image verify` and `unpack`: is what is here what it says it is, and is it all here?

Every blob is read again and compared with its digest; every snapshot is compared with its
layer: a layer's tar is gone through entry by entry, and kind, size, mode, owner, link and
content of what it says are looked up in the unpacked folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from gantry.archive import header
from gantry.archive.compression import decompress
from gantry.archive.errors import ArchiveError
from gantry.archive.header import Entry
from gantry.archive.names import WHITEOUT, clean
from gantry.archive.reader import TarReader
from gantry.content.store import ContentStore
from gantry.images.bridge import off_loop
from gantry.images.catalog import Catalog
from gantry.images.layers import LayerBlob, Layers
from gantry.kernel import syscalls
from gantry.model.errors import GantryError, NotFound
from gantry.model.image import Image
from gantry.model.image_record import ImageRecord
from gantry.snapshots.private import mounted

_KINDS = {
    header.REGULAR: stat.S_IFREG,
    header.DIRECTORY: stat.S_IFDIR,
    header.SYMLINK: stat.S_IFLNK,
    header.CHARACTER: stat.S_IFCHR,
    header.BLOCK_DEVICE: stat.S_IFBLK,
    header.FIFO: stat.S_IFIFO,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. damage: what is wrong, "" when it is well."""

    image: str
    kind: str
    digest: str
    damage: str


class Verifier:
    """See the module."""

    def __init__(self, catalog: Catalog, content: ContentStore, layers: Layers) -> None:
        self._catalog = catalog
        self._content = content
        self._layers = layers

    async def verify(self, name: str = "") -> AsyncIterator[Finding]:
        """One finding a blob and a snapshot; all images without a name. NotFound."""
        images = [self._catalog.resolve(name)] if name else list(self._catalog.images.values())
        seen: set[str] = set()
        for image in images:
            record = self._catalog.records.get(image.id)
            if record is None:
                continue
            for digest in (record.id, record.manifest, *record.blobs):
                if digest and digest not in seen:
                    seen.add(digest)
                    damage = await off_loop(self._blob, digest)
                    yield Finding(image.id, "blob", digest, damage)
            async for finding in self._snapshots(image, record, seen):
                yield finding

    async def unpack(self, name: str) -> AsyncIterator[Finding]:
        """Make the snapshots of an image that are missing, from its blobs."""
        image = self._catalog.resolve(name)
        record = self._catalog.records[image.id]
        missing = [c for c in image.chain_ids if not self._layers.snapshots.exists(c)]
        layers = [
            LayerBlob(diff_id, blob)
            for diff_id, blob in zip(image.diff_ids, record.blobs, strict=True)
        ]
        with self._catalog.holding(image.chain_ids, record.blobs):
            await self._layers.assemble(layers)
        for chain in missing:
            yield Finding(image.id, "snapshot", chain, "")

    # ---- inside

    async def _snapshots(
        self, image: Image, record: ImageRecord, seen: set[str]
    ) -> AsyncIterator[Finding]:
        for number, (chain, blob) in enumerate(zip(image.chain_ids, record.blobs, strict=True)):
            if "snapshot " + chain in seen:
                continue
            seen.add("snapshot " + chain)
            # What layers above changed is not in this layer's own view.
            damage = await off_loop(self._snapshot, chain, blob, image.diff_ids[number])
            yield Finding(image.id, "snapshot", chain, damage)

    def _blob(self, digest: str) -> str:
        try:
            return "" if self._content.verify(digest) else "content does not match its digest"
        except NotFound:
            return "missing"
        except (GantryError, OSError) as error:
            return str(error)

    def _snapshot(self, chain: str, blob: str, diff_id: str) -> str:
        """Compare an unpacked layer, mounted with what is below it, with its tar."""
        snapshots = self._layers.snapshots
        if not snapshots.exists(chain):
            return "missing"
        key = f"verify-{os.urandom(6).hex()}"
        try:
            with mounted(snapshots.view(key, chain)) as root:
                return self._compare(root, blob, diff_id)
        except (GantryError, OSError) as error:
            return str(error)
        finally:
            if snapshots.exists(key):
                snapshots.remove(key)

    def _compare(self, root: int, blob: str, diff_id: str) -> str:
        fd = self._content.open(blob)
        try:
            plain = hashlib.sha256()
            _, inner = decompress(lambda: os.read(fd, 1 << 20))

            def source() -> bytes:
                piece = inner()
                plain.update(piece)
                return piece

            found = ""
            reader = TarReader(source)
            for entry, name in _last(reader):
                damage = _differs(root, entry, name, reader)
                if damage and not found:
                    found = f"{os.fsdecode(name)!r}: {damage}"
            reader.drain()
            if "sha256:" + plain.hexdigest() != diff_id:
                return "the layer does not match its diff id"
            return found
        except ArchiveError as error:
            return str(error)
        finally:
            os.close(fd)


def _last(reader: TarReader) -> Iterator[tuple[Entry, bytes]]:
    """Entries with their clean names. (That a name comes twice is not worth a second pass:
    such a layer's first one is reported as different.)"""
    for entry in reader:
        yield entry, clean(entry.name)


def _differs(root: int, entry: Entry, name: bytes, reader: TarReader) -> str:
    folder, _, base = name.rpartition(b"/")
    inside = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    if base.startswith(WHITEOUT):
        return ""
    try:
        at = syscalls.openat2(root, folder or b".", os.O_PATH | os.O_DIRECTORY, resolve=inside)
    except OSError:
        return "missing"
    try:
        try:
            info = os.stat(base or b".", dir_fd=at, follow_symlinks=False)
        except OSError:
            return "missing"
        if entry.type == header.HARDLINK:
            return ""
        if stat.S_IFMT(info.st_mode) != _KINDS.get(entry.type):
            return "of another kind"
        if (info.st_uid, info.st_gid) != (entry.uid, entry.gid):
            return f"owned by {info.st_uid}:{info.st_gid}"
        if entry.type != header.SYMLINK and stat.S_IMODE(info.st_mode) != entry.mode:
            return f"mode {stat.S_IMODE(info.st_mode):o}"
        if entry.type == header.SYMLINK:
            same = os.fsencode(os.readlink(base, dir_fd=at)) == entry.link
            return "" if same else "leads elsewhere"
        if entry.type == header.REGULAR:
            return _content(at, base, entry, info.st_size, reader)
        return ""
    finally:
        os.close(at)


def _content(at: int, base: bytes, entry: Entry, size: int, reader: TarReader) -> str:
    if entry.sparse is not None:
        return "" if size == entry.real_size else "of another size"
    if size != entry.size:
        return "of another size"
    fd = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        for piece in reader.data():
            if os.read(fd, len(piece)) != piece:
                return "content differs"
        return ""
    finally:
        os.close(fd)
