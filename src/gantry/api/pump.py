"""The pump between a hijacked connection and a process's streams.

    client ──input──▶ stdin           ends: half-close, detach keys (the stream sees them)
    client ◀───────── stdout, stderr  ends: the process's output ended

It ends when output ends, and, as in moby's `CopyStreams`, also when the client ends its
input to a process whose stdin is not to be closed by that (a terminal, or a container
without StdinOnce): that is a way to detach.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import Protocol

from gantry.api.backend import ByteStream


class Duplex(Protocol):
    """The client's side: a hijacked connection or a websocket."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...


class _Adapter:
    """A process's stream whose output looks different."""

    def __init__(self, inner: ByteStream) -> None:
        self._inner = inner

    @property
    def detached(self) -> bool:
        return bool(getattr(self._inner, "detached", False))

    async def read(self) -> bytes:
        return await self._inner.read()

    async def write(self, data: bytes) -> None:
        await self._inner.write(data)

    async def close_stdin(self) -> None:
        await self._inner.close_stdin()

    async def close(self) -> None:
        await self._inner.close()


class Framed(_Adapter):
    """A terminal's output in stdout frames, for who asked for an exec's without Tty."""

    async def read(self) -> bytes:
        data = await self._inner.read()
        return struct.pack(">BxxxI", 1, len(data)) + data if data else b""


class Unframed(_Adapter):
    """Frames' content only, for who asked for an exec's output as a terminal's."""

    def __init__(self, inner: ByteStream) -> None:
        super().__init__(inner)
        self._held = b""
        self._left = 0

    async def read(self) -> bytes:
        while data := await self._inner.read():
            found = self._content(self._held + data)
            if found:
                return found
        return b""

    def _content(self, data: bytes) -> bytes:
        found, at = [], 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                found.append(piece)
                at += len(piece)
                self._left -= len(piece)
            elif len(data) - at < 8:
                break
            else:
                self._left = int.from_bytes(data[at + 4 : at + 8], "big")
                at += 8
        self._held = data[at:]
        return b"".join(found)


async def pump(client: Duplex, process: ByteStream, *, stdin: bool, close_stdin: bool) -> None:
    """Run until one side ends it. The caller closes both sides."""

    async def output() -> None:
        while data := await process.read():
            await client.write(data)

    async def feed() -> None:
        while data := await client.read():
            try:
                await process.write(data)
            except (BrokenPipeError, ConnectionResetError):
                return  # the process reads no more; its output may go on
            if getattr(process, "detached", False):
                outward.cancel()
                return
        if not close_stdin:
            outward.cancel()
            return
        with suppress(BrokenPipeError, ConnectionResetError):
            await process.close_stdin()

    async with asyncio.TaskGroup() as group:
        outward = group.create_task(output())
        inward = group.create_task(feed()) if stdin else None
        await asyncio.wait([outward])
        if inward is not None:
            inward.cancel()
