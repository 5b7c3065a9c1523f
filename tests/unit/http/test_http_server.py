"""Connections: keep-alive, hijack with early bytes, half-close, clients that go away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.http.wire_client import connected, encoded, gone, run, serving

from gantry.http.reply import TAKEN, ChunkedReply, Head, Reply, Sendable
from gantry.http.request import Request
from gantry.http.server import Connection, Server

HEAD = Head(200, "OK", (("Content-Type", "text/plain"),))
SWITCH = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


async def body_of(request: Request) -> bytes:
    parts = []
    while part := await request.content.readany():
        parts.append(part)
    return b"".join(parts)


async def echo(request: Request) -> Sendable:
    """/attach hijacks and echoes until the end of input; all else is answered with its body."""
    body = await body_of(request)
    if not request.raw_path.endswith("/attach"):
        return Reply(HEAD, request.raw_path.encode() + b"|" + body)
    raw = request.connection.hijack()
    await raw.write(SWITCH)
    while data := await raw.read():
        await raw.write(data)
    await raw.write(b"<end>")
    await raw.finish()
    return TAKEN


def test_requests_on_one_connection_and_pipelined(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _), connected(path) as client:
            for number in range(3):
                answer = await client.request("POST", f"/{number}", b"body")
                assert answer.body == f"/{number}|body".encode()
            client.send(encoded("POST", "/a/start", b"A") + encoded("POST", "/b/start", b"B"))
            assert (await client.answer()).body == b"/a/start|A"
            assert (await client.answer()).body == b"/b/start|B"

    run(main)


class Wire(asyncio.Transport):
    """A transport whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def close(self) -> None:
        return

    def is_closing(self) -> bool:
        return False


async def turns(count: int = 20) -> None:
    """Let the loop do what is to be done."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_hijackable_request_split_anywhere_and_answered_plainly() -> None:
    async def main() -> None:
        data = encoded("POST", "/a/start", b"0123456789") + encoded("GET", "/b")
        for cut in range(1, len(data)):
            wire = Wire()
            connection = Server(echo)()
            connection.connection_made(wire)
            connection.data_received(data[:cut])
            await turns()
            connection.data_received(data[cut:])
            await turns()
            assert wire.written.count(b"HTTP/1.1 200") == 2, cut
            assert b"/a/start|0123456789" in wire.written
            assert wire.written.endswith(b"/b|")
            connection.connection_lost(None)

    run(main)


def test_hijack_gets_bytes_that_came_with_the_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _), connected(path) as client:
            client.send(encoded("POST", "/c/attach", b"{}") + b"GET early HTTP/9\r\n\r\n\x00")
            status, _ = await client.head()
            assert status == 101
            assert await client.reader.readexactly(21) == b"GET early HTTP/9\r\n\r\n\x00"
            client.send(b"more")
            assert await client.reader.readexactly(4) == b"more"
            client.half_close()
            assert await client.reader.read() == b"<end>"

    run(main)


def test_much_input_behind_a_request_waits_for_the_hijack(tmp_path: Path) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def late(request: Request) -> Sendable:
            if request.raw_path == "/ping":
                return Reply(HEAD, b"")
            await release.wait()
            raw = request.connection.hijack()
            size = 0
            while data := await raw.read():
                size += len(data)
            await raw.write(b"%d" % size)
            await raw.finish()
            return TAKEN

        async with (
            serving(late, tmp_path) as (path, _),
            connected(path) as client,
            connected(path) as other,
        ):
            client.send(encoded("POST", "/attach") + b"i" * 3_000_000)
            client.half_close()
            for _ in range(20):
                await other.request("GET", "/ping")
            release.set()
            assert await client.reader.read() == b"3000000"

    run(main)


def test_half_close_before_a_hijack_is_input_that_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _), connected(path) as client:
            client.send(encoded("POST", "/c/attach") + b"all of it")
            client.half_close()
            assert (await client.head())[0] == 101
            assert await client.reader.read() == b"all of it<end>"

    run(main)


async def hijack_unread(request: Request) -> Sendable:
    """Takes the connection over without having read the body."""
    raw = request.connection.hijack()
    await raw.write(SWITCH)
    while data := await raw.read():
        await raw.write(data)
    await raw.finish()
    return TAKEN


def test_what_is_input_where_a_body_was_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(hijack_unread, tmp_path) as (path, _):
            for head, later, wanted in (
                ("Content-Length: 6", b"dybehind", b"behind"),
                ("Transfer-Encoding: chunked", b"raw, no chunk", b"raw, no chunk"),
            ):
                async with connected(path) as client:
                    client.send(f"POST /attach HTTP/1.1\r\n{head}\r\n\r\n".encode())
                    if "Length" in head:
                        client.send(b"unbo")
                    assert (await client.head())[0] == 101
                    client.send(later)
                    client.half_close()
                    assert await client.reader.read() == wanted

    run(main)


def test_half_close_within_a_pipelined_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _):
            for part in (b"GET /y HT", encoded("POST", "/y", b"0123456789")[:-3]):
                async with connected(path) as client:
                    client.send(encoded("GET", "/x") + part)
                    client.half_close()
                    assert (await client.answer()).body == b"/x|"
                    assert await client.reader.read() == b""

    run(main)


def test_a_refusal_is_read_though_more_was_sent(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _), connected(path) as client:
            client.send(b"GET /a b c\r\n\r\n" + b"x" * 1_000_000)
            answer = await client.answer()
            assert (answer.status, answer.body) == (400, b"400 Bad Request")
            assert answer.headers["connection"] == "close"
            assert await client.reader.read() == b""

    run(main)


def test_half_closed_plain_request_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _), connected(path) as client:
            client.send(encoded("GET", "/x") * 3)
            client.half_close()
            for _ in range(3):
                assert (await client.answer()).body == b"/x|"
            assert await client.reader.read() == b""

    run(main)


def test_a_client_that_leaves_cancels_its_request(tmp_path: Path) -> None:
    async def main() -> None:
        cancelled = asyncio.Event()
        begun = asyncio.Event()

        async def forever(request: Request) -> Sendable:
            if request.raw_path == "/ping":
                return Reply(HEAD, b"")
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return Reply(HEAD, b"")

        async with serving(forever, tmp_path) as (path, _):
            for half_first in (False, True):
                begun.clear()
                cancelled.clear()
                async with connected(path) as client, connected(path) as other:
                    client.send(encoded("GET", "/"))
                    await begun.wait()
                    if half_first:
                        client.half_close()
                        await other.request("GET", "/ping")  # the server has seen it by then
                        assert not cancelled.is_set()
                await cancelled.wait()

    run(main)


def test_a_hijacked_client_that_leaves_while_its_input_is_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def deaf(request: Request) -> Sendable:
            if request.raw_path == "/ping":
                return Reply(HEAD, b"")
            raw = request.connection.hijack()
            await raw.write(SWITCH)
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return TAKEN

        async with serving(deaf, tmp_path) as (path, _):
            async with connected(path) as client, connected(path) as other:
                client.send(encoded("POST", "/attach"))
                await client.head()
                client.send(b"x" * 4_000_000)  # far beyond what is held
                await other.request("GET", "/ping")
                assert not cancelled.is_set()
                client.writer.transport.abort()
            await cancelled.wait()

    run(main)


def test_a_slow_reader_stops_the_writer(tmp_path: Path) -> None:
    async def main() -> None:
        sent = 0
        connections: list[Connection] = []

        async def flood(request: Request) -> Sendable:
            nonlocal sent
            connections.append(request.connection)
            reply = ChunkedReply(HEAD)
            reply.start(request)
            while True:
                await reply.write(b"y" * 65536)
                sent += 65536

        async with serving(flood, tmp_path) as (path, _), connected(path) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport
            client.send(encoded("GET", "/"))
            while not connections or not connections[0].writing_paused:
                await asyncio.sleep(0)
            stopped_at = sent
            await turns(100)
            assert sent == stopped_at < 8_000_000

    run(main)


def test_hijacked_output_is_whole_though_input_is_unread(tmp_path: Path) -> None:
    async def main() -> None:
        async def short(request: Request) -> Sendable:
            raw = request.connection.hijack()
            await raw.write(SWITCH + b"output")
            await raw.finish()
            return TAKEN

        async with serving(short, tmp_path) as (path, _), connected(path) as client:
            client.send(encoded("POST", "/attach") + b"never read" * 1000)
            await client.head()
            assert await client.reader.read() == b"output"

    run(main)


def test_chunks_and_http_1_0(tmp_path: Path) -> None:
    async def main() -> None:
        async def stream(request: Request) -> Sendable:
            reply = ChunkedReply(HEAD)
            reply.start(request)
            for part in (b"one", b"", b"two"):
                await reply.write(part)
            return reply

        async with serving(stream, tmp_path) as (path, _):
            async with connected(path) as client:
                assert (await client.request("GET", "/")).body == b"onetwo"
                assert (await client.request("GET", "/")).body == b"onetwo"
            async with connected(path) as client:
                client.send(b"GET / HTTP/1.0\r\n\r\n")
                _, headers = await client.head()
                assert headers["connection"] == "close"
                assert "transfer-encoding" not in headers
                assert await client.reader.read() == b"onetwo"

    run(main)


def test_an_old_client_is_told_that_the_connection_stays(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _), connected(path) as client:
            for asked, told in (("keep-alive", "keep-alive"), ("close", "close")):
                client.send(f"GET / HTTP/1.0\r\nConnection: {asked}\r\n\r\n".encode())
                _, headers = await client.head()
                assert headers["connection"] == told
                assert await client.reader.readexactly(2) == b"/|"
            assert await client.reader.read() == b""

    run(main)


def test_head_has_the_length_and_no_body(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _), connected(path) as client:
            answer = await client.request("HEAD", "/abc")
            assert answer.headers["content-length"] == "5"
            assert (await client.request("GET", "/d")).body == b"/d|"

    run(main)


def test_bad_requests_are_refused_and_the_connection_closed(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _):
            for data in (
                b"nonsense\r\n\r\n",
                b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
                b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
            ):
                async with connected(path) as client:
                    client.send(data)
                    status, _ = await client.head()
                    assert status == 400, data
                    await client.reader.read()

    run(main)


def test_long_query_and_header(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _), connected(path) as client:
            target = "/" + "n" * 200_000
            answer = await client.request("GET", target, headers=f"X-Token: {'t' * 100_000}\r\n")
            assert answer.body == target.encode() + b"|"

    run(main)


def test_shutdown_ends_streams_at_once_and_lets_requests_end(tmp_path: Path) -> None:
    async def main() -> None:
        release = asyncio.Event()
        ended = asyncio.Event()
        begun = asyncio.Event()

        async def handler(request: Request) -> Sendable:
            if request.raw_path == "/short":
                begun.set()
                await release.wait()
                return Reply(HEAD, b"done")
            raw = request.connection.hijack()
            await raw.write(SWITCH)
            try:
                await raw.read()
            finally:
                ended.set()
            return TAKEN

        async with (
            serving(handler, tmp_path) as (path, listeners),
            connected(path) as short,
            connected(path) as stream,
        ):
            stream.send(encoded("POST", "/attach"))
            await stream.head()
            short.send(encoded("GET", "/short"))
            await begun.wait()
            async with asyncio.TaskGroup() as group:
                closing = group.create_task(listeners.aclose(grace=5))
                await ended.wait()
                assert not closing.done()
                release.set()
                assert (await short.answer()).body == b"done"
            assert await stream.reader.read() == b""
            assert await gone(path)

    run(main)


def test_a_thousand_idle_connections_do_not_hurt(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _):
            idle = [await asyncio.open_unix_connection(str(path)) for _ in range(400)]
            async with connected(path) as client:
                assert (await client.request("GET", "/x")).body == b"/x|"
            for _, writer in idle:
                writer.close()

    run(main)


def test_what_is_not_http_fills_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(echo, tmp_path) as (path, _):
            for head, status in (
                (b"POST /a/start HTTP/1.1\r\nContent-Length: " + b"9" * 5000, 400),
                (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400),
                (b"GET / HTTP/1.1\r\nX: " + b"y" * 600_000, 431),
                (b"\x16\x03\x01", 400),
            ):
                async with connected(path) as client:
                    client.send(head + b"\r\n\r\n")
                    answer = await client.answer()
                    assert answer.status == status
                    assert answer.body.startswith(b"%d " % status)

    with caplog.at_level("INFO"):
        run(main)
    assert caplog.messages == []
