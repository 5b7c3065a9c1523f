"""Docker's json-file lines, many at once.

The format of moby's `daemon/logger/jsonfilelog/jsonlog`: one object a line, `log` with
Go's HTML-safe JSON escapes, invalid UTF-8 as U+FFFD a byte, `time` in RFC3339Nano. All
work on the text is done by C-level operations over whole reads: translate finds out
whether anything needs an escape at all, replace puts the envelope between the lines.
"""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Mapping

PREFIX = b'{"log":"'

_SAFE = bytes(c for c in range(0x20, 0x80) if c not in b'\\"<>&') + b"\n"
_ESCAPES = {c: b"\\u00%02x" % c for c in (*range(0x20), *b"<>&") if c != 0x0A}
_ESCAPES |= {0x0D: b"\\r", 0x22: b'\\"', 0x5C: b"\\\\"}


def _as_go_does(error: UnicodeError) -> tuple[str, int]:
    """Go replaces every invalid byte by itself, Python's "replace" maximal subparts."""
    assert isinstance(error, UnicodeDecodeError)
    return "\\ufffd", error.start + 1


# Registered and looked up once, here: no codec is searched after a fork.
codecs.register_error("gantry-go-json", _as_go_does)
b"\xff".decode("utf-8", "gantry-go-json")


def escape(block: bytes) -> bytes:
    """`block` as the inside of JSON strings; newlines stay as they are."""
    odd = block.translate(None, _SAFE)
    if not odd:
        return block
    kinds = set(odd)
    if 0x5C in kinds:  # first: the other escapes bring backslashes
        block = block.replace(b"\\", b"\\\\")
        kinds.discard(0x5C)
    high = False
    for kind in kinds:
        if kind < 0x80:
            block = block.replace(bytes((kind,)), _ESCAPES[kind])
        else:
            high = True
    if high:
        block = _escape_unicode(block)
    return block


def _escape_unicode(block: bytes) -> bytes:
    try:
        block.decode()
    except UnicodeDecodeError:
        block = block.decode("utf-8", "gantry-go-json").encode()
    if b"\xe2\x80" in block:
        block = block.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return block


class Clock:
    """RFC3339Nano stamps; the part up to the second is made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def stamp(self, now_ns: int) -> bytes:
        """Such as 2026-01-31T23:59:59.25Z: no trailing zeros, as Go prints it."""
        second, rest = divmod(now_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        if not rest:
            return self._text + b"Z"
        return self._text + (b".%09d" % rest).rstrip(b"0") + b"Z"


class Encoder:
    """The envelope of one container's lines. attrs: the "attrs" object, left out when empty."""

    def __init__(self, attrs: Mapping[str, str]) -> None:
        extra = b""
        if attrs:
            extra = b'"attrs":' + json.dumps(dict(attrs), separators=(",", ":")).encode() + b","
        end = b'",' + extra + b'"time":"'
        self._middle = (b"", b'","stream":"stdout' + end, b'","stream":"stderr' + end)

    def lines(self, stream: int, block: bytes, stamp: bytes) -> bytes:
        """Objects for whole lines; `block` ends with a newline."""
        suffix = b"\\n" + self._middle[stream] + stamp + b'"}\n'
        text = escape(block)
        return PREFIX + text[:-1].replace(b"\n", suffix + PREFIX) + suffix

    def piece(self, stream: int, text: bytes, stamp: bytes) -> bytes:
        """The object for a part of a line, without its newline."""
        return PREFIX + escape(text) + self._middle[stream] + stamp + b'"}\n'
