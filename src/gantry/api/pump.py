"""The pump between a hijacked connection and a process's streams.

    client ──input──▶ stdin           ends: half-close, detach keys (the stream sees them)
    client ◀───────── stdout, stderr  ends: the process's output ended

It ends when output ends, and, as in moby's `CopyStreams`, also when the client ends its
input to a process whose stdin is not to be closed by that (a terminal, or a container
without StdinOnce): that is a way to detach.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from gantry.api.backend import ByteStream


class Duplex(Protocol):
    """The client's side: a hijacked connection or a websocket."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...


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
