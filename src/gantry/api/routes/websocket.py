"""Attach by websocket: GET /containers/{name}/attach/ws."""

from __future__ import annotations

from typing import Final

from gantry.api.backend import ByteStream
from gantry.api.call import Call
from gantry.api.pump import pump
from gantry.api.router import Route
from gantry.http import websocket
from gantry.http.reply import TAKEN, Sendable
from gantry.model.errors import GantryError, NotFound

HEADER: Final = 8


class Demultiplexer:
    """Takes the frame headers out of a process's output: a websocket has one stream only."""

    def __init__(self) -> None:
        self._left = 0
        self._partial = b""

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`, which may begin and end anywhere in a frame."""
        out = bytearray()
        data = self._partial + data
        self._partial = b""
        at = 0
        while at < len(data):
            if not self._left:
                if len(data) - at < HEADER:
                    self._partial = data[at:]
                    break
                self._left = int.from_bytes(data[at + 4 : at + HEADER], "big")
                at += HEADER
                continue
            part = data[at : at + self._left]
            out += part
            at += len(part)
            self._left -= len(part)
        return bytes(out)


class _Client:
    """The pump's client: of a process's frames it gets the content."""

    def __init__(self, socket: websocket.Socket, *, raw: bool) -> None:
        self._socket = socket
        self._frames = None if raw else Demultiplexer()

    async def read(self) -> bytes:
        return await self._socket.read()

    async def write(self, data: bytes) -> None:
        await self._socket.write(data if self._frames is None else self._frames.feed(data))


async def attach(call: Call) -> Sendable:
    """GET /containers/{name}/attach/ws. All three streams up to 1.41."""
    if call.rest != "ws":
        raise NotFound("page not found")
    call.backends.containers.tty(call.name)  # NotFound
    head = websocket.accept(call.request.headers)
    every = call.version < 42
    attachment = await call.backends.containers.attach(
        call.name,
        stdin=every or call.flag("stdin"),
        stdout=every or call.flag("stdout"),
        stderr=every or call.flag("stderr"),
        logs=call.flag("logs"),
        stream=call.flag("stream"),
        detach_keys=call.text("detachKeys") or None,
    )
    try:
        raw = call.hijack(head)
        socket = websocket.Socket(raw, text=call.version < 28)  # text frames up to 1.27
        try:
            stream: ByteStream = await attachment.stream()
            try:
                await pump(
                    _Client(socket, raw=attachment.tty),
                    stream,
                    stdin=True,
                    close_stdin=not attachment.tty and attachment.stdin_once,
                )
            finally:
                await stream.close()
        except GantryError as error:
            await socket.write(f"Error attaching: {error}\n".encode())
        await socket.close()
    finally:
        await attachment.close()
    await raw.finish()
    return TAKEN


ROUTES: Final = [Route("GET", "/containers/{name}/attach/{rest}", attach)]
