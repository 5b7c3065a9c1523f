"""An engine, as its clients see it: requests, streams and hijacked connections.

Synchronous, one thread, standard library only. The API version is negotiated at the
first call (HEAD /_ping) unless it was given.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote

from gantry import __version__
from gantry.client.address import Address
from gantry.client.connection import Connection, Response, encode
from gantry.client.errors import ApiError, ProtocolError, StreamError, Unreachable
from gantry.client.messages import Json, messages

NEWEST_VERSION = "1.55"
OLDEST_VERSION = "1.24"

Query = Mapping[str, object]
"""Query values: bools become 1 or are left out, lists repeat the key, dicts become JSON."""


class Hijacked:
    """A connection that has become a raw duplex stream (attach, exec).

    `multiplexed` tells whether what comes is framed (see `gantry.client.frames`).
    Works with select: `fileno()`, and `read_now` for bytes that came with the head.
    """

    def __init__(self, connection: Connection, content_type: str) -> None:
        self._connection = connection
        self._early = connection.rest()
        self.socket = connection.socket
        self.content_type = content_type

    @property
    def multiplexed(self) -> bool:
        return self.content_type == "application/vnd.docker.multiplexed-stream"

    def fileno(self) -> int:
        return self.socket.fileno()

    def pending(self) -> bool:
        """Bytes are here that select on the socket would not report."""
        tls_pending = getattr(self.socket, "pending", None)
        return bool(self._early or (tls_pending is not None and tls_pending()))

    def recv(self, limit: int = 65536) -> bytes:
        """The next bytes; empty when the engine has closed its side."""
        if self._early:
            data, self._early = self._early, b""
            return data
        try:
            return self.socket.recv(limit)
        except ConnectionResetError:
            return b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close_write(self) -> None:
        """End of input: the engine still sends. Nothing to do when it is gone already."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._connection.close()


class Engine:
    """The Engine API at one address.

    Every method raises Unreachable when nobody answers, ApiError for an error status
    and ProtocolError for a broken answer.
    """

    def __init__(
        self,
        address: Address,
        *,
        api_version: str = "",
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.address = address
        self._version = api_version.removeprefix("v")
        self._timeout = timeout
        self._idle: Connection | None = None
        self.ping_headers: Mapping[str, str] = {}
        self._headers = {
            "Host": address.http_host,
            "User-Agent": f"gantry/{__version__} (linux)",
            **(headers or {}),
        }

    # -- the conversation ----------------------------------------------------------

    @property
    def version(self) -> str:
        """The API version both sides speak; asks the engine the first time."""
        if not self._version:
            self.ping()
            self._version = negotiate(self.ping_headers.get("api-version", ""))
        return self._version

    def ping(self) -> Mapping[str, str]:
        """The headers of HEAD /_ping: api-version, ostype, builder-version, swarm."""
        with self._send("HEAD", "/_ping", {}, None) as response:
            self.ping_headers = response.headers
        return self.ping_headers

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """An answer below 400, body unread: the caller closes it."""
        target = f"/v{self.version}{path}{encode_query(query or {})}"
        response = self._send(method, target, headers or {}, body)
        if response.status >= 400:
            raise self._error(response)
        return response

    def get(self, path: str, query: Query | None = None) -> Any:
        """Decoded JSON of any shape, as the API describes it for this path."""
        return self._json("GET", path, query)

    def post(
        self,
        path: str,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Sends `body` as JSON; decoded answer, None where there is none."""
        return self._json("POST", path, query, body, headers)

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self._json("DELETE", path, query)

    def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Json]:
        """JSON messages as they come. An `errorDetail` in one is raised as StreamError."""
        with self.request(method, path, query, body=body, headers=headers) as response:
            for message in messages(response):
                if "errorDetail" in message or (message.get("error") and "status" not in message):
                    detail = message.get("errorDetail") or {}
                    text = detail.get("message") or message.get("error") or "unknown error"
                    raise StreamError(str(text), int(detail.get("code") or 0))
                yield message

    def hijack(self, path: str, query: Query | None = None, body: object = None) -> Hijacked:
        """POSTs and takes the connection over (Upgrade: tcp)."""
        target = f"/v{self.version}{path}{encode_query(query or {})}"
        headers = {**self._headers, "Connection": "Upgrade", "Upgrade": "tcp"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = encode(body)
        connection = self._connect()
        try:
            response = connection.request("POST", target, headers, data)
        except (OSError, ProtocolError) as error:
            connection.close()
            raise self._broken(error) from error
        if response.status >= 400:
            raise self._error(response)
        return Hijacked(connection, response.content_type)

    def background(self, method: str, path: str, query: Query | None = None) -> Response:
        """A request of its own connection, whose answer comes late: the wait of a container.

        Returns when the head has come; the body is still to be read.
        """
        target = f"/v{self.version}{path}{encode_query(query or {})}"
        connection = self._connect()
        connection.reusable = False
        try:
            response = connection.request(method, target, self._headers)
        except (OSError, ProtocolError) as error:
            connection.close()
            raise self._broken(error) from error
        if response.status >= 400:
            raise self._error(response)
        return response

    def close(self) -> None:
        if self._idle:
            self._idle.close()
            self._idle = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------

    def _json(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        data = None
        extra = dict(headers or {})
        if body is not None:
            extra["Content-Type"] = "application/json"
            data = encode(body)
        with self.request(method, path, query, body=data, headers=extra) as response:
            raw = response.read()
        if not raw.strip():
            return None
        try:
            return json.loads(raw)
        except ValueError as error:
            raise ProtocolError(f"invalid JSON in the engine's answer: {raw[:80]!r}") from error

    def _send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
    ) -> Response:
        """Over the idle connection if there is one; once more if that was closed meanwhile."""
        all_headers = {**self._headers, **headers}
        idle = self._idle
        if idle and idle.reusable and (body is None or isinstance(body, bytes)):
            try:
                return idle.request(method, target, all_headers, body)
            except (OSError, ProtocolError):
                idle.close()
        connection = self._connect()
        try:
            response = connection.request(method, target, all_headers, body)
        except (OSError, ProtocolError) as error:
            connection.close()
            raise self._broken(error) from error
        self._idle = connection
        return response

    def _connect(self) -> Connection:
        return Connection(self.address, self._timeout)

    def _broken(self, error: Exception) -> Exception:
        if isinstance(error, ProtocolError):
            return error
        return Unreachable(
            self.address.text, f"error during connect: {self.address.text}: {error or 'EOF'}"
        )

    @staticmethod
    def _error(response: Response) -> ApiError:
        with response:
            raw = response.read()
        try:
            decoded = json.loads(raw)
            message = str(decoded["message"])
        except (ValueError, KeyError, TypeError):
            message = raw.decode("utf-8", "replace").strip()
        return ApiError(response.status, message or f"request returned {response.status}")


def negotiate(server: str) -> str:
    """The newest version both know: the engine's, or ours where it is newer.

    An engine that says nothing is older than negotiation itself: 1.24.
    """
    if not server:
        return OLDEST_VERSION
    return min(server, NEWEST_VERSION, key=version_key)


def version_key(text: str) -> tuple[int, ...]:
    """Orders API versions: 1.9 before 1.10."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def encode_query(query: Query) -> str:
    """`?a=b`, or nothing. None, False and empty text are left out, as Docker's client does."""
    parts: list[str] = []
    for key, value in query.items():
        if value is None or value is False or value == "":
            continue
        if value is True:
            parts.append(f"{key}=1")
        elif isinstance(value, list | tuple):
            parts += [f"{key}={quote(str(item), safe='')}" for item in value]
        elif isinstance(value, dict):
            text = json.dumps(value, separators=(",", ":"))
            parts.append(f"{key}={quote(text, safe='')}")
        else:
            parts.append(f"{key}={quote(str(value), safe='')}")
    return "?" + "&".join(parts) if parts else ""


def segment(text: str) -> str:
    """A name or id as a part of a path; image names keep their slashes."""
    return quote(text.lstrip("/"), safe="/:@._-")
