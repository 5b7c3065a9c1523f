"""Datagrams in batches: every reply reaches who asked, whatever way the kernel takes them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from gantry.kernel.datagrams import Datagrams

_SO_NO_CHECK = 11


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.fixture
def clients(server: socket.socket) -> Iterator[list[socket.socket]]:
    found = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(3)]
    for sock in found:
        sock.settimeout(5)
        sock.connect(server.getsockname())
    yield found
    for sock in found:
        sock.close()


def test_nothing_waits(server: socket.socket) -> None:
    assert Datagrams(4, 64).receive(server.fileno()) == 0


def test_each_gets_its_own_reply(server: socket.socket, clients: list[socket.socket]) -> None:
    batch = Datagrams(8, 64)
    for n in range(12):
        clients[n % 3].send(bytes((n, n)) + b"ping")
    assert batch.receive(server.fileno()) == 8
    for n in range(8):
        assert batch.sender(n) == clients[n % 3].getsockname()
        batch.reply(n, batch.get(n) + b"!" * n)
    batch.send(server.fileno())
    for n in range(8):
        assert clients[n % 3].recv(64) == bytes((n, n)) + b"ping" + b"!" * n
    assert batch.receive(server.fileno()) == 4


@pytest.mark.parametrize("checked", [True, False])
def test_what_is_known_is_answered_at_once(
    server: socket.socket, clients: list[socket.socket], checked: bool
) -> None:
    """Neighbours of one size leave as one packet. Not checked: the kernel refuses that."""
    if not checked:
        server.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
    batch = Datagrams(64, 64)
    for n in range(60):
        clients[n // 20].send(bytes((0, n)) + (b"what" if n % 20 == 5 else b"who"))
    assert batch.receive(server.fileno()) == 60
    assert batch.reply_known(60, {b"who": b"me"}) == [5, 25, 45]
    for n in (5, 45):
        batch.reply(n, batch.get(n)[:2] + b"that")
    batch.send(server.fileno())
    for number, client in enumerate(clients):
        wanted = {
            bytes((0, n)) + b"me" for n in range(20 * number, 20 * number + 20) if n % 20 != 5
        }
        wanted |= {bytes((0, 20 * number + 5)) + b"that"} if number != 1 else set()
        assert {client.recv(64) for _ in wanted} == wanted


def test_more_than_fits_a_packet(server: socket.socket, clients: list[socket.socket]) -> None:
    """64 replies of 2,000 bytes are two packets, and more than a socket's buffer may take."""
    batch = Datagrams(64, 2000)
    clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for n in range(40):
        clients[0].send(bytes((0, n)) + b"q")
    assert batch.receive(server.fileno()) == 40
    assert batch.reply_known(40, {b"q": bytes(1998)}) == []
    batch.send(server.fileno())
    assert {clients[0].recv(4096)[:2] for _ in range(40)} == {bytes((0, n)) for n in range(40)}


def test_what_is_too_long_is_cut(server: socket.socket, clients: list[socket.socket]) -> None:
    batch = Datagrams(4, 16)
    clients[0].send(bytes(100))
    clients[0].send(b"")
    assert batch.receive(server.fileno()) == 2
    assert batch.reply_known(2, {b"x": b"y"}) == [0, 1]
    assert (batch.get(0), batch.get(1)) == (bytes(16), b"")


def test_a_closed_socket_is_an_error(server: socket.socket) -> None:
    with pytest.raises(OSError, match="recvmmsg"):
        Datagrams(4, 16).receive(99999)
