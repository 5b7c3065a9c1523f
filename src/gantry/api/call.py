"""One request as the routes see it, and the ways to answer it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from gantry.api import gojson, params
from gantry.api.errors import TooLarge
from gantry.api.versions.progress import message
from gantry.http.raw import RawStream
from gantry.http.reply import ChunkedReply, Reply, Sendable
from gantry.http.request import Request
from gantry.model.errors import GantryError, InvalidParameter

if TYPE_CHECKING:
    from gantry.api.app import App
    from gantry.api.backend import Backends

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

MAX_BODY: Final = 16 * 1024 * 1024
"""Largest JSON body. Docker has no limit; nothing it knows comes near this."""

FIRST_WAIT: Final = 0.005
"""Seconds that a stream may take to fail before its head says 200."""

JSON: Final = "application/json"
TAR: Final = "application/x-tar"
RAW_STREAM: Final = "application/vnd.docker.raw-stream"
MULTIPLEXED: Final = "application/vnd.docker.multiplexed-stream"

encode: Final = msgspec.json.Encoder().encode


class Call:
    """A request: `version` is the minor API version (1.41 → 41), `name` what the path names.

    A route returns one of the answers below; errors of the taxonomy may be raised until
    the first byte of a stream.
    """

    __slots__ = ("_query", "app", "name", "query_text", "request", "rest", "version")

    def __init__(
        self, app: App, request: Request, version: int, name: str, query_text: str
    ) -> None:
        self.app = app
        self.request = request
        self.version = version
        self.name = name
        self.rest = ""
        self.query_text = query_text
        self._query: params.Query | None = None

    @property
    def backends(self) -> Backends:
        return self.app.backends

    @property
    def query(self) -> params.Query:
        """The parsed query string. InvalidParameter when it is malformed."""
        if self._query is None:
            self._query = params.parse_query(self.query_text)
        return self._query

    def text(self, name: str) -> str:
        """A query parameter, "" without one."""
        return params.text(self.query, name) if self.query_text else ""

    def flag(self, name: str, default: bool = False) -> bool:
        """A query parameter as a truth value."""
        return params.flag(self.query, name, default) if self.query_text else default

    # Input

    async def body(self) -> bytes:
        """The whole body, at most MAX_BODY bytes."""
        length = self.request.content_length
        if length is not None and length > MAX_BODY:
            raise TooLarge(f"request body too large: limit is {MAX_BODY} bytes")
        parts = []
        size = 0
        while part := await self.request.content.readany():
            size += len(part)
            if size > MAX_BODY:
                raise TooLarge(f"request body too large: limit is {MAX_BODY} bytes")
            parts.append(part)
        return b"".join(parts)

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        while part := await self.request.content.readany():
            yield part

    def check_json(self) -> None:
        """The Content-Type has to be JSON if there is a body (or even if there is none)."""
        kind = self.request.headers.get("Content-Type", "")
        if not kind and not self.may_have_body():
            return
        try:
            media = params.media_type(kind)
        except ValueError as error:
            raise InvalidParameter(f"malformed Content-Type header ({kind}): {error}") from None
        if media != JSON:
            raise InvalidParameter(f"unsupported Content-Type header ({kind}): must be '{JSON}'")

    def may_have_body(self) -> bool:
        """A body was announced: a length other than 0, or chunks."""
        headers = self.request.headers
        length = headers.get("Content-Length")
        return length != "0" if length is not None else "Transfer-Encoding" in headers

    async def document(self) -> gojson.Value:
        """The body as parsed JSON, None without one (that is no error)."""
        self.check_json()
        if not self.may_have_body():
            return None
        return gojson.parse(await self.body())

    async def read(self, kind: type[S]) -> S:
        """The body as a Struct; its defaults without a body."""
        return gojson.convert(await self.document(), kind)

    # Answers

    def json(self, value: object, status: int = 200) -> Reply:
        """A value as JSON, with the newline that Go's encoder ends with."""
        return Reply(self.app.head(status), encode(value) + b"\n")

    def encoded(self, body: bytes, status: int = 200) -> Reply:
        """JSON that is bytes already."""
        return Reply(self.app.head(status), body)

    def empty(self, status: int = 204) -> Reply:
        """No content; statuses that have a body get an empty one."""
        return Reply(self.app.head(status, ""), None if status in (204, 304) else b"")

    def rows(self, rows: list[bytes] | tuple[bytes, ...]) -> Reply:
        """Encoded objects as a JSON array."""
        return Reply(self.app.head(200), b"[%b]\n" % b",".join(rows))

    def start_stream(self, content_type: str = JSON, extra: bytes = b"") -> ChunkedReply:
        """Send the head of an endless answer at once."""
        self.endless()
        reply = ChunkedReply(self.app.head(200, content_type), extra)
        reply.start(self.request)
        return reply

    async def send(
        self,
        source: AsyncIterator[bytes],
        content_type: str,
        *,
        extra: bytes = b"",
        eager: bool = False,
    ) -> Sendable:
        """Bytes as they come. An error before the first is an error answer.

        eager: the head goes out even though nothing has come yet (`logs --follow` of a
        silent container), after a moment in which errors may still show.
        """
        async with aclosing(closing(source)) as items:
            # Owned by this call: awaited or cancelled below, on every way out.
            first = asyncio.get_running_loop().create_task(_next(items))
            try:
                if eager:
                    await asyncio.wait([first], timeout=FIRST_WAIT)
                    if first.done():
                        first.result()
                else:
                    await asyncio.wait([first])
                    first.result()
                reply = self.start_stream(content_type, extra)
                item = await first
            except BaseException:
                first.cancel()
                await asyncio.wait([first])
                raise
            try:
                while item is not None:
                    await reply.write(item)
                    item = await _next(items)
            except Exception as error:
                if not isinstance(error, ConnectionError):
                    self.app.unexpected(self.request, error)
                # No end of the chunks: the client sees that the answer is not whole.
                raise ConnectionResetError(str(error))
        return reply

    async def progress(self, source: AsyncIterator[Any], *, begun: bool = False) -> Sendable:
        """Messages of a long action as JSON lines; an error after the first is one of them.

        begun: also one before the first.
        """

        async def lines() -> AsyncIterator[bytes]:
            nonlocal begun
            try:
                async with aclosing(closing(source)) as items:
                    async for item in items:
                        begun = True
                        yield encode(message(item, self.version)) + b"\r\n"
            except GantryError as error:
                if not begun:
                    raise
                yield error_line(str(error))
            except Exception as error:
                if not begun:
                    raise
                self.app.unexpected(self.request, error)
                yield error_line(str(error))

        return await self.send(lines(), JSON)

    def hijack(self, head: bytes) -> RawStream:
        """Take the connection over and send `head`."""
        self.endless()
        raw = self.request.connection.hijack()
        self.request.connection.write(head)
        return raw

    def endless(self) -> None:
        """This answer ends with its client or with the engine: a shutdown does not wait."""
        self.request.connection.endless = True

    async def finish(self, action: Coroutine[object, object, T]) -> T:
        """Do all of an action even when the client goes away in the middle of it."""
        return await self.app.finish(action)


def error_line(message: str) -> bytes:
    """An error inside a stream that has begun (jsonmessage)."""
    return encode({"errorDetail": {"message": message}, "error": message}) + b"\r\n"


async def closing(source: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """A generator over any iterator, that closes it in the end."""
    try:
        async for item in source:
            yield item
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


async def _next(source: AsyncIterator[T]) -> T | None:
    return await anext(source, None)
