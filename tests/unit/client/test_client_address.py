"""Addresses of engines, as -H and DOCKER_HOST give them."""

from __future__ import annotations

import pytest

from gantry.client.address import DEFAULT_SOCKET, Tls, parse_address
from gantry.model.errors import InvalidParameter


def test_nothing_is_the_default_socket() -> None:
    assert parse_address("").path == DEFAULT_SOCKET
    assert parse_address("unix://").path == DEFAULT_SOCKET


def test_unix_socket() -> None:
    address = parse_address("unix:///tmp/a b.sock")
    assert (address.path, address.host, address.text) == (
        "/tmp/a b.sock",
        "",
        "unix:///tmp/a b.sock",
    )


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://10.0.0.1:99", "10.0.0.1", 99),
        ("10.0.0.1:99", "10.0.0.1", 99),
        ("tcp://example", "example", 2375),
        ("tcp://[::1]:7", "::1", 7),
        ("http://example:80", "example", 80),
        ("tcp://:5", "127.0.0.1", 5),
    ],
)
def test_tcp(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert (address.host, address.port, address.path) == (host, port, "")


def test_tls_has_another_default_port() -> None:
    assert parse_address("tcp://example", Tls()).port == 2376


def test_a_path_prefixes_every_request() -> None:
    assert parse_address("tcp://proxy:80/engine/").prefix == "/engine"


@pytest.mark.parametrize("text", ["ftp://x", "tcp://x:99999", "tcp://x:abc"])
def test_nonsense_is_refused_in_docker_s_words(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid bind address format"):
        parse_address(text)
