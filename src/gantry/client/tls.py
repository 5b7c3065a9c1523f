"""TLS with half close, which ssl.SSLSocket does not have: its shutdown ends both ways.

The TLS state machine runs over memory (ssl.MemoryBIO), so nothing but this code touches
the socket: "no more input" is a close_notify, and reading goes on (RFC 8446, 6.1).
"""

from __future__ import annotations

import socket
import ssl

from gantry.client.address import Address
from gantry.model.errors import GantryError

_PIECE = 65536


def wrap(raw: socket.socket, address: Address) -> TlsSocket:
    """Shakes hands. GantryError, one line, when the peers do not agree; `raw` is closed then."""
    tls = address.tls
    assert tls is not None
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.certificate and tls.key:
            context.load_cert_chain(tls.certificate, tls.key)
        return TlsSocket(raw, context, address.host)
    except (OSError, ValueError) as error:
        raw.close()
        raise GantryError(f"error during connect: TLS: {error}") from error


class TlsSocket:
    """What `Connection` uses of a socket, over TLS."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._raw = raw
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._held = bytearray()
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                if not self._feed():
                    raise ConnectionResetError("the engine closed the connection") from None
        self._flush()

    def fileno(self) -> int:
        return self._raw.fileno()

    def pending(self) -> int:
        """Bytes that `recv` gives at once, though poll says nothing."""
        if not self._held:
            self._decrypt()
        return len(self._held)

    def recv(self, limit: int) -> bytes:
        """Up to `limit` bytes; empty when the peer has said that no more comes."""
        while not self.pending():
            if not self._feed():
                return b""
        data = bytes(self._held[:limit])
        del self._held[:limit]
        return data

    def send(self, data: bytes | memoryview) -> int:
        """All of it: the count is what socket.send would give."""
        count = self._tls.write(data)
        self._flush()
        return count

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def shutdown(self, how: int) -> None:
        """Says that no more comes from here. How: SHUT_WR, the only half there is."""
        assert how == socket.SHUT_WR
        # What has come is taken out first: after the close_notify OpenSSL wants to see the
        # peer's, and takes data in its place for an error. With nothing in, it just asks.
        self._decrypt()
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        self._flush()

    def close(self) -> None:
        self._raw.close()

    def _decrypt(self) -> None:
        while True:
            try:
                data = self._tls.read(_PIECE)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                return
            except ssl.SSLError as error:
                raise ConnectionResetError(f"TLS: {error.reason or error}") from error
            if not data:
                return
            self._held += data

    def _feed(self) -> bool:
        data = self._raw.recv(_PIECE)
        if data:
            self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._raw.sendall(data)
