"""A small Engine API client over raw unix sockets.

Tests need to see the bytes (status lines, header casing, hijacked connections), and the
benchmark needs a client whose own cost is small and the same for both engines; so this one
speaks HTTP/1.1 by itself and hides nothing.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias
from urllib.parse import urlencode

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Params: TypeAlias = "dict[str, str | int | bool | dict[str, list[str]]]"

TIMEOUT: Final = 60.0
BODYLESS: Final = frozenset({204, 304})


class ApiError(Exception):
    """An answer with an unexpected status."""


@dataclass(frozen=True)
class Response:
    """One whole answer. Header names are lower case; `raw_headers` keeps them as sent."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    raw_headers: tuple[tuple[str, str], ...] = ()

    def json(self) -> Json:
        """Return the body parsed."""
        value: Json = json.loads(self.body)
        return value

    def obj(self) -> dict[str, Json]:
        """Return the body parsed; it has to be an object."""
        value = self.json()
        assert isinstance(value, dict), value
        return value

    def array(self) -> list[dict[str, Json]]:
        """Return the body parsed; it has to be an array of objects."""
        value = self.json()
        assert isinstance(value, list), value
        items = [item for item in value if isinstance(item, dict)]
        assert len(items) == len(value), value
        return items

    def text(self, key: str) -> str:
        """Return a string field of the answer."""
        value = self.obj()[key]
        assert isinstance(value, str), value
        return value

    @property
    def message(self) -> str:
        """The `message` of an error body."""
        return self.text("message")

    def expect(self, *statuses: int) -> Response:
        """Return self if the status is one of `statuses`, else raise ApiError."""
        if self.status not in statuses:
            raise ApiError(f"status {self.status}, expected {statuses}: {self.body[:500]!r}")
        return self

    def lines(self) -> list[dict[str, Json]]:
        """Return a body of JSON values one after another, as progress streams send them."""
        decoder = json.JSONDecoder()
        text = self.body.decode()
        found: list[dict[str, Json]] = []
        at = 0
        while at < len(text):
            if text[at] in " \r\n\t":
                at += 1
                continue
            value, at = decoder.raw_decode(text, at)
            assert isinstance(value, dict), value
            found.append(value)
        return found


@dataclass
class Wire:
    """A connected socket with a read buffer."""

    sock: socket.socket
    buffer: bytearray = field(default_factory=bytearray)

    def _more(self) -> bool:
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def line(self) -> bytes:
        """Return one CRLF line without its end; raise ConnectionError at the end."""
        while (end := self.buffer.find(b"\n")) < 0:
            if not self._more():
                raise ConnectionError(f"closed in the middle of a line: {bytes(self.buffer)!r}")
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        return line.rstrip(b"\r")

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes; raise ConnectionError at the end."""
        while len(self.buffer) < size:
            if not self._more():
                raise ConnectionError(f"closed after {len(self.buffer)} of {size} bytes")
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def some(self) -> bytes:
        """Return what there is, waiting for at least a byte; empty at the end."""
        if not self.buffer and not self._more():
            return b""
        data = bytes(self.buffer)
        self.buffer.clear()
        return data

    def rest(self) -> bytes:
        """Return everything up to the end of the connection."""
        while self._more():
            pass
        return self.some() if self.buffer else b""

    def until(self, needle: bytes) -> bytes:
        """Return everything up to and with `needle`."""
        while (at := self.buffer.find(needle)) < 0:
            if not self._more():
                raise ConnectionError(f"no {needle!r} in {bytes(self.buffer)!r}")
        return self.exactly(at + len(needle))

    def frame(self) -> tuple[int, bytes] | None:
        """Return one (stream, payload) of a multiplexed stream, None at its end."""
        if not self.buffer and not self._more():
            return None
        stream, size = struct.unpack(">BxxxI", self.exactly(8))
        return stream, self.exactly(size)

    def half_close(self) -> None:
        """Say that no more input comes."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Hijacked:
    """The answer to a hijacking request: status, headers and the raw connection."""

    status: int
    headers: dict[str, str]
    wire: Wire

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wire.close()


def demultiplex(data: bytes) -> list[tuple[int, bytes]]:
    """Split a multiplexed stream (8 byte headers) into (stream, payload)."""
    found = []
    at = 0
    while at < len(data):
        stream, size = struct.unpack_from(">BxxxI", data, at)
        payload = data[at + 8 : at + 8 + size]
        assert len(payload) == size, "truncated frame"
        found.append((stream, payload))
        at += 8 + size
    return found


def stream_of(data: bytes, stream: int) -> bytes:
    """Return what a multiplexed stream carries for one stream (1 stdout, 2 stderr)."""
    return b"".join(payload for number, payload in demultiplex(data) if number == stream)


class Api:
    """Requests to one engine, over one kept connection; `version` prefixes every path."""

    def __init__(self, path: str, version: str = "", timeout: float = TIMEOUT) -> None:
        self.path = path
        self.version = version
        self.timeout = timeout
        self._wire: Wire | None = None

    def at(self, version: str) -> Api:
        """Return a client of the same engine for another API version."""
        return Api(self.path, version, self.timeout)

    def connect(self, timeout: float | None = None) -> Wire:
        """Return a fresh connection."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout or self.timeout)
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            raise
        return Wire(sock)

    def close(self) -> None:
        """Drop the kept connection."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def url(self, path: str, params: Params | None = None) -> str:
        """Return the request target of `path` in this client's version."""
        prefix = f"/v{self.version}" if self.version else ""
        if not params:
            return prefix + path
        plain = {}
        for name, value in params.items():
            if isinstance(value, dict):
                plain[name] = json.dumps(value)
            elif isinstance(value, bool):
                plain[name] = "1" if value else "0"
            else:
                plain[name] = str(value)
        return f"{prefix}{path}?{urlencode(plain)}"

    def head(
        self,
        method: str,
        target: str,
        body: bytes | None,
        headers: dict[str, str] | None,
    ) -> bytes:
        """Return the bytes of a request."""
        lines = [f"{method} {target} HTTP/1.1", "Host: docker"]
        names = {name.lower() for name in headers or ()}
        if body is not None and "content-type" not in names:
            lines.append("Content-Type: application/json")
        if body is not None or method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(body or b'')}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")

    def request(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        body: Json | bytes = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Send a request over the kept connection and return the whole answer."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        data = self.head(method, self.url(path, params), raw, headers)
        fresh = self._wire is None
        wire = self._wire or self.connect()
        self._wire = wire
        try:
            wire.sock.sendall(data)
            return self._answer(wire, method)
        except (ConnectionError, BrokenPipeError):
            self.close()
            if fresh:
                raise
        except BaseException:
            self.close()
            raise
        return self.request(method, path, params, body, headers)

    def _answer(self, wire: Wire, method: str) -> Response:
        status, reason, raw = read_head(wire)
        headers = {name.lower(): value for name, value in raw}
        if method == "HEAD" or status in BODYLESS:
            body = b""
        else:
            body = read_body(wire, headers)
        framed = "content-length" in headers or headers.get("transfer-encoding") == "chunked"
        bodyless = method == "HEAD" or status in BODYLESS
        if headers.get("connection", "").lower() == "close" or not (framed or bodyless):
            self.close()
        return Response(status, reason, headers, body, raw)

    def get(self, path: str, params: Params | None = None) -> Response:
        """GET."""
        return self.request("GET", path, params)

    def post(self, path: str, params: Params | None = None, body: Json | bytes = None) -> Response:
        """POST."""
        return self.request("POST", path, params, body)

    def delete(self, path: str, params: Params | None = None) -> Response:
        """DELETE."""
        return self.request("DELETE", path, params)

    def hijack(
        self,
        path: str,
        params: Params | None = None,
        body: Json | bytes = None,
        upgrade: bool = True,
        timeout: float | None = None,
    ) -> Hijacked:
        """POST and keep the connection raw, with or without `Upgrade: tcp`."""
        wire = self.connect(timeout)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"} if upgrade else {}
        wire.sock.sendall(self.head("POST", self.url(path, params), raw, headers))
        status, _, pairs = read_head(wire)
        return Hijacked(status, {name.lower(): value for name, value in pairs}, wire)

    def stream(
        self, path: str, params: Params | None = None, timeout: float | None = None
    ) -> Stream:
        """GET an endless answer."""
        wire = self.connect(timeout)
        wire.sock.sendall(self.head("GET", self.url(path, params), None, None))
        status, _, pairs = read_head(wire)
        return Stream(status, {name.lower(): value for name, value in pairs}, wire)


@dataclass(frozen=True)
class Stream:
    """An answer that goes on; iterate its chunks."""

    status: int
    headers: dict[str, str]
    wire: Wire

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks as they come."""
        if self.headers.get("transfer-encoding") != "chunked":
            while data := self.wire.some():
                yield data
            return
        while data := read_chunk(self.wire):
            yield data

    def objects(self) -> Iterator[dict[str, Json]]:
        """Yield JSON objects, one a line or one after another."""
        decoder = json.JSONDecoder()
        text = ""
        for chunk in self.chunks():
            text += chunk.decode()
            while text := text.lstrip():
                try:
                    value, end = decoder.raw_decode(text)
                except ValueError:
                    break
                text = text[end:]
                yield value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wire.close()


def read_head(wire: Wire) -> tuple[int, str, tuple[tuple[str, str], ...]]:
    """Read a status line and headers."""
    version, code, *reason = wire.line().decode("latin-1").split(" ", 2)
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise ApiError(f"not HTTP: {version!r}")
    pairs = []
    while line := wire.line():
        name, _, value = line.decode("latin-1").partition(":")
        pairs.append((name, value.strip()))
    return int(code), reason[0] if reason else "", tuple(pairs)


def read_chunk(wire: Wire) -> bytes:
    """Read one chunk of a chunked body; empty at its end."""
    size = int(wire.line().split(b";")[0], 16)
    data = wire.exactly(size)
    wire.line()
    return data


def read_body(wire: Wire, headers: dict[str, str]) -> bytes:
    """Read a body by whichever framing the headers say."""
    if headers.get("transfer-encoding") == "chunked":
        parts = []
        while chunk := read_chunk(wire):
            parts.append(chunk)
        return b"".join(parts)
    if "content-length" in headers:
        return wire.exactly(int(headers["content-length"]))
    return wire.rest()
