"""A connection over a transport that is the test's own: cuts, hostile bytes, bodies, time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.http.test_http_head import pieces
from tests.unit.http.test_http_server import HEAD, echo
from tests.unit.http.wire_client import encoded, run

from gantry.http import server as module
from gantry.http.body import HIGH_WATER
from gantry.http.reply import Reply, Sendable
from gantry.http.request import Request
from gantry.http.server import Connection, Handler, Server
from gantry.model.errors import InvalidParameter

CHUNKED = b"POST /chunks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps what was written; closes as the kernel would."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = self.closed = self.paused = False
        self.connection: Connection | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        self.written += data

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = self.ended = True
            if self.connection is not None:
                asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    @property
    def answers(self) -> bytes:
        """What was written, without dates."""
        lines = self.written.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.startswith(b"Date: "))


def joined(handler: Handler) -> tuple[Wire, Connection]:
    wire = Wire()
    wire.connection = connection = Server(handler)()
    connection.connection_made(wire)
    return wire, connection


async def settle(connection: Connection) -> None:
    """Let the loop do what is to be done now."""
    for _ in range(12):
        await asyncio.sleep(0)


async def sent(handler: Handler, parts: list[bytes]) -> Wire:
    wire, connection = joined(handler)
    for part in parts:
        if not wire.closed:
            connection.data_received(part)
            await settle(connection)
    await settle(connection)
    wire.close()
    await settle(connection)
    assert connection.task is None
    return wire


async def echo_unless_404(request: Request) -> Sendable:
    if request.raw_path == "/404":
        return Reply(HEAD, b"no")
    try:
        return await echo(request)
    except InvalidParameter as error:
        return Reply(HEAD, str(error).encode())


REQUESTS = st.sampled_from(
    [
        encoded("GET", "/a"),
        encoded("POST", "/b/start", b"0123456789"),
        encoded("POST", "/404", b"nobody reads this"),
        encoded("GET", "/c", headers="Connection: Upgrade\r\nUpgrade: tcp\r\n"),
        encoded("POST", "/d", b"body", "Connection: Upgrade\r\nUpgrade: h2c\r\n"),
        b"\r\n" + CHUNKED + b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nT: r\r\n\r\n",
        b"POST /404 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HEAD /h HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /bad HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        CHUNKED + b"not hex\r\n",
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=5), st.lists(st.integers(0, 1500), max_size=10))
def test_it_does_not_matter_where_reads_cut(requests: list[bytes], cuts: list[int]) -> None:
    async def main() -> None:
        data = b"".join(requests)
        whole = await sent(echo_unless_404, [data])
        cut = await sent(echo_unless_404, pieces(data, cuts))
        assert cut.answers == whole.answers
        assert whole.written.startswith(b"HTTP/1.1 ")

    run(main)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), REQUESTS), max_size=6))
def test_any_bytes_are_answered_or_waited_for(parts: list[bytes]) -> None:
    async def main() -> None:
        await sent(echo_unless_404, parts)

    run(main)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_a_request_with_some_bytes_changed(noise: bytes, at: int) -> None:
    async def main() -> None:
        data = encoded("POST", "/x", b"0123456789", "X-One: 1\r\n") * 2
        at_most = at % len(data)
        await sent(echo, [data[:at_most] + noise + data[at_most + len(noise) :]])

    run(main)


def test_continue_is_said_when_the_body_is_read_and_only_then() -> None:
    async def main() -> None:
        head = b"POST %b HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        wire, connection = joined(echo_unless_404)
        connection.data_received(head % b"/x")
        await settle(connection)
        assert wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.data_received(b"body")
        await settle(connection)
        assert wire.written.endswith(b"/x|body")
        wire.written = b""
        connection.data_received(head % b"/y" + b"body")  # did not wait
        await settle(connection)
        assert wire.written.startswith(b"HTTP/1.1 200 OK")
        wire.written = b""
        connection.data_received(head % b"/404")
        await settle(connection)
        assert b"\r\nConnection: close\r\n" in wire.written
        assert b"100 Continue" not in wire.written
        assert wire.ended
        connection.data_received(b"GET /smuggled HTTP/1.1\r\n\r\n")
        await settle(connection)
        assert b"smuggled" not in wire.written
        wire.close()

    run(main)


def test_a_malformed_body_is_the_end() -> None:
    async def main() -> None:
        wire = await sent(echo_unless_404, [CHUNKED + b"x\r\n" + encoded("GET", "/smuggled")])
        assert b"\r\nConnection: close\r\n" in wire.written
        assert wire.written.endswith(b"invalid request body: invalid byte in chunk length")

    run(main)


def test_an_unread_body_holds_neither_memory_nor_the_next_request() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def handler(request: Request) -> Sendable:
            if request.raw_path == "/large":
                await release.wait()
            return Reply(HEAD, request.raw_path.encode())

        wire, connection = joined(handler)
        connection.data_received(encoded("POST", "/large", b"x" * (2 * HIGH_WATER))[:-5])
        await settle(connection)
        assert wire.paused
        release.set()
        await settle(connection)
        assert not wire.paused
        assert wire.written.endswith(b"/large")
        connection.data_received(b"xxxxx" + encoded("GET", "/next"))
        await settle(connection)
        assert wire.written.endswith(b"/next")
        wire.close()

    run(main)


def test_a_body_that_nobody_reads_and_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(module, "LINGER", 0)
        wire, connection = joined(echo_unless_404)
        connection.data_received(b"POST /404 HTTP/1.1\r\nContent-Length: 999999\r\n\r\nx")
        await settle(connection)
        while not wire.closed:
            await asyncio.sleep(0)
        assert wire.written.endswith(b"no")

    run(main)


def test_pipelined_requests_are_held_back_up_to_a_point() -> None:
    async def main() -> None:
        release = asyncio.Event()
        served = 0

        async def handler(request: Request) -> Sendable:
            nonlocal served
            await release.wait()
            served += 1
            return Reply(HEAD, b"")

        wire, connection = joined(handler)
        one = encoded("GET", "/" + "n" * 1000)
        connection.data_received(one * 400)
        await settle(connection)
        assert wire.paused
        assert served == 0
        release.set()
        while served < 400:
            await asyncio.sleep(0)
        await settle(connection)
        assert not wire.paused
        wire.close()

    run(main)


def test_who_is_over_time_is_closed() -> None:
    async def main() -> None:
        now = asyncio.get_running_loop().time()
        idle, idle_connection = joined(echo)
        slow, slow_connection = joined(echo)
        slow_connection.data_received(b"GET / HT")
        slow_connection.data_received(b"TP/1.1\r\n")
        for wire, connection, limit in (
            (slow, slow_connection, module.HEAD_TIME),
            (idle, idle_connection, module.IDLE_TIME),
        ):
            connection.sweep(now + limit - 1)
            assert not wire.closed
            connection.sweep(now + limit + 10)
            assert wire.closed

        async def forever(request: Request) -> Sendable:
            await asyncio.Event().wait()
            raise AssertionError

        busy, connection = joined(forever)
        connection.data_received(encoded("GET", "/"))
        await settle(connection)
        connection.sweep(now + 1e6)
        assert not busy.closed
        busy.close()

    run(main)


def test_a_handler_that_fails_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def broken(request: Request) -> Sendable:
            raise RuntimeError("a defect")

        wire = await sent(broken, [encoded("GET", "/") * 2])
        assert (wire.written, wire.closed) == (b"", True)

    run(main)
    assert len(caplog.messages) == 1
