"""The head of a request, parsed by llhttp (Node's parser, through httptools) in strict mode.

llhttp sees whole heads only, and nothing behind them. So what follows a request is never
parsed before the request is answered: it may be input of a hijacked connection.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gantry.http.body import Chunked, Framing, Sized
from gantry.http.request import Headers

MAX_HEAD: Final = 512 * 1024
"""Bytes of request line and headers together (names of many images, long filters,
identity tokens)."""

MAX_HEADERS: Final = 256

_END: Final = re.compile(rb"\n\r?\n")
"""Where a head ends, or where one that llhttp will refuse must be judged."""


class Refused(Exception):
    """Not a request that we answer."""

    def __init__(self, status: HTTPStatus, text: str = "") -> None:
        super().__init__(f"{status.value} {status.phrase}" + (f": {text}" if text else ""))
        self.status = status


class Head:
    """A parsed head. target: as sent. version: (1, 0) or (1, 1)."""

    __slots__ = (
        "_parser",
        "complete",
        "count",
        "headers",
        "keep_alive",
        "method",
        "target",
        "version",
    )

    def __init__(self, data: bytes) -> None:
        """Parse the bytes of one whole head. Refused."""
        self.headers = Headers()
        self.count = 0
        self.complete = False
        self.keep_alive = False
        self.method = ""
        self.target = ""
        self.version = (1, 1)
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        try:
            # In two pieces: it must see the end exactly where we do, or one of us is wrong.
            _feed(self._parser, data[:-1])
            if self.complete:
                raise Refused(HTTPStatus.BAD_REQUEST, "malformed request")
            _feed(self._parser, data[-1:])
        except HttpParserError as error:
            if isinstance(error.__context__, Refused):
                raise error.__context__
            raise Refused(HTTPStatus.BAD_REQUEST, str(error))
        finally:
            self._parser = None  # it refers to us
        if not self.complete:
            raise Refused(HTTPStatus.BAD_REQUEST, "malformed request")

    # llhttp's callbacks

    def on_url(self, url: bytes) -> None:
        self.target += url.decode("ascii")  # llhttp lets nothing else through

    def on_header(self, name: bytes, value: bytes) -> None:
        self.count += 1
        if self.count > MAX_HEADERS:
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if name.lower() == b"host" and "Host" in self.headers:
            raise Refused(HTTPStatus.BAD_REQUEST, "too many Host headers")  # RFC 9112, 3.2
        self.headers.add(name.decode("ascii"), value.strip(b" \t").decode("utf-8", "replace"))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self.complete = True
        self.method = self._parser.get_method().decode("ascii")
        match self._parser.get_http_version():
            case "1.1":
                self.version = (1, 1)
            case "1.0":
                self.version = (1, 0)
            case _:
                raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        self.keep_alive = self._parser.should_keep_alive()

    # The body

    def framing(self) -> Framing:
        """How the body ends. Refused where two readers could find two ends."""
        coding = self.headers.get("Transfer-Encoding")
        length = self.headers.get("Content-Length")
        if coding is not None:
            if length is not None or self.version < (1, 1):
                raise Refused(HTTPStatus.BAD_REQUEST, "ambiguous length of the body")
            if coding.lower() != "chunked":
                raise Refused(HTTPStatus.NOT_IMPLEMENTED, "unsupported transfer encoding")
            return Chunked()
        if length is None:
            return Sized(0)
        if not (length.isascii() and length.isdigit()):
            raise Refused(HTTPStatus.BAD_REQUEST, "malformed Content-Length")
        return Sized(int(length))

    def expects(self) -> bool:
        """The client waits for `100 Continue`."""
        return self.version >= (1, 1) and self.headers.get("Expect", "").lower() == "100-continue"


def _feed(parser: HttpRequestParser, data: bytes) -> None:
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        pass  # it asks for another protocol: that is the handler's matter


class HeadReader:
    """Collects the bytes of a head."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def begun(self) -> bool:
        """A part of a head is here."""
        return bool(self._held)

    def feed(self, data: bytes) -> tuple[Head, bytes] | None:
        """A head and what is behind it, None while it is not whole. Refused."""
        held = self._held
        if not held:
            data = data.lstrip(b"\r\n")  # RFC 9112, 2.2: empty lines before a request
            if not data:
                return None
            if not 0x41 <= data[0] <= 0x5A:
                # No method begins so: TLS for example, which need never have an end of line.
                raise Refused(HTTPStatus.BAD_REQUEST, "malformed request")
            found = _END.search(data)
        else:
            seen = max(0, len(held) - 2)
            held += data
            found = _END.search(held, seen)
        if found is None:
            if not held:
                held += data
            if len(held) > MAX_HEAD:
                raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return None
        end = found.end()
        if end > MAX_HEAD:
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if held:
            data = bytes(held)
            held.clear()
        return Head(data[:end]), data[end:]
