"""What sends a container's log elsewhere: the Protocol, who the container is, connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from gantry.logs.follow import Message
from gantry.model.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Source:
    """The container as log servers know it. attributes: by `labels`, `env` and their regexes.

    created: RFC 3339. tag: the template's outcome.
    """

    container_id: str
    name: str
    image_id: str
    image: str
    command: str
    created: str
    tag: str
    host: str
    pid: int
    attributes: Mapping[str, str] = field(default_factory=dict)


class Sender(Protocol):
    """A driver. `send` raises OSError when the server can't be had: it is called again with
    the same messages, after a pause."""

    async def send(self, messages: Sequence[Message]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Address:
    """kind: udp, tcp, tcp+tls, unix or unixgram."""

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""

    @staticmethod
    def parse(text: str, port: int, kinds: Sequence[str]) -> Address:
        """InvalidParameter for what is no address of one of `kinds`."""
        if "://" not in text:
            text = f"tcp://{text}"
        parts = urlsplit(text)
        if parts.scheme not in kinds:
            raise InvalidParameter(f"unsupported scheme: '{parts.scheme}'")
        if parts.scheme in ("unix", "unixgram"):
            return Address(parts.scheme, path=parts.path)
        try:
            number = parts.port
        except ValueError as error:
            raise InvalidParameter(f"invalid address {text}: {error}") from None
        return Address(parts.scheme, parts.hostname or "localhost", number or port)


class Connection:
    """A connection that is made when it is needed, and again when it broke."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._tls = tls
        self._socket: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.reader: asyncio.StreamReader | None = None

    async def write(self, data: bytes) -> None:
        """A datagram, or the next bytes of the stream. OSError."""
        address = self._address
        try:
            if address.kind in ("udp", "unixgram"):
                await self._datagram(data)
                return
            if self._writer is None or self._ended():
                self.close()
                async with asyncio.timeout(10):
                    if address.kind == "unix":
                        made = await asyncio.open_unix_connection(address.path)
                    else:
                        made = await asyncio.open_connection(
                            address.host, address.port, ssl=self._tls
                        )
                self.reader, self._writer = made
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, TimeoutError):
            self.close()
            raise

    def _ended(self) -> bool:
        return self.reader is not None and self.reader.at_eof()

    async def _datagram(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        address = self._address
        if self._socket is None:
            if address.kind == "unixgram":
                family, target = socket.AF_UNIX, address.path
                made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                made.connect(target)
            else:
                found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
                made = socket.socket(found[0][0], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                made.connect(found[0][4])
            self._socket = made
        try:
            await loop.sock_sendall(self._socket, data)
        except ConnectionRefusedError:
            if address.kind != "udp":  # an ICMP answer to an earlier datagram: as if it were lost
                raise

    def close(self) -> None:
        """Let go. Idempotent."""
        if self._writer is not None:
            self._writer.close()
            self._writer = self.reader = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
