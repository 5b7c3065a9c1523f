"""HTTP/1.1 over one socket: a request out, an answer in, or the socket itself (hijack).

Only what the Engine API needs, and light: no http.client (its email parser alone costs
20 ms at start-up).
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from gantry.client.address import Address
from gantry.client.errors import ProtocolError, Unreachable

if TYPE_CHECKING:
    from gantry.client.tls import TlsSocket

_PIECE = 65536
_LARGEST_HEAD = 1 << 20


class Response:
    """An answer whose head has been read; the body is read piece by piece.

    `headers` has lower-case names. When the body has been read to its end, the
    connection is free again (`done`), if the server keeps it.
    """

    def __init__(
        self, connection: Connection, status: int, headers: Mapping[str, str], bodyless: bool
    ) -> None:
        self.status = status
        self.headers = headers
        self._connection = connection
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        self._left: int | None = int(length) if length and length.isdigit() else None
        if self._chunked:
            self._left = 0
        self.done = bodyless or status in (204, 304) or (self._left == 0 and not self._chunked)

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip()

    def read_some(self) -> bytes:
        """The next piece of the body as soon as there is one; empty at its end."""
        if self.done:
            return b""
        if self._chunked:
            return self._read_chunked()
        if self._left is None:
            data = self._connection.take(_PIECE)
            self.done = not data
            return data
        data = self._connection.take(min(self._left, _PIECE))
        if not data:
            raise ProtocolError("unexpected EOF")
        self._left -= len(data)
        self.done = self._left == 0
        return data

    def _read_chunked(self) -> bytes:
        if self._left == 0:
            line = self._connection.line().partition(b";")[0].strip()
            try:
                self._left = int(line, 16)
            except ValueError:
                raise ProtocolError("unexpected EOF" if not line else f"bad chunk size {line!r}")
            if self._left == 0:
                while self._connection.line():
                    pass
                self.done = True
                return b""
        assert self._left is not None
        data = self._connection.take(min(self._left, _PIECE))
        if not data:
            raise ProtocolError("unexpected EOF")
        self._left -= len(data)
        if self._left == 0:
            self._connection.line()
        return data

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read_some():
            yield data

    def read(self) -> bytes:
        return b"".join(self)

    def fileno(self) -> int:
        """The socket's, to wait for the body with poll."""
        return self._connection.socket.fileno()

    def close(self) -> None:
        self._connection.release(self)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Connection:
    """One socket to an engine. `reusable` says whether another request may follow."""

    def __init__(self, address: Address, timeout: float | None = None) -> None:
        self.address = address
        self.reusable = True
        self.used = 0
        self._buffer = bytearray()
        self.socket = connect(address, timeout)

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """Sends one request and reads the head of its answer.

        A body that is not bytes is sent chunked while the answer may already come in
        (the engine reports progress during an upload). Raises OSError, ProtocolError.
        """
        self.used += 1
        lines = [f"{method} {self.address.prefix}{target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            lines.append("Transfer-Encoding: chunked")
        elif method in ("POST", "PUT"):
            lines.append("Content-Length: 0")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        if isinstance(body, bytes) or body is None:
            self.socket.sendall(head + (body or b""))
        else:
            self._upload(head, body)
        return self._head(method)

    def _upload(self, head: bytes, body: Iterable[bytes]) -> None:
        """Sends while reading, so that neither side can block the other for ever.

        A server that has answered and closed makes sending fail: its answer counts.
        """
        try:
            self.socket.sendall(head)
            for piece in body:
                if piece:
                    self._send_reading(b"%x\r\n" % len(piece) + piece + b"\r\n")
            self._send_reading(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.reusable = False

    def _send_reading(self, data: bytes) -> None:
        view = memoryview(data)
        poll = select.poll()
        poll.register(self.socket, select.POLLIN | select.POLLOUT)
        while view:
            events = poll.poll()[0][1]
            if events & select.POLLIN:
                self._buffer += self.socket.recv(_PIECE)
            if events & (select.POLLOUT | select.POLLERR | select.POLLHUP):
                view = view[self.socket.send(view[:_PIECE]) :]

    def _head(self, method: str) -> Response:
        while True:
            status_line = self.line()
            parts = status_line.split(None, 2)
            if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
                if not status_line:
                    raise ConnectionResetError("the engine closed the connection")
                raise ProtocolError(f"malformed HTTP response {status_line[:40]!r}")
            headers: dict[str, str] = {}
            size = 0
            while line := self.line():
                size += len(line)
                if size > _LARGEST_HEAD:
                    raise ProtocolError("the engine's answer has too many headers")
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            status = int(parts[1])
            if status >= 200 or status == 101:
                break
        if headers.get("connection", "").lower() == "close" or parts[0] == b"HTTP/1.0":
            self.reusable = False
        return Response(self, status, headers, method == "HEAD")

    def line(self) -> bytes:
        """The next line without its end; empty at the end of the stream too."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LARGEST_HEAD:
                raise ProtocolError("malformed HTTP response")
            data = self.socket.recv(_PIECE)
            if not data:
                return b""
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")

    def take(self, limit: int) -> bytes:
        """Up to `limit` bytes, from the buffer first; empty at the end of the stream."""
        if self._buffer:
            data = bytes(self._buffer[:limit])
            del self._buffer[:limit]
            return data
        return self.socket.recv(limit)

    def rest(self) -> bytes:
        """What has been received beyond the head, for whoever takes over the socket."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def release(self, response: Response) -> None:
        """The response will not be read further: a body left unread spends the socket."""
        if not response.done:
            self.reusable = False
        if not self.reusable:
            self.close()

    def close(self) -> None:
        self.reusable = False
        self.socket.close()


def connect(address: Address, timeout: float | None = None) -> socket.socket | TlsSocket:
    """A connected socket (TLS where the address asks for it); Unreachable if none."""
    try:
        if address.path:
            raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                raw.settimeout(timeout)
                raw.connect(address.path)
            except BaseException:
                raw.close()
                raise
            raw.settimeout(None)
            return raw
        raw = socket.create_connection((address.host, address.port), timeout or 30)
        raw.settimeout(None)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except PermissionError as error:
        raise Unreachable(
            address.text,
            "permission denied while trying to connect to the Docker daemon socket at "
            f"{address.text}: connect: permission denied",
        ) from error
    except OSError as error:
        raise Unreachable(address.text) from error
    if not address.tls:
        return raw
    from gantry.client.tls import wrap

    return wrap(raw, address)


def encode(value: object) -> bytes:
    """JSON as the engine takes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogateescape"
    )
