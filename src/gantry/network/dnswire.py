"""Just enough of DNS's wire format (RFC 1035) for the embedded server.

Queries are read and answers written by hand: a library's objects would cost more than
all the rest of an answer. Whatever is not understood is forwarded as it came.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

A, CNAME, PTR, AAAA, OPT = 1, 5, 12, 28, 41
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
CLASS_IN = 1
TTL = 600  # seconds, Docker's
TRUNCATED = 0x02  # in the third byte of the header

_HEADER = struct.Struct(">HBBHHHH")
_RECORD = struct.Struct(">HHIH")


@dataclass(frozen=True, slots=True)
class Question:
    """name: lower case, without the last dot. end: where the question ends in the message.
    size: of a UDP answer that the client takes."""

    name: str
    type: int
    end: int
    size: int


def question(message: bytes) -> Question | None:
    """The (first) question of a query; None when the message is none that we can read. Nor do
    we read names with dots or control characters in a label: written down, they would be other
    names than they are."""
    if len(message) < 17 or message[2] & 0x80 or message[2] & 0x78 or message[4:6] == b"\0\0":
        return None
    at = 12
    labels: list[str] = []
    try:
        while length := message[at]:
            if length > 63:
                return None
            label = message[at + 1 : at + 1 + length].decode("ascii")
            if "." in label or not label.isprintable():
                return None
            labels.append(label)
            at += 1 + length
        kind, cls = struct.unpack_from(">HH", message, at + 1)
    except (IndexError, UnicodeDecodeError, struct.error):
        return None
    if cls != CLASS_IN:
        return None
    return Question(".".join(labels).lower(), kind, at + 5, _udp_size(message, at + 5))


def _udp_size(message: bytes, at: int) -> int:
    """What the OPT record says (RFC 6891), 512 without one."""
    if message[10:12] == b"\0\0" or message[6:10] != b"\0\0\0\0" or len(message) < at + 11:
        return 512
    kind, size = struct.unpack_from(">HH", message, at + 1)
    return max(512, size) if message[at] == 0 and kind == OPT else 512


def reply(query: bytes, found: Question, records: list[bytes], rcode: int = NOERROR) -> bytes:
    """An answer with the records that fit in `found.size`; truncated if some do not."""
    out = bytearray(query[12 : found.end])
    count = 0
    room = found.size - 12
    flag = 0
    for record in records:
        if len(out) + len(record) > room:
            flag = TRUNCATED
            break
        out += record
        count += 1
    header = _HEADER.pack(
        int.from_bytes(query[:2], "big"),
        0x80 | (query[2] & 0x79) | flag,
        0x80 | rcode,
        1,
        count,
        0,
        0,
    )
    return header + bytes(out)


def failure(query: bytes, rcode: int) -> bytes:
    """An answer without records to whatever the query was."""
    found = question(query)
    if found is not None:
        return reply(query, found, [], rcode)
    return query[:2] + bytes((0x80 | (query[2] & 0x79), 0x80 | rcode)) + bytes(8)


def address_record(address: str, ttl: int = TTL) -> bytes:
    """A or AAAA, for the name of the question."""
    packed = ip_address(address).packed
    kind = A if len(packed) == 4 else AAAA
    return b"\xc0\x0c" + _RECORD.pack(kind, CLASS_IN, ttl, len(packed)) + packed


def pointer_record(name: str, ttl: int = TTL) -> bytes:
    """PTR, for the name of the question."""
    data = pack_name(name)
    return b"\xc0\x0c" + _RECORD.pack(PTR, CLASS_IN, ttl, len(data)) + data


def pack_name(name: str) -> bytes:
    labels = [label.encode("ascii", "replace")[:63] for label in name.rstrip(".").split(".")]
    return b"".join(bytes((len(label),)) + label for label in labels if label) + b"\0"


def query(name: str, kind: int, identity: int = 0) -> bytes:
    """A query with recursion desired (tests, tools)."""
    header = _HEADER.pack(identity, 1, 0, 1, 0, 0, 0)
    return header + pack_name(name) + struct.pack(">HH", kind, CLASS_IN)


@dataclass(frozen=True, slots=True)
class Record:
    """name: lower case, without the last dot. data: as on the wire. text: of A, AAAA (the
    address), CNAME and PTR (the name); "" for others."""

    name: str
    type: int
    ttl: int
    data: bytes
    text: str


def records(message: bytes) -> list[Record]:
    """The records of the answer section; what is broken ends the list."""
    found: list[Record] = []
    try:
        questions, answers = struct.unpack_from(">HH", message, 4)
        at = 12
        for _ in range(questions):
            _, at = unpack_name(message, at)
            at += 4
        for _ in range(answers):
            name, at = unpack_name(message, at)
            kind, _cls, ttl, size = _RECORD.unpack_from(message, at)
            at += 10
            data = message[at : at + size]
            text = ""
            if (kind, size) in ((A, 4), (AAAA, 16)):
                text = str(ip_address(data))
            elif kind in (CNAME, PTR):
                text, _ = unpack_name(message, at)
            found.append(Record(name, kind, ttl, data, text))
            at += size
    except (IndexError, struct.error, ValueError):
        pass
    return found


def unpack_name(message: bytes, at: int) -> tuple[str, int]:
    """A name, which may be compressed, and where it ends. ValueError when it is broken."""
    labels: list[str] = []
    end = -1
    for _ in range(128):
        length = message[at]
        if length >= 0xC0:
            end = at + 2 if end < 0 else end
            at = int.from_bytes(message[at : at + 2], "big") & 0x3FFF
        elif length == 0:
            return ".".join(labels).lower(), at + 1 if end < 0 else end
        else:
            labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace"))
            at += 1 + length
    raise ValueError("a name that has no end")
