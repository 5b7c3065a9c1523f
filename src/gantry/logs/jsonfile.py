"""json-file logs, read in bulk.

Our writer gives all lines of one read the same envelope, byte for byte. So a run of
lines is found by looking for that envelope, taken apart by one split, and unescaped by
one parse of the whole run: C work only, whatever the number of lines. Lines with
envelopes of their own (slow writers, other engines' files) go through msgspec.
"""

from __future__ import annotations

import json
import os
import re

import msgspec

from gantry.logs.query import Renderer

_PREFIX = b'{"log":"'
_TAIL = re.compile(rb'(\\n)?","stream":"(stdout|stderr)","time":"([0-9T:.\-]+Z)"\}$')
_STREAMS = {b"stdout": 1, b"stderr": 2, "stdout": 1, "stderr": 2}
_SHORT_RUN = 2048
_REGION = 1 << 15
_BLOCK = 1 << 16


class Line(msgspec.Struct):
    """One entry of the file."""

    time: str
    log: str = ""
    stream: str = "stdout"
    attrs: dict[str, str] = {}


_decoder = msgspec.json.Decoder(Line)


def whole(data: bytes | bytearray) -> int:
    """How many bytes of `data` are whole entries."""
    return data.rfind(b"\n") + 1


def tail(fd: int, size: int, lines: int) -> tuple[int, int, int]:
    """Where the last `lines` entries of a file begin: offset, entries found, lines to skip."""
    end = size
    found = 0
    while end > 0:
        start = max(0, end - _BLOCK)
        block = os.pread(fd, end - start, start)
        inside = block[:-1] if end == size else block  # the last newline ends the last line
        count = inside.count(b"\n")
        if found + count >= lines:
            position = len(inside)
            for _ in range(lines - found):
                position = inside.rfind(b"\n", 0, position)
            return start + position + 1, lines, 0
        found += count
        end = start
    return 0, found + 1 if size else 0, 0


class JsonFileDecoder:
    """Blocks of whole entries to frames."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def render(self, block: bytes, skip: int = 0) -> bytes:
        """The wanted frames of `block`."""
        out: list[bytes] = []
        position, size = 0, len(block)
        while position < size and not self._renderer.done:
            end = self._run(block, position, out)
            if end == position:
                end = _region_end(block, position)
                self._each(block[position:end], out)
            position = end
        return b"".join(out)

    def _run(self, block: bytes, position: int, out: list[bytes]) -> int:
        """Render the run of equal envelopes at `position`, if it is worth it; its end."""
        first_end = block.find(b"\n", position)
        if first_end < 0 or not block.startswith(_PREFIX, position):
            return position
        match = _TAIL.search(block, max(position, first_end - 120), first_end)
        if match is None:
            return position
        envelope = match.group() + b"\n"
        end = _run_end(block, position, first_end + 1, envelope)
        if end - position < _SHORT_RUN and end < len(block):
            return position
        between = envelope + _PREFIX
        body = block[position + len(_PREFIX) : end - len(envelope)]
        if b"\\" in body:
            inside = body.replace(between, b'","')
            texts = [text.encode("utf-8", "replace") for text in json.loads(b'["%b"]' % inside)]
        else:
            texts = body.split(between)
        ending = b"\n" if match[1] else b""
        out.append(self._renderer.lines(_STREAMS[match[2]], match[3], texts, ending))
        return end

    def _each(self, region: bytes, out: list[bytes]) -> None:
        try:
            lines = _decoder.decode_lines(region)
        except msgspec.MsgspecError:
            lines = _readable(region)
        for line in lines:
            out.append(
                self._renderer.lines(
                    _STREAMS.get(line.stream, 0),
                    line.time.encode(),
                    [line.log.encode("utf-8", "replace")],
                    attrs=line.attrs,
                )
            )


def _run_end(block: bytes, start: int, first_end: int, envelope: bytes) -> int:
    """The end of the last of the lines at `start` that end in `envelope`, one by one."""
    size = len(block)
    if first_end < size and block.find(b"\n", first_end) + 1 == first_end:
        return first_end
    window, end = 4096, first_end
    while True:
        limit = min(size, start + window)
        last = block.rfind(envelope, start, limit)
        if last >= 0:
            end = max(end, last + len(envelope))
        if limit == size or end < start + window // 2:
            break
        window *= 4
    if block.count(b"\n", start, end) == block.count(envelope, start, end):
        return end
    return first_end  # others in between: that is no run


def _region_end(block: bytes, position: int) -> int:
    end = block.rfind(b"\n", position, position + _REGION) + 1
    if end <= position:
        end = block.find(b"\n", position) + 1
    return end if end > position else len(block)


def _readable(region: bytes) -> list[Line]:
    """The entries of a region that holds damaged ones (a machine that lost power)."""
    lines = []
    for text in region.split(b"\n"):
        try:
            lines.append(_decoder.decode(text))
        except msgspec.MsgspecError:
            continue
    return lines
