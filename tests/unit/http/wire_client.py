"""A raw asyncio HTTP client for the unit tests: what is sent and what comes are bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from gantry.http.listeners import Listeners, serve
from gantry.http.server import Handler

LIMIT = 10.0
"""Seconds after which a test that hangs has failed."""


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine on uvloop, as the engine runs."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT):
            await main()

    uvloop.run(limited())


class Answer:
    """A whole answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def message(self) -> str:
        text = self.json()["message"]
        assert isinstance(text, str)
        return text


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def half_close(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def head(self) -> tuple[int, dict[str, str]]:
        """A status line and headers."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert lines[0].startswith("HTTP/1."), lines[0]
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def chunk(self) -> bytes:
        """One chunk, empty at the end."""
        size = int(await self.reader.readline(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self, method: str = "GET") -> Answer:
        """A whole answer."""
        status, headers = await self.head()
        body = b""
        if method == "HEAD" or status in (204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while part := await self.chunk():
                body += part
            return Answer(status, headers, body)
        else:
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body)

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | object | None = None,
        headers: str = "",
    ) -> Answer:
        """A request with a JSON body (anything but bytes is encoded) and its answer."""
        self.send(encoded(method, target, body, headers))
        return await self.answer(method)


def encoded(
    method: str, target: str, body: bytes | object | None = None, headers: str = ""
) -> bytes:
    """The bytes of a request."""
    lines = f"{method} {target} HTTP/1.1\r\nHost: docker\r\n{headers}"
    if body is None:
        return lines.encode() + b"\r\n"
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    if "Content-Type" not in headers:
        lines += "Content-Type: application/json\r\n"
    return f"{lines}Content-Length: {len(data)}\r\n\r\n".encode() + data


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    """A connection that is closed in the end."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def serving(handler: Handler, folder: Path) -> AsyncIterator[tuple[Path, Listeners]]:
    """A server of `handler` on a socket in `folder`."""
    path = folder / "s.sock"
    listeners = await serve(handler, [f"unix://{path}"], group="")
    try:
        yield path, listeners
    finally:
        await listeners.aclose(grace=1)


async def gone(path: Path) -> bool:
    """Whether nobody listens there."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) != 0
