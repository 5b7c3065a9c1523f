"""What a client wants of a container's log, and the frames it gets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from urllib.parse import quote_plus


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The parameters of `GET /containers/{id}/logs`.

    since, until: nanoseconds since the epoch, None for no limit. tail: that many of the
    last lines of the log (counted before any other limit, as Docker does), None for all.
    raw: the container has a terminal; lines come without frame headers.
    """

    stdout: bool = True
    stderr: bool = True
    since: int | None = None
    until: int | None = None
    tail: int | None = None
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    raw: bool = False


class _Headers(dict[int, bytes]):
    """Docker's 8-byte frame headers of one stream, by length."""

    def __init__(self, stream: int) -> None:
        self._start = bytes((stream, 0, 0, 0))

    def __missing__(self, length: int) -> bytes:
        header = self._start + length.to_bytes(4, "big")
        if length < 4096:
            self[length] = header
        return header


class Renderer:
    """Lines to what goes on the wire: one frame a line, any number of frames joined.

    done: a line after `until` was seen, nothing more is wanted.
    """

    def __init__(self, query: LogQuery) -> None:
        self._wanted = {1: query.stdout, 2: query.stderr}
        self._raw = query.raw
        self._timestamps = query.timestamps
        self._details = query.details
        self._since = None if query.since is None else sort_key(query.since)
        self._until = None if query.until is None else sort_key(query.until)
        self._headers = {1: _Headers(1), 2: _Headers(2)}
        self.done = False

    def lines(
        self,
        stream: int,
        stamp: bytes,
        texts: list[bytes],
        end: bytes = b"",
        attrs: dict[str, str] | None = None,
    ) -> bytes:
        """Entries of one stream and one time: `texts`, and `end` after each of them.

        stamp: RFC3339Nano in UTC, as in the log.
        """
        if self.done or not texts:
            return b""
        key = stamp[:-1]  # without the Z, text order is time order
        if self._until is not None and key > self._until:
            self.done = True
            return b""
        if (self._since is not None and key < self._since) or not self._wanted.get(stream):
            return b""
        start = b""
        if self._timestamps:
            start = fixed(stamp) + b" "
        if self._details:
            start += details(attrs) + b" "
        if self._raw:
            return start + (end + start).join(texts) + end
        headers, extra = self._headers[stream], len(start) + len(end)
        if start:
            frames = [headers[len(text) + extra] + start + text for text in texts]
        elif extra:
            frames = [headers[len(text) + 1] + text for text in texts]
        else:
            frames = [headers[len(text)] + text for text in texts]
        return end.join(frames) + end


def sort_key(time_ns: int) -> bytes:
    """A time as its stamp without zone: 2026-01-31T23:59:59.25."""
    second, rest = divmod(time_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
    return text + (b".%09d" % rest).rstrip(b"0") if rest else text


def stamp_of(time_ns: int) -> bytes:
    """A time in RFC3339Nano as Go prints it."""
    return sort_key(time_ns) + b"Z"


def fixed(stamp: bytes) -> bytes:
    """The stamp with nine digits, as `docker logs -t` has it."""
    seconds, _, rest = stamp[:-1].partition(b".")
    return seconds + b"." + rest.ljust(9, b"0") + b"Z"


def details(attrs: dict[str, str] | None) -> bytes:
    """`docker logs --details`: key=value, sorted, joined by commas, query-escaped."""
    pairs = sorted((attrs or {}).items())
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in pairs).encode()
