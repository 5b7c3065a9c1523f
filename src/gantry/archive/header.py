"""Tar entries as values, and their headers (POSIX pax and ustar, GNU, old V7).

Names are bytes all the way: a layer may hold any byte but NUL and slash in a name.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Final

from gantry.archive.errors import ArchiveError

BLOCK: Final = 512

REGULAR: Final = 0x30  # "0"
HARDLINK: Final = 0x31
SYMLINK: Final = 0x32
CHARACTER: Final = 0x33
BLOCK_DEVICE: Final = 0x34
DIRECTORY: Final = 0x35
FIFO: Final = 0x36
CONTIGUOUS: Final = 0x37
GNU_LONG_LINK: Final = 0x4B  # "K"
GNU_LONG_NAME: Final = 0x4C  # "L"
GNU_SPARSE: Final = 0x53  # "S"
PAX: Final = 0x78  # "x"
PAX_GLOBAL: Final = 0x67  # "g"
SOLARIS_PAX: Final = 0x58  # "X"

XATTR_PREFIX: Final = b"SCHILY.xattr."
ID_MAX: Final = 1 << 32
TIME_MAX: Final = 1 << 63  # nanoseconds
SIZE_MAX: Final = 1 << 62
_ADLER: Final = 65521


@dataclass(slots=True)
class Entry:
    """One member. size: bytes of data that follow in the archive; of a file with `sparse`,
    `real_size` is its length. times in nanoseconds."""

    name: bytes
    type: int = REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    atime_ns: int | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[int, int]] | None = None
    real_size: int = 0


def number(data: bytes) -> int:
    """A numeric field: octal text, or base 256 where the first bit is set."""
    try:
        return int(data.rstrip(b"\0 "), 8)  # as nearly all are
    except ValueError:
        return _rare_number(data)


def _rare_number(data: bytes) -> int:
    if data and data[0] & 0x80:
        if data[0] & 0x40:
            return int.from_bytes(data, "big") - (1 << (8 * len(data)))
        return int.from_bytes(bytes((data[0] & 0x7F,)) + data[1:], "big")
    text = data.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    try:
        return int(text, 8)
    except ValueError:
        raise ArchiveError("invalid tar header")


def check(header: bytes) -> None:
    """The header's checksum: unsigned sum, or signed as some old writers made it."""
    stored = number(header[148:156])
    total = sum(header[148:156]) + stored - 256
    if zlib.adler32(header) & 0xFFFF == (total + 1) % _ADLER:  # the bytes' sum, quickly
        return
    signed = sum(b - 256 if b > 127 else b for b in header[:148] + header[156:]) + 256
    if stored != signed:
        raise ArchiveError("invalid tar header")


def parse(header: bytes) -> Entry:
    """One 512-byte header block, without what extension headers add."""
    check(header)
    name = header[:100].split(b"\0", 1)[0]
    kind = header[156] or REGULAR
    magic = header[257:265]
    entry = Entry(
        name,
        kind,
        number(header[100:108]) & 0o7777,
        number(header[108:116]),
        number(header[116:124]),
        number(header[124:136]),
        number(header[136:148]) * 1_000_000_000,
        header[157:257].split(b"\0", 1)[0] if header[157] else b"",
    )
    if magic[:5] == b"ustar":
        if kind in (CHARACTER, BLOCK_DEVICE):
            entry.major = number(header[329:337])
            entry.minor = number(header[337:345])
        if magic[5] == 0 and header[345]:  # a GNU header has other fields there
            entry.name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    if not 0 <= entry.size < SIZE_MAX:
        raise ArchiveError("invalid tar header: size out of range")
    return entry


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records `length key=value newline` of an extended header."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        try:
            end = position + int(data[position:space]) if space > 0 else 0
        except ValueError:
            end = 0
        if end <= space + 2 or end > len(data) or data[end - 1] != 0x0A:
            raise ArchiveError("invalid tar header: malformed extended header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise ArchiveError("invalid tar header: malformed extended header")
        records[key] = value
        position = end
    return records


def apply_pax(entry: Entry, records: dict[bytes, bytes]) -> None:
    """Let extended records override what the header block says."""
    try:
        for key, value in records.items():
            if key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                entry.size = int(value)
            elif key == b"mtime":
                entry.mtime_ns = _nanoseconds(value)
            elif key == b"atime":
                entry.atime_ns = _nanoseconds(value)
            elif key == b"uid":
                entry.uid = int(value)
            elif key == b"gid":
                entry.gid = int(value)
            elif key.startswith(XATTR_PREFIX):
                entry.xattrs[key[len(XATTR_PREFIX) :]] = value
    except ValueError:
        raise ArchiveError("invalid tar header: malformed extended header")
    if b"GNU.sparse.major" in records or b"GNU.sparse.map" in records:
        _sparse_pax(entry, records)
    if not 0 <= entry.size < SIZE_MAX or b"\0" in entry.name or b"\0" in entry.link:
        raise ArchiveError("invalid tar header: value out of range")


def check_values(entry: Entry) -> None:
    """ArchiveError for what no system call takes; times that none takes become the epoch, as
    Docker has it."""
    if not (-1 <= entry.uid < ID_MAX and -1 <= entry.gid < ID_MAX):
        raise ArchiveError("invalid tar header: owner out of range")
    if entry.xattrs and any(b"\0" in key for key in entry.xattrs):
        raise ArchiveError("invalid tar header: malformed extended header")
    if not -TIME_MAX < entry.mtime_ns < TIME_MAX:
        entry.mtime_ns = 0
    if entry.atime_ns is not None and not -TIME_MAX < entry.atime_ns < TIME_MAX:
        entry.atime_ns = 0


def _nanoseconds(value: bytes) -> int:
    whole, _, fraction = value.partition(b".")
    ns = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    seconds = int(whole)
    return seconds * 1_000_000_000 + (-ns if whole.startswith(b"-") else ns)


def _sparse_pax(entry: Entry, records: dict[bytes, bytes]) -> None:
    """GNU's sparse formats 0.1 and 1.0 (0.0 repeats keys, which no layer writer does)."""
    try:
        entry.real_size = int(
            records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size") or b"0"
        )
        if b"GNU.sparse.map" in records:
            numbers = [int(text) for text in records[b"GNU.sparse.map"].split(b",")]
            entry.sparse = list(zip(numbers[::2], numbers[1::2], strict=True))
        else:
            entry.sparse = []  # version 1.0: the map is in front of the data
    except ValueError:
        raise ArchiveError("invalid tar header: malformed sparse map")
    if b"GNU.sparse.name" in records:
        entry.name = records[b"GNU.sparse.name"]


# ---- writing


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def build(entry: Entry) -> bytes:
    """The header blocks of an entry: a pax header in front where the block cannot say it.

    What is written depends on the entry alone: the same tree gives the same bytes.
    """
    records: dict[bytes, bytes] = {}
    name, prefix = entry.name, b""
    if len(name) > 100 or not name.isascii():
        cut = name.rfind(b"/", 0, 156) if name.isascii() else -1
        if cut > 0 and 0 < len(name) - cut - 1 <= 100:
            prefix, name = name[:cut], name[cut + 1 :]
        else:
            records[b"path"] = name
            name = name[:100]
    link = entry.link
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
        link = link[:100]
    size, uid, gid, seconds = entry.size, entry.uid, entry.gid, entry.mtime_ns // 1_000_000_000
    if size >= 1 << 33:
        records[b"size"] = b"%d" % size
        size = 0
    if uid >= 1 << 21:
        records[b"uid"] = b"%d" % uid
        uid = 0
    if gid >= 1 << 21:
        records[b"gid"] = b"%d" % gid
        gid = 0
    if not 0 <= seconds < 1 << 33:
        records[b"mtime"] = b"%d" % seconds
        seconds = 0
    for key, value in entry.xattrs.items():
        records[XATTR_PREFIX + key] = value
    short = Entry(
        name, entry.type, entry.mode, uid, gid, size, seconds, link, entry.major, entry.minor
    )
    if not records:
        return _block(short, prefix)
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    title = b"PaxHeaders.0/" + entry.name.rsplit(b"/", 1)[-1][:80]
    head = _block(Entry(title, PAX, 0, size=len(data)), b"")
    return head + data + b"\0" * (-len(data) % BLOCK) + _block(short, prefix)


def _block(entry: Entry, prefix: bytes) -> bytes:
    """A ustar block; `mtime_ns` has seconds here."""
    body = b"".join(
        (
            entry.name.ljust(100, b"\0"),
            _octal(entry.mode, 8),
            _octal(entry.uid, 8),
            _octal(entry.gid, 8),
            _octal(entry.size, 12),
            _octal(entry.mtime_ns, 12),
            b"        ",
            bytes((entry.type,)),
            entry.link.ljust(100, b"\0"),
            b"ustar\x0000",
            b"\0" * 64,
            _octal(entry.major, 8),
            _octal(entry.minor, 8),
            prefix.ljust(155, b"\0"),
            b"\0" * 12,
        )
    )
    return body[:148] + b"%06o\0 " % sum(body) + body[156:]


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) + rest != length:
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
