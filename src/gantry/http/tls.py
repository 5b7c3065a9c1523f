"""TLS with half-close, which asyncio's own does not have: there the client's close_notify
ends the connection, and the output of `docker run -i` over TLS would be lost with it.

The TLS state machine runs over memory (ssl.MemoryBIO) between the TCP transport and the
HTTP connection: "no more input" is a close_notify, and the other direction goes on
(RFC 8446, 6.1).

    TCP transport ◀──▶ TlsProtocol ──plain bytes──▶ Connection
                            ▲───────TlsTransport────────┘
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

_log = logging.getLogger(__name__)

PIECE: Final = 256 * 1024
HANDSHAKE: Final = 60.0
"""Seconds that a client may take to shake hands."""

NOT_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
)
"""What Go's server says, and clients show."""


class TlsTransport(asyncio.Transport):
    """The connection's view: plain bytes in, `write_eof` allowed."""

    def __init__(self, raw: asyncio.Transport, protocol: TlsProtocol, tls: ssl.SSLObject) -> None:
        super().__init__()
        self._raw = raw
        self._protocol = protocol
        self._tls = tls
        self._ended = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "sslcontext":
                return self._tls.context
            case "ssl_object":
                return self._tls
            case "peercert":
                return self._tls.getpeercert()
        return self._raw.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ended or not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            _log.debug("TLS write: %s", error)
            self.abort()
            return
        self._protocol.flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say that no more comes from here."""
        if self._ended:
            return
        self._ended = True
        # What has come is taken out first: after its own close_notify OpenSSL wants to see
        # the peer's, and takes data in its place for an error. With nothing in, it just asks.
        self._protocol.decrypt()
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        self._protocol.flush()

    def close(self) -> None:
        if not self._raw.is_closing():
            self.write_eof()
            self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        self._protocol.paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._protocol.paused = False
        self._raw.resume_reading()
        self._protocol.again()

    def is_reading(self) -> bool:
        return not self._protocol.paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()


class TlsProtocol(asyncio.Protocol):
    """One TCP connection: shakes hands, then stands between it and a protocol of `factory`."""

    def __init__(self, context: ssl.SSLContext, factory: Callable[[], asyncio.Protocol]) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._factory = factory
        self._raw: asyncio.Transport | None = None
        self._inner: asyncio.Protocol | None = None
        self._transport: TlsTransport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._input_ended = False
        self.paused = False

    # TCP

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw = cast(asyncio.Transport, transport)  # uvloop's do not derive from asyncio's
        self._raw = raw
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE, raw.abort)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if self._inner is None and not self._shake_hands():
            return
        self.decrypt()

    def eof_received(self) -> bool:
        """TCP's end. Behind a close_notify it says nothing new; without one it is the end."""
        return self._input_ended

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    # TLS

    def _shake_hands(self) -> bool:
        assert self._raw is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            return False
        except ssl.SSLError as error:
            _log.info("TLS handshake error: %s", error.reason or error)
            if error.reason == "HTTP_REQUEST":
                self._raw.write(NOT_TLS)
            else:
                self.flush()  # the alert
            self._raw.close()
            return False
        self.flush()
        if self._deadline is not None:
            self._deadline.cancel()
        self._inner = self._factory()
        self._transport = TlsTransport(self._raw, self, self._tls)
        self._inner.connection_made(self._transport)
        return True

    def decrypt(self) -> None:
        """Pass on what has come, as long as it is wanted."""
        inner, raw = self._inner, self._raw
        if inner is None or raw is None:
            return
        while not self.paused and not self._input_ended and not raw.is_closing():
            try:
                data = self._tls.read(PIECE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                _log.debug("TLS read: %s", error)
                raw.abort()
                return
            if data:
                inner.data_received(data)
            else:
                self._input_ended = True
                if not inner.eof_received() and self._transport is not None:
                    self._transport.close()
        self.flush()

    def again(self) -> None:
        """Reading is wanted again: not at once, the caller may be in `data_received`."""
        asyncio.get_running_loop().call_soon(self.decrypt)

    def flush(self) -> None:
        """Send what OpenSSL wants to send."""
        data = self._outgoing.read()
        if data and self._raw is not None:
            self._raw.write(data)
