"""The engine client against a scripted peer on a unix socket."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gantry.client.address import parse_address
from gantry.client.engine import Engine, encode_query, negotiate, segment
from gantry.client.errors import ApiError, ProtocolError, StreamError, Unreachable

PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 0\r\n\r\n"
Script = Callable[[socket.socket], None]


class Peer:
    """Answers connections one after the other, each by its script."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.requests: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._threads: list[threading.Thread] = []

    def serve(self, *scripts: Script) -> None:
        thread = threading.Thread(target=self._run, args=(scripts,))
        thread.start()
        self._threads.append(thread)

    def _run(self, scripts: tuple[Script, ...]) -> None:
        for script in scripts:
            connection, _ = self._listener.accept()
            with connection:
                script(connection)

    def head(self, connection: socket.socket) -> bytes:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            piece = connection.recv(1)
            if not piece:
                break
            data += piece
        if data:
            self.requests.append(data)
        return data

    def answers(self, *answers: bytes) -> Script:
        def script(connection: socket.socket) -> None:
            for answer in answers:
                if not self.head(connection):
                    return
                connection.sendall(answer)

        return script

    def close(self) -> None:
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(str(tmp_path / "s"))
    yield peer
    peer.close()


def engine(peer: Peer, version: str = "1.41") -> Engine:
    return Engine(parse_address(f"unix://{peer.path}"), api_version=version)


def body(
    text: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(text) + text


def chunked(*pieces: bytes) -> bytes:
    parts = [b"%x\r\n" % len(piece) + piece + b"\r\n" for piece in pieces]
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n\r\n"


def test_negotiates_the_older_version_and_keeps_the_connection(peer: Peer) -> None:
    peer.serve(peer.answers(PING, body(b"[1]"), body(b"[2]")))
    with engine(peer, "") as client:
        assert client.get("/containers/json") == [1]
        assert client.get("/containers/json", {"all": True}) == [2]
    assert peer.requests[0].startswith(b"HEAD /_ping HTTP/1.1\r\n")
    assert peer.requests[1].startswith(b"GET /v1.41/containers/json HTTP/1.1\r\n")
    assert peer.requests[2].startswith(b"GET /v1.41/containers/json?all=1 HTTP/1.1\r\n")


def test_connects_again_when_the_idle_connection_was_closed(peer: Peer) -> None:
    peer.serve(peer.answers(body(b"1")), peer.answers(body(b"2")))
    with engine(peer) as client:
        assert client.get("/a") == 1
        assert client.get("/b") == 2


def test_chunks(peer: Peer) -> None:
    peer.serve(peer.answers(chunked(b"[1,", b"2]")))
    with engine(peer) as client:
        assert client.get("/a") == [1, 2]


def test_error_status(peer: Peer) -> None:
    peer.serve(
        peer.answers(body(b'{"message":"No such container: x"}\n', b"HTTP/1.1 404 Not Found\r\n"))
    )
    with engine(peer) as client, pytest.raises(ApiError) as caught:
        client.get("/containers/x/json")
    assert caught.value.status == 404
    assert str(caught.value) == "Error response from daemon: No such container: x"


def test_error_that_is_no_json(peer: Peer) -> None:
    peer.serve(peer.answers(body(b"page not found\n", b"HTTP/1.1 404 Not Found\r\n")))
    with engine(peer) as client, pytest.raises(ApiError, match=r"page not found$"):
        client.get("/x")


def test_no_engine(tmp_path: Path) -> None:
    client = Engine(parse_address(f"unix://{tmp_path}/none"))
    with pytest.raises(Unreachable) as caught:
        client.get("/x")
    assert str(caught.value) == (
        f"Cannot connect to the Docker daemon at unix://{tmp_path}/none. "
        "Is the docker daemon running?"
    )


def test_engine_that_hangs_up(peer: Peer) -> None:
    peer.serve(peer.answers(b""))
    with engine(peer) as client, pytest.raises(Unreachable, match="error during connect"):
        client.get("/x")


def test_body_cut_short(peer: Peer) -> None:
    peer.serve(peer.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[1"))
    with engine(peer) as client, pytest.raises(ProtocolError, match="unexpected EOF"):
        client.get("/x")


def test_not_http(peer: Peer) -> None:
    peer.serve(peer.answers(b"220 mail.example ESMTP\r\n"))
    with engine(peer) as client, pytest.raises(ProtocolError, match="malformed HTTP"):
        client.get("/x")


def test_stream_raises_the_engine_s_error(peer: Peer) -> None:
    text = b'{"status":"Pulling"}\r\n{"errorDetail":{"message":"denied"},"error":"denied"}\r\n'
    peer.serve(peer.answers(chunked(text)))
    with engine(peer) as client:
        stream = client.stream("POST", "/images/create")
        assert next(stream) == {"status": "Pulling"}
        with pytest.raises(StreamError, match=r"^denied$"):
            next(stream)


def test_upload_while_the_answer_comes(peer: Peer) -> None:
    """A peer that writes much before it reads must not block the upload for ever."""
    amount = 4 << 20

    def script(connection: socket.socket) -> None:
        peer.head(connection)
        lines = b'{"progress":"' + b"x" * 1000 + b'"}\n'
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + lines * 4000)
        received, data = 0, b""
        while not data.endswith(b"0\r\n\r\n"):
            data = connection.recv(1 << 16)
            received += len(data)
        peer.requests.append(b"%d" % received)

    peer.serve(script)
    with engine(peer) as client:
        pieces = (b"y" * 65536 for _ in range(amount // 65536))
        found = sum(1 for _ in client.stream("POST", "/images/load", body=pieces))
    assert found == 4000
    assert int(peer.requests[1]) >= amount


def test_upload_to_a_peer_that_refuses_early(peer: Peer) -> None:
    def script(connection: socket.socket) -> None:
        peer.head(connection)
        connection.sendall(body(b'{"message":"too large"}', b"HTTP/1.1 400 Bad Request\r\n"))
        connection.shutdown(socket.SHUT_WR)

    peer.serve(script)
    with engine(peer) as client, pytest.raises(ApiError, match="too large"):
        pieces = (b"y" * 65536 for _ in range(64))
        client.request("POST", "/images/load", body=pieces)


def test_hijack_half_closes(peer: Peer) -> None:
    def script(connection: socket.socket) -> None:
        peer.head(connection)
        head = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
        connection.sendall(head + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ")
        received = b""
        while data := connection.recv(100):
            received += data
        connection.sendall(received.upper())

    peer.serve(script)
    with engine(peer) as client:
        stream = client.hijack("/containers/x/attach", {"stream": True, "stdin": True})
        assert stream.pending()
        assert stream.recv() == b"early "
        stream.send(b"late")
        stream.close_write()
        assert stream.recv() == b"LATE"
        assert stream.recv() == b""
        assert not stream.multiplexed
        stream.close()
    assert b"Upgrade: tcp\r\n" in peer.requests[0]


def test_json_body(peer: Peer) -> None:
    sent: list[object] = []

    def script(connection: socket.socket) -> None:
        head = peer.head(connection)
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        sent.append(json.loads(connection.recv(length, socket.MSG_WAITALL)))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    peer.serve(script)
    with engine(peer) as client:
        assert client.post("/x", body={"a": "ä"}) is None
    assert sent == [{"a": "ä"}]


@pytest.mark.parametrize(
    ("server", "chosen"), [("1.41", "1.41"), ("1.99", "1.55"), ("", "1.24"), ("1.9", "1.9")]
)
def test_negotiation(server: str, chosen: str) -> None:
    assert negotiate(server) == chosen


def test_query() -> None:
    query = {
        "a": True,
        "b": False,
        "c": None,
        "d": "",
        "e": ["x", "y z"],
        "f": {"k": ["v"]},
        "g": 0,
    }
    assert encode_query(query) == "?a=1&e=x&e=y%20z&f=%7B%22k%22%3A%5B%22v%22%5D%7D&g=0"
    assert encode_query({}) == ""


def test_names_in_paths() -> None:
    assert segment("/web") == "web"
    assert segment("lib/a:1@sha256:b") == "lib/a:1@sha256:b"
    assert segment("a b?c#d") == "a%20b%3Fc%23d"


def test_no_descriptor_is_left(peer: Peer) -> None:
    before = len(os.listdir("/proc/self/fd"))
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1"
    peer.serve(peer.answers(closing), peer.answers(body(b"2")))
    with engine(peer) as client:
        client.get("/a")
        client.get("/b")
    peer.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1  # the listener's
