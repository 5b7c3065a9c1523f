"""Asking other DNS servers: what the embedded server does not know itself.

A socket a question, with a port of the kernel's choice and an identity of ours, so that
nobody can guess where an answer would be believed. Rules are moby's (libnetwork/resolver.go):
at most three servers, four seconds each; one that fails or refuses is passed over.

Each question under way is an open file. One sandbox has a share of them so small (`dns`) that
a few cannot keep all others from asking.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence

from gantry.network import dnswire
from gantry.network.resolution import EMBEDDED_DNS, Upstream

SERVERS = 3
TIMEOUT = 4.0
CONCURRENT = 16384

MakeSocket = Callable[[Upstream, socket.SocketKind], Awaitable[socket.socket]]
"""A socket in the namespace that the server is asked from, non-blocking, unconnected."""


class Forwarder:
    """Forwards queries. port: of the other servers (tests)."""

    def __init__(self, *, timeout: float = TIMEOUT, port: int = 53) -> None:
        self._timeout = timeout
        self._port = port
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._slots = asyncio.Semaphore(min(CONCURRENT, files // 2))

    async def forward(
        self, query: bytes, servers: Sequence[Upstream], make: MakeSocket, *, tcp: bool
    ) -> bytes:
        """The first usable answer; SERVFAIL when no server gives one, REFUSED when too much
        is going on."""
        if self._slots.locked():
            return dnswire.failure(query, dnswire.REFUSED)
        async with self._slots:
            for server in servers[:SERVERS]:
                if server.address == EMBEDDED_DNS:
                    continue  # ourselves
                try:
                    async with asyncio.timeout(self._timeout):
                        answer = await self._exchange(query, server, make, tcp)
                except (OSError, TimeoutError):
                    continue
                if answer[3] & 0x0F not in (dnswire.SERVFAIL, dnswire.REFUSED):
                    return answer
        return dnswire.failure(query, dnswire.SERVFAIL)

    async def _exchange(self, query: bytes, server: Upstream, make: MakeSocket, tcp: bool) -> bytes:
        loop = asyncio.get_running_loop()
        identity = secrets.token_bytes(2)
        asked = identity + query[2:]
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        with await make(server, kind) as sock:
            if tcp:
                await loop.sock_connect(sock, (server.address, self._port))
                await loop.sock_sendall(sock, len(asked).to_bytes(2, "big") + asked)
                size = int.from_bytes(await _exactly(loop, sock, 2), "big")
                answer = await _exactly(loop, sock, size)
                if not _fits(asked, answer):
                    raise OSError("not an answer to the question")
            else:
                sock.connect((server.address, self._port))
                sock.send(asked)
                while not _fits(asked, answer := await loop.sock_recv(sock, 65535)):
                    pass
        return query[:2] + answer[2:]


def _fits(asked: bytes, answer: bytes) -> bool:
    """Whether this answers that: identity, and question if there is one in it."""
    if len(answer) < 12 or answer[:2] != asked[:2] or not answer[2] & 0x80:
        return False
    if answer[4:6] == b"\0\0":
        return True
    found = dnswire.question(asked)
    if found is None:
        return True
    return answer[12 : found.end].lower() == asked[12 : found.end].lower()


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise OSError("the connection ended early")
        data += part
    return data
