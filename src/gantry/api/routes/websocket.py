"""Attach by websocket: GET /containers/{name}/attach/ws."""

from __future__ import annotations

from typing import Final

from aiohttp import WSMsgType, web

from gantry.api.backend import ByteStream
from gantry.api.call import Call
from gantry.api.pump import pump
from gantry.api.router import Route
from gantry.http.reply import Sendable
from gantry.model.errors import InvalidParameter, NotFound

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


class _Socket:
    """A websocket as the pump's client; text frames up to 1.27."""

    def __init__(self, socket: web.WebSocketResponse, *, text: bool, raw: bool) -> None:
        self._socket = socket
        self._text = text
        self._frames = None if raw else Demultiplexer()

    async def read(self) -> bytes:
        while True:
            message = await self._socket.receive()
            match message.type:
                case WSMsgType.TEXT:
                    data = message.data.encode()
                case WSMsgType.BINARY:
                    data = message.data
                case _:
                    return b""
            if data:
                return bytes(data)

    async def write(self, data: bytes) -> None:
        if self._frames is not None:
            data = self._frames.feed(data)
        if not data:
            return
        if self._text:
            await self._socket.send_str(data.decode("utf-8", "replace"))
        else:
            await self._socket.send_bytes(data)


async def attach(call: Call) -> Sendable:
    """GET /containers/{name}/attach/ws. All three streams up to 1.41."""
    if call.rest != "ws":
        raise NotFound("page not found")
    call.backends.containers.tty(call.name)  # NotFound
    if call.request.headers.get("Upgrade", "").lower() != "websocket":
        raise InvalidParameter("not a websocket handshake")
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
        response = web.WebSocketResponse()
        try:
            await response.prepare(call.request)
        except web.HTTPException as error:
            raise InvalidParameter(f"not a websocket handshake: {error.text}") from None
        call.endless()
        client = _Socket(response, text=call.version < 28, raw=attachment.tty)
        stream: ByteStream = await attachment.stream()
        try:
            await pump(
                client,
                stream,
                stdin=True,
                close_stdin=not attachment.tty and attachment.stdin_once,
            )
        finally:
            await stream.close()
        await response.close()
    finally:
        await attachment.close()
    return response


ROUTES: Final = [Route("GET", "/containers/{name}/attach/{rest}", attach)]
