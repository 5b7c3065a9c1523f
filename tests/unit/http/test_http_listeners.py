"""Addresses and listening sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from tests.unit.http.wire_client import connected, run

from gantry.http.listeners import Address, open_tcp, open_unix, parse, passed_sockets, serve
from gantry.http.reply import Head, Reply, Sendable
from gantry.model.errors import Conflict, GantryError, InvalidParameter, System


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/x.sock", Address("unix", path="/run/x.sock")),
        ("unix://", Address("unix", path="/var/run/docker.sock")),
        ("/run/x.sock", Address("unix", path="/run/x.sock")),
        ("tcp://", Address("tcp", host="localhost", port=2375)),
        ("tcp://:2377", Address("tcp", host="localhost", port=2377)),
        ("tcp://0.0.0.0", Address("tcp", host="0.0.0.0", port=2375)),
        ("tcp://[::1]:5", Address("tcp", host="::1", port=5)),
        ("127.0.0.1:4243", Address("tcp", host="127.0.0.1", port=4243)),
        ("fd://", Address("fd")),
        ("fd://*", Address("fd")),
        ("fd://3", Address("fd", path="3")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse(text) == address


def test_the_tls_port_is_another() -> None:
    assert parse("tcp://h", tls=True).port == 2376
    assert str(parse("tcp://[::1]:5")) == "tcp://[::1]:5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "npipe:////./pipe/x",
            "invalid bind address (npipe:////./pipe/x): unsupported proto: npipe",
        ),
        ("udp://h:1", "invalid bind address (udp://h:1): unsupported proto: udp"),
        ("tcp://h:x", "invalid bind address (tcp://h:x): invalid port 'x'"),
        ("tcp://h:70000", "invalid bind address (tcp://h:70000): invalid port '70000'"),
        ("tcp://h:1/p", "invalid bind address (tcp://h:1/p): should not contain a path element"),
        ("tcp://[::1", "invalid bind address (tcp://[::1): missing ']'"),
    ],
)
def test_refused_addresses(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        parse(text)
    assert str(error.value) == message


def test_a_unix_socket_is_for_root_and_its_group(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "s.sock"
    with open_unix(str(path), group="no-such-group"):
        mode = path.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
        assert path.lstat().st_gid == os.getegid()


def test_a_stale_socket_is_replaced_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    open_unix(str(path), group="").close()
    with open_unix(str(path), group=""), pytest.raises(Conflict, match="another engine listens"):
        open_unix(str(path), group="")


def test_a_file_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(Conflict, match="is not a socket"):
        open_unix(str(path))
    assert path.read_text() == "mine"


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(System, match=rf"listen tcp 127.0.0.1:{port}: bind: Address already"):
            open_tcp("127.0.0.1", port)


def test_no_sockets_were_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    with pytest.raises(InvalidParameter, match="no sockets found via socket activation"):
        passed_sockets()


def test_all_or_none(tmp_path: Path) -> None:
    async def ok(request: object) -> Sendable:
        return Reply(Head(200, "OK", ()), b"ok")

    async def main() -> None:
        first = tmp_path / "a.sock"
        with pytest.raises(GantryError):
            await serve(ok, [f"unix://{first}", f"unix://{tmp_path}"], group="")
        assert not first.exists()
        listeners = await serve(
            ok, [f"unix://{first}", "tcp://127.0.0.1:0", f"unix://{tmp_path}/b.sock"], group=""
        )
        assert len(listeners.addresses) == 3
        async with connected(first) as client:
            assert (await client.request("GET", "/")).body == b"ok"
        await listeners.aclose()
        assert not first.exists()

    run(main)
