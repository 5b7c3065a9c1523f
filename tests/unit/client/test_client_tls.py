"""TLS: the handshake's failures in one line, and half close in both directions."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gantry.client.address import Tls, parse_address
from gantry.client.engine import Engine
from gantry.model.errors import GantryError

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
Script = Callable[[ssl.SSLSocket], None]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=t"
    more = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *words.split(), *more], cwd=folder, capture_output=True, check=True)
    return folder


@pytest.fixture
def serve(certificates: Path) -> Iterator[Callable[[Script], int]]:
    """Answers one TLS connection by a script; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    threads: list[threading.Thread] = []

    def start(script: Script) -> int:
        def run() -> None:
            try:
                raw, _ = listener.accept()
                with raw, context.wrap_socket(raw, server_side=True) as connection:
                    script(connection)
            except OSError:
                pass  # the client refused us, or was gone before we looked

        threads.append(threading.Thread(target=run))
        threads[0].start()
        return int(listener.getsockname()[1])

    yield start
    listener.shutdown(socket.SHUT_RDWR)  # wakes an accept; close alone does not
    listener.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def engine(port: int, tls: Tls) -> Engine:
    return Engine(parse_address(f"tcp://127.0.0.1:{port}", tls), api_version="1.41")


def head(connection: ssl.SSLSocket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(4096)


def test_half_close(serve: Callable[[Script], int], certificates: Path) -> None:
    """The peer answers after our end of input, and what it sent before is not lost."""

    def script(connection: ssl.SSLSocket) -> None:
        head(connection)
        connection.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\nearly ")
        received = b""
        while data := connection.recv(100):
            received += data
            connection.sendall(b"meanwhile ")
        connection.sendall(received.upper() * 20000)

    port = serve(script)
    with engine(port, Tls(ca=str(certificates / "cert.pem"))) as client:
        stream = client.hijack("/containers/x/attach")
        stream.send(b"late")
        assert stream.recv() == b"early "
        found = b""
        while b"meanwhile " not in found:
            found += stream.recv()
        stream.close_write()
        while data := stream.recv():
            found += data
        assert found == b"meanwhile " + b"LATE" * 20000
        stream.close()


def test_requests(serve: Callable[[Script], int], certificates: Path) -> None:
    def script(connection: ssl.SSLSocket) -> None:
        for _ in range(2):
            head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]")

    port = serve(script)
    with engine(port, Tls(ca=str(certificates / "cert.pem"))) as client:
        assert client.get("/a") == [1]
        assert client.get("/b") == [1]


def test_a_certificate_nobody_signed(serve: Callable[[Script], int]) -> None:
    port = serve(lambda connection: None)
    with engine(port, Tls()) as client, pytest.raises(GantryError, match="error during connect: T"):
        client.get("/a")


def test_without_verification(serve: Callable[[Script], int]) -> None:
    def script(connection: ssl.SSLSocket) -> None:
        head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]")

    port = serve(script)
    with engine(port, Tls(verify=False)) as client:
        assert client.get("/a") == [1]


def test_material_that_is_not_there(serve: Callable[[Script], int]) -> None:
    port = serve(lambda connection: None)
    tls = Tls(ca="/nonexistent/ca.pem")
    with engine(port, tls) as client, pytest.raises(GantryError, match="No such file"):
        client.get("/a")
