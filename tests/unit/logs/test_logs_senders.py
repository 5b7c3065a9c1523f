"""Drivers that send elsewhere: what arrives at a receiver, and what their options refuse."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from gantry.logs import drivers, journald
from gantry.logs.follow import Message
from gantry.logs.sender import Sender, Source
from gantry.model.errors import InvalidParameter

SOURCE = Source(
    container_id="0123456789abcdef" * 4,
    name="web",
    image_id="sha256:11",
    image="busybox",
    command="echo hi",
    created="2026-01-02T03:04:05Z",
    tag="web/01",
    host="box",
    pid=42,
    attributes={"team": "blue"},
)
OUT = Message(1_700_000_000_123_456_789, "hello", False, False)
ERR = Message(1_700_000_001_000_000_000, "oh", True, True)


def make(driver: str, options: Mapping[str, str]) -> Sender:
    drivers.CHECKS[driver](options)
    return drivers.sender(driver, SOURCE, options)


def datagrams(driver: str, options: dict[str, str], key: str, count: int = 2) -> list[bytes]:
    """What a udp server gets of the two messages."""

    async def send(port: int) -> None:
        sender = make(driver, {**options, key: f"udp://127.0.0.1:{port}"})
        await sender.send([OUT, ERR])
        sender.close()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        asyncio.run(send(server.getsockname()[1]))
        return [server.recv(65536) for _ in range(count)]


def stream(driver: str, options: dict[str, str], key: str, answer: bool = False) -> bytes:
    """What a tcp server gets of them; answer: it acknowledges by fluentd's rules."""

    async def scenario() -> bytes:
        got = bytearray()
        ended = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                got.extend(data)
                if answer:
                    chunk = msgspec.msgpack.decode(got)[2]["chunk"]
                    writer.write(msgspec.msgpack.encode({"ack": chunk}))
            writer.close()
            ended.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sender = make(driver, {**options, key: f"tcp://127.0.0.1:{port}"})
        await sender.send([OUT, ERR])
        sender.close()
        async with asyncio.timeout(5):
            await ended.wait()
        server.close()
        return bytes(got)

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("wanted", "head"),
    [
        ("", r"<{p}>{stamp} web/01[42]: "),
        ("rfc3164", r"<{p}>{stamp} box web/01[42]: "),
        ("rfc5424", "<{p}>1 2023-11-14T22:13:2{s}Z box web/01 42 web/01 - "),
        ("rfc5424micro", "<{p}>1 2023-11-14T22:13:2{s}.{micro}Z box web/01 42 web/01 - "),
    ],
)
def test_syslog_formats(wanted: str, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    got = datagrams("syslog", {"syslog-format": wanted}, "syslog-address")
    stamps = ("Nov 14 22:13:20", "Nov 14 22:13:21")
    first = head.format(p=30, stamp=stamps[0], s=0, micro="123456")
    second = head.format(p=27, stamp=stamps[1], s=1, micro="000000")
    assert got == [f"{first}hello\n".encode(), f"{second}oh\n".encode()]


def test_syslog_over_tcp_with_a_facility() -> None:
    got = stream("syslog", {"syslog-facility": "local7"}, "syslog-address")
    lines = got.splitlines()
    assert [line[:5] for line in lines] == [b"<190>", b"<187>"]


def test_syslog_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "log")

    async def send() -> None:
        sender = make("syslog", {"syslog-address": f"unixgram://{path}"})
        await sender.send([OUT])
        sender.close()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(5)
        asyncio.run(send())
        assert server.recv(1000).endswith(b"web/01[42]: hello\n")


@pytest.mark.parametrize("how", ["gzip", "zlib", "none"])
def test_gelf_over_udp(how: str) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "zlib": zlib.decompress,
        "none": bytes,
    }
    unpack = packers[how]
    got = datagrams("gelf", {"gelf-compression-type": how}, "gelf-address")
    first, second = (json.loads(unpack(each)) for each in got)
    assert first == {
        "version": "1.1",
        "host": "box",
        "short_message": "hello",
        "timestamp": 1700000000.123,
        "level": 6,
        "_container_id": SOURCE.container_id,
        "_container_name": "web",
        "_image_id": "sha256:11",
        "_image_name": "busybox",
        "_command": "echo hi",
        "_tag": "web/01",
        "_created": "2026-01-02T03:04:05Z",
        "_team": "blue",
    }
    assert (second["short_message"], second["level"]) == ("oh", 3)


def test_gelf_in_chunks() -> None:
    async def send(port: int) -> None:
        address = f"udp://127.0.0.1:{port}"
        sender = make("gelf", {"gelf-compression-type": "none", "gelf-address": address})
        await sender.send([Message(0, "x" * 3000, False, False)])
        sender.close()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        asyncio.run(send(server.getsockname()[1]))
        pieces = [server.recv(65536) for _ in range(3)]
    assert all(len(piece) <= 1420 and piece.startswith(b"\x1e\x0f") for piece in pieces)
    assert [piece[10:12] for piece in pieces] == [bytes((n, 3)) for n in range(3)]
    whole = json.loads(b"".join(piece[12:] for piece in pieces))
    assert whole["short_message"] == "x" * 3000


def test_gelf_over_tcp() -> None:
    first, second, rest = stream("gelf", {}, "gelf-address").split(b"\x00")
    assert json.loads(first)["short_message"] == "hello"
    assert json.loads(second)["short_message"] == "oh"
    assert rest == b""


def test_fluentd() -> None:
    tag, entries = msgspec.msgpack.decode(stream("fluentd", {}, "fluentd-address"))
    assert tag == "web/01"
    common = {"container_id": SOURCE.container_id, "container_name": "/web", "team": "blue"}
    assert entries == [
        [1_700_000_000, {**common, "source": "stdout", "log": "hello"}],
        [1_700_000_001, {**common, "source": "stderr", "log": "oh", "partial_message": "true"}],
    ]


def test_fluentd_exact_and_acknowledged() -> None:
    options = {"fluentd-sub-second-precision": "true", "fluentd-request-ack": "true"}
    _, entries, extra = msgspec.msgpack.decode(stream("fluentd", options, "fluentd-address", True))
    moment = entries[0][0]
    assert (moment.code, moment.data) == (0, struct.pack(">II", 1_700_000_000, 123_456_789))
    assert set(extra) == {"chunk"}


def test_journald(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def send() -> None:
        sender = journald.Journald(SOURCE, {}, path)
        await sender.send([OUT, Message(0, "two\nlines", True, False)])
        sender.close()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(5)
        asyncio.run(send())
        lines = server.recv(65536).splitlines()
        assert {b"MESSAGE=hello", b"PRIORITY=6", b"CONTAINER_NAME=web", b"TEAM=blue"} <= set(lines)
        assert b"CONTAINER_ID=0123456789ab" in lines
        second = server.recv(65536)
        assert b"MESSAGE\n" + struct.pack("<Q", 9) + b"two\nlines\n" in second
        assert b"PRIORITY=3\n" in second


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        ("syslog", {"syslog-address": "http://x"}, "unsupported scheme: 'http'"),
        ("syslog", {"syslog-address": "unix:///no/such"}, "no such file or directory"),
        ("syslog", {"syslog-facility": "nope"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "x"}, "Invalid syslog format"),
        ("gelf", {}, "gelf-address is a required parameter"),
        ("gelf", {"gelf-address": "http://x:1"}, "endpoint needs to be TCP or UDP"),
        (
            "gelf",
            {"gelf-address": "tcp://x:1", "gelf-compression-type": "gzip"},
            "compression is only supported on UDP",
        ),
        ("gelf", {"gelf-address": "udp://x:1", "gelf-compression-level": "11"}, "unknown value"),
        ("fluentd", {"fluentd-address": "http://x"}, "invalid fluentd-address"),
        ("fluentd", {"fluentd-async": "maybe"}, "invalid syntax"),
    ],
)
def test_options_that_are_refused(driver: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        drivers.CHECKS[driver](options)
