"""Frames: cut anywhere, fds in order, nonsense refused."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.ipc.aio import Disconnected, Requester
from gantry.ipc.channel import Channel, peer_credentials
from gantry.ipc.frames import Decoder, Message, ProtocolError, encode

heads = st.dictionaries(st.text(max_size=8), st.one_of(st.text(), st.integers(), st.none()))


@given(st.lists(st.tuples(heads, st.binary(max_size=99))), st.integers(1, 64))
def test_frames_survive_any_cut(messages: list[tuple[dict[str, object], bytes]], cut: int) -> None:
    wire = b"".join(encode(head, body) for head, body in messages)
    decoder = Decoder()
    got = [
        message
        for start in range(0, len(wire), cut)
        for message in decoder.feed(wire[start : start + cut])
    ]
    assert [(dict(message.head), message.body) for message in got] == messages


def test_fds_go_to_the_frames_that_announced_them() -> None:
    decoder = Decoder()
    wire = encode({"n": 1}) + encode({"n": 2}, b"", 2) + encode({"n": 3}, b"", 1)
    got = decoder.feed(wire, [10, 11, 12])
    assert [message.fds for message in got] == [(), (10, 11), (12,)]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 10,
        encode({}, b"", 1),  # announces an fd that does not come
        encode({"a": 1}).replace(b'{"a":1}', b"[1,2,3]"),
        encode({"a": 1}).replace(b'{"a":1}', b"nothing"),
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(data)


def test_fields_are_checked() -> None:
    message = Message({"text": "a", "number": 1})
    assert message.text("text") == "a"
    assert message.text("missing", "x") == "x"
    assert message.number("number") == 1
    assert not message.flag("missing")
    for wrong in (
        lambda: message.text("number"),
        lambda: message.number("text"),
        lambda: message.seconds("missing"),
    ):
        with pytest.raises(ProtocolError):
            wrong()


def test_channel_passes_fds_close_on_exec_and_ends() -> None:
    left, right = socket.socketpair()
    sender, receiver = Channel(left), Channel(right)
    reader, writer = os.pipe()
    sender.send({"op": "take"}, b"x" * 1000, (writer,))
    os.close(writer)
    message = receiver.receive()
    assert message is not None
    assert message.body == b"x" * 1000
    assert not os.get_inheritable(message.fds[0])
    os.write(message.fds[0], b"through")
    message.close()
    assert os.read(reader, 100) == b"through"
    assert os.read(reader, 100) == b"", "a copy of the passed fd is still open somewhere"
    os.close(reader)
    sender.close()
    assert receiver.receive() is None
    receiver.close()


def test_channel_queues_what_the_socket_does_not_take() -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    sender, receiver = Channel(left), Channel(right)
    reader, writer = os.pipe()
    sender.queue({"n": 0}, bytes(4 << 20))
    sender.queue({"n": 1}, b"", (writer,))
    assert sender.pending
    right.setblocking(False)
    got: list[Message] = []
    while len(got) < 2:
        sender.flush()
        got += receiver.receive_ready()
    assert not sender.pending
    assert [message.head["n"] for message in got] == [0, 1]
    assert os.fstat(got[1].fds[0]).st_ino == os.fstat(reader).st_ino
    got[1].close()
    os.close(reader)
    sender.close()
    receiver.close()


def test_peer_credentials_are_ours() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert peer_credentials(left) == (os.getpid(), os.geteuid(), os.getegid())


def test_requests_get_their_own_answers_and_events_are_apart() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        peer = Channel(theirs)
        events: list[object] = []
        closed = asyncio.Event()
        requester = Requester(
            ours, on_event=lambda m: events.append(m.head["event"]), on_close=closed.set
        )
        first = asyncio.gather(requester.request("one", n=1), requester.request("two", n=2))
        await asyncio.sleep(0)
        asked = peer.receive_ready()
        peer.queue({"event": "exit"})
        for message in reversed(asked):
            peer.queue({"id": message.head["id"], "was": message.text("op")})
        one, two = await first
        assert (one.text("was"), two.text("was")) == ("one", "two")
        assert events == ["exit"]

        unanswered = asyncio.gather(requester.request("three"), return_exceptions=True)
        await asyncio.sleep(0)
        peer.close()
        (error,) = await unanswered
        assert isinstance(error, Disconnected)
        await closed.wait()
        with pytest.raises(Disconnected):
            await requester.request("four")

    asyncio.run(main())
