"""Attach and exec: the endpoints that take the connection over."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from gantry.api import params
from gantry.api.backend import ByteStream
from gantry.api.call import MULTIPLEXED, RAW_STREAM, Call
from gantry.api.errors import status_of
from gantry.api.pump import Framed, Unframed, pump
from gantry.api.router import Route
from gantry.http.reply import TAKEN, Reply, Sendable
from gantry.model.container import ExecCreate, Wire
from gantry.model.errors import GantryError, InvalidParameter

STDOUT: Final = 1


def hijack_head(call: Call, *, multiplexed: bool, more: bytes = b"") -> bytes:
    """101 to a client that asked for an upgrade, else 200 with everything raw after it."""
    if "Upgrade" not in call.request.headers:
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n" % (RAW_STREAM.encode(), more)
    kind = MULTIPLEXED if multiplexed and call.version >= 42 else RAW_STREAM
    return (
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: %b\r\nConnection: Upgrade\r\n"
        b"Upgrade: tcp\r\n%b\r\n" % (kind.encode(), more)
    )


async def attach(call: Call) -> Sendable:
    """POST /containers/{name}/attach.

    The attachment is registered before the head is sent, so a client that starts the
    container after it loses nothing.
    """
    try:
        attachment = await call.backends.containers.attach(
            call.name,
            stdin=call.flag("stdin"),
            stdout=call.flag("stdout"),
            stderr=call.flag("stderr"),
            logs=call.flag("logs"),
            stream=call.flag("stream"),
            detach_keys=call.text("detachKeys") or None,
        )
    except GantryError as error:  # moby has no JSON here: the connection is taken over already
        kind = MULTIPLEXED if call.version >= 42 else RAW_STREAM
        return Reply(call.app.head(status_of(error), kind), f"{error}\r\n".encode())
    try:
        tty = attachment.tty
        raw = call.hijack(hijack_head(call, multiplexed=not tty))
        stream = await attachment.stream()
        try:
            await pump(
                raw,
                stream,
                stdin=attachment.stdin,
                close_stdin=not tty and attachment.stdin_once,
            )
        finally:
            await stream.close()
    except GantryError as error:
        await raw.write(error_text(f"Error attaching: {error}\n", tty))
    finally:
        await attachment.close()
    await raw.finish()
    return TAKEN


def error_text(text: str, tty: bool) -> bytes:
    """An error on a connection that is raw already: text, in a stdout frame without terminal."""
    data = text.encode()
    return data if tty else struct.pack(">BxxxI", STDOUT, len(data)) + data


async def exec_create(call: Call) -> Sendable:
    """POST /containers/{name}/exec."""
    request = await call.read(ExecCreate)
    if not request.cmd:
        raise InvalidParameter("No exec command specified")
    if call.version < 42:
        request = replace(request, console_size=None)
    exec_id = await call.backends.execs.create(call.name, request)
    return call.json({"Id": exec_id}, 201)


class _ExecStart(Wire, frozen=True):
    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


async def exec_start(call: Call) -> Sendable:
    """POST /exec/{name}/start."""
    options = await call.read(_ExecStart)
    execs = call.backends.execs
    execs.tty(call.name)  # NotFound, Conflict while there is still a status to say it
    size: Sequence[int] | None = options.console_size
    if call.version < 42 or not options.tty:
        size = None
    if options.detach:
        await call.finish(execs.start(call.name, detach=True, tty=options.tty, console_size=size))
        return call.empty(200)
    raw = call.hijack(hijack_head(call, multiplexed=not options.tty, more=call.app.header_lines))
    given: list[ByteStream] = []

    async def begin() -> None:
        started = await execs.start(call.name, detach=False, tty=options.tty, console_size=size)
        if started is None:
            return
        if raw.lost_already:
            await started.close()  # the client left while the process started
        else:
            given.append(started)

    try:
        await call.finish(begin())
        if given:
            terminal = execs.tty(call.name)
            stdin = bool(execs.inspect(call.name).get("OpenStdin"))
            process = given[0]
            if terminal != options.tty:  # what the client can read is what it asked for here
                process = Unframed(process) if options.tty else Framed(process)
            await pump(raw, process, stdin=stdin, close_stdin=not terminal)
    except GantryError as error:
        await raw.write(error_text(f"{error}\r\n", options.tty))
    finally:
        for opened in given:
            await opened.close()
    await raw.finish()
    return TAKEN


async def exec_resize(call: Call) -> Sendable:
    """POST /exec/{name}/resize."""
    rows = params.dimension(call.query, "h", "height")
    columns = params.dimension(call.query, "w", "width")
    await call.backends.execs.resize(call.name, rows, columns)
    return call.empty(200)


async def exec_inspect(call: Call) -> Sendable:
    """GET /exec/{name}/json."""
    return call.json(call.backends.execs.inspect(call.name))


ROUTES: Final = [
    Route("POST", "/containers/{name}/attach", attach),
    Route("POST", "/containers/{name}/exec", exec_create),
    Route("POST", "/exec/{name}/start", exec_start),
    Route("POST", "/exec/{name}/resize", exec_resize),
    Route("GET", "/exec/{name}/json", exec_inspect),
]
