"""TLS: requests, half-close both ways, clients that do not speak it or are not known."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.http.wire_client import run

from gantry.http.listeners import serve
from gantry.http.reply import TAKEN, Head, Reply, Sendable
from gantry.http.request import Request

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

HEAD = Head(200, "OK", ())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=t"
    more = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *words.split(), *more], cwd=folder, capture_output=True, check=True)
    return folder


async def handler(request: Request) -> Sendable:
    """/attach hijacks and echoes, /big is large, all else is its path."""
    if request.raw_path == "/big":
        return Reply(HEAD, b"z" * 3_000_000)
    if not request.raw_path.endswith("/attach"):
        return Reply(HEAD, request.raw_path.encode())
    raw = request.connection.hijack()
    await raw.write(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
    size = 0
    while data := await raw.read():
        size += len(data)
    await raw.write(b"%d bytes" % size)
    await raw.finish()
    return TAKEN


@asynccontextmanager
async def serving(folder: Path, *, verify: bool = False) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    if verify:
        context.load_verify_locations(folder / "cert.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    listeners = await serve(handler, ["tcp://127.0.0.1:0"], tls=context)
    try:
        yield int(listeners.addresses[0].rpartition(":")[2])
    finally:
        await listeners.aclose(grace=1)


class Tls:
    """A blocking TLS client that can half-close."""

    def __init__(self, port: int, folder: Path) -> None:
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.retry(self.tls.do_handshake)

    def retry(self, action: object) -> bytes:
        while True:
            try:
                found = action()  # type: ignore[operator]  # a bound method of SSLObject
                self.flush()
                return found if isinstance(found, bytes) else b""
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                if not data:
                    raise ConnectionResetError("closed without a close_notify") from None
                self.incoming.write(data)

    def flush(self) -> None:
        if data := self.outgoing.read():
            self.sock.sendall(data)

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), 16384):
            self.tls.write(data[start : start + 16384])
            self.flush()

    def half_close(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()

    def rest(self) -> bytes:
        """All up to the server's close_notify."""
        found = b""
        while True:
            try:
                found += self.retry(lambda: self.tls.read(65536))
            except ssl.SSLZeroReturnError:
                return found


def test_half_close_over_tls(certificates: Path) -> None:
    def client(port: int) -> bytes:
        tls = Tls(port, certificates)
        with tls.sock:
            tls.send(b"POST /c/attach HTTP/1.1\r\nHost: d\r\n\r\n" + b"i" * 2_000_000)
            tls.half_close()
            return tls.rest()

    async def main() -> None:
        async with serving(certificates) as port:
            answer = await asyncio.to_thread(client, port)
            assert answer == b"HTTP/1.1 101 UPGRADED\r\n\r\n2000000 bytes"

    run(main)


def test_requests_over_tls(certificates: Path) -> None:
    async def main() -> None:
        context = ssl.create_default_context(cafile=str(certificates / "cert.pem"))
        async with serving(certificates) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            for path, size in (("/a", 2), ("/big", 3_000_000), ("/bcd", 4)):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                assert f"Content-Length: {size}\r\n".encode() in head
                assert len(await reader.readexactly(size)) == size
            writer.close()

    run(main)


def test_plain_http_on_a_tls_port(certificates: Path) -> None:
    async def main() -> None:
        async with serving(certificates) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
            assert b"Client sent an HTTP request to an HTTPS server." in await reader.read()
            writer.close()

    run(main)


def test_a_client_without_a_certificate(certificates: Path) -> None:
    async def main() -> None:
        context = ssl.create_default_context(cafile=str(certificates / "cert.pem"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the handshake itself fails
        async with serving(certificates, verify=True) as port:
            with pytest.raises(ssl.SSLError):
                await asyncio.open_connection("127.0.0.1", port, ssl=context)
            context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(b"GET /x HTTP/1.1\r\nHost: d\r\n\r\n")
            assert (await reader.readuntil(b"/x")).startswith(b"HTTP/1.1 200")
            writer.close()

    run(main)
