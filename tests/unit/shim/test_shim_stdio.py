"""Streams of a process: clients, slow ones too, never stop it before they must."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gantry.model.task import StdioSpec
from gantry.shim import attachment as attachment_module
from gantry.shim import pipes
from gantry.shim.logfile import Log
from gantry.shim.loop import Loop
from gantry.shim.spill import Spill
from gantry.shim.stdio import ProcessIO


class Written(Log):
    def __init__(self) -> None:
        self.text = {1: b"", 2: b""}
        self.finished = False

    def write(self, stream: int, data: bytes) -> None:
        self.text[stream] += data

    def finish(self) -> None:
        self.finished = True


class World:
    """A process of which we hold all ends."""

    def __init__(self, folder: Path, spec: StdioSpec) -> None:
        self.loop = Loop(lambda _pid, _status: None)
        self.log = Written()
        self.ended = 0
        self.child, ours = pipes.make(spec)
        self.io = ProcessIO(
            self.loop, spec, ours, self.log, spill_folder=str(folder), on_end=self._end
        )

    def _end(self) -> None:
        self.ended += 1

    def attach(self, *wants: bool) -> socket.socket:
        ours, theirs = socket.socketpair()
        stdin, stdout, stderr = wants
        self.io.attach(ours, (stdin, stdout, stderr))
        theirs.setblocking(False)
        return theirs

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.turn(0)

    def until(self, done: Callable[[], bool]) -> None:
        for _ in range(100_000):
            if done():
                return
            self.loop.turn(0.01)
        raise AssertionError("it does not come")

    def close(self) -> None:
        self.io.close()
        for fd in self.child.fds():
            os.close(fd)
        self.loop.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[StdioSpec], World]]:
    before = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    worlds: list[World] = []

    def made(spec: StdioSpec) -> World:
        worlds.append(World(tmp_path, spec))
        return worlds[-1]

    yield made
    for world in worlds:
        world.close()
    signal.signal(signal.SIGCHLD, before)


def take(sock: socket.socket, size: int = 1 << 20) -> bytes:
    try:
        return sock.recv(size)
    except BlockingIOError:
        return b""


def frame(stream: int, data: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


def unframe(data: bytes) -> bytes:
    text = b""
    while data:
        size = int.from_bytes(data[4:8], "big")
        text += data[8 : 8 + size]
        data = data[8 + size :]
    return text


def feed(world: World, data: bytes, *, patience: int = 3) -> int:
    """Write to stdout as a process does, as long as it is read; how much went through."""
    os.set_blocking(world.child.stdout, False)
    sent = idle = 0
    while sent < len(data) and idle < patience:
        try:
            sent += os.write(world.child.stdout, data[sent : sent + 65536])
            idle = 0
        except BlockingIOError:
            idle += 1
        world.turn(2)
    return sent


def test_output_goes_to_log_and_clients(make: Callable[[StdioSpec], World]) -> None:
    world = make(StdioSpec())
    both, out = world.attach(False, True, True), world.attach(False, True, False)
    os.write(world.child.stdout, b"hello\n")
    world.turn()
    os.write(world.child.stderr, b"oops\n")
    world.turn()
    assert world.log.text == {1: b"hello\n", 2: b"oops\n"}
    assert take(both) == frame(1, b"hello\n") + frame(2, b"oops\n")
    assert take(out) == frame(1, b"hello\n")


def test_the_end_comes_once_after_everything(make: Callable[[StdioSpec], World]) -> None:
    world = make(StdioSpec())
    client = world.attach(False, True, True)
    os.write(world.child.stdout, b"last")
    for fd in world.child.fds():
        os.close(fd)
    world.child = pipes.ChildFds()
    world.turn(3)
    assert world.ended == 1
    assert world.log.finished
    assert take(client) == frame(1, b"last")
    assert client.recv(1) == b""
    late = world.attach(False, True, True)
    assert late.recv(1) == b""


def test_a_slow_client_loses_nothing_and_stops_nobody(
    make: Callable[[StdioSpec], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment_module, "BUFFER", 100_000)
    world = make(StdioSpec())
    client = world.attach(False, True, True)
    data = os.urandom(3_000_000)
    assert feed(world, data) == len(data), "the process had to wait"
    assert world.log.text[1] == data
    os.close(world.child.stdout)
    os.close(world.child.stderr)
    world.child.stdout = world.child.stderr = -1
    got = b""
    while True:
        world.turn(2)
        try:
            piece = client.recv(1 << 16)
        except BlockingIOError:
            continue
        if not piece:
            break
        got += piece
    assert unframe(got) == data


def test_a_full_disk_holds_the_process_and_loses_nothing(
    make: Callable[[StdioSpec], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Spill, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(attachment_module, "BUFFER", 100_000)
    monkeypatch.setattr(Spill, "write", full)
    world = make(StdioSpec(terminal=False))
    client = world.attach(False, True, False)
    data = os.urandom(3_000_000)
    sent, got = 0, b""
    while len(got) < len(data) and sent < len(data):
        passed = feed(world, data[sent:])
        assert passed < 1_000_000, "it did not wait"
        sent += passed
        while piece := take(client):
            got += piece
            world.turn(2)
    world.turn(5)
    while piece := take(client):
        got += piece
        world.turn(2)
    assert unframe(got) == data


def test_a_client_without_end_holds_the_process_at_last(
    make: Callable[[StdioSpec], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment_module, "BUFFER", 100_000)
    monkeypatch.setattr(attachment_module, "SPILL", 200_000)
    world = make(StdioSpec())
    client = world.attach(False, True, True)
    sent = feed(world, bytes(5_000_000))
    assert sent < 5_000_000
    while take(client):
        world.turn(5)
    assert feed(world, bytes(100_000)) > 0, "it goes on when the client has read"


def test_a_client_that_takes_nothing_is_cut_off(
    make: Callable[[StdioSpec], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment_module, "BUFFER", 100_000)
    monkeypatch.setattr(attachment_module, "SPILL", 100_000)
    monkeypatch.setattr(attachment_module, "STALLED", 0.0)
    world = make(StdioSpec())
    client = world.attach(False, True, True)
    assert feed(world, bytes(5_000_000)) < 5_000_000
    world.until(lambda: world.io.idle)
    client.close()
    assert feed(world, bytes(1_000_000)) == 1_000_000


def test_a_client_that_goes_away_is_forgotten(make: Callable[[StdioSpec], World]) -> None:
    world = make(StdioSpec())
    gone, half = world.attach(False, True, True), world.attach(False, True, True)
    gone.close()
    half.shutdown(socket.SHUT_WR)
    world.turn(4)
    os.write(world.child.stdout, b"still here")
    world.turn()
    assert take(half) == frame(1, b"still here")
    half.close()
    world.turn(2)
    assert world.io.idle


def test_stdin_is_passed_on_as_the_process_reads(make: Callable[[StdioSpec], World]) -> None:
    world = make(StdioSpec(open_stdin=True, stdin_once=True))
    client = world.attach(True, True, True)
    data = os.urandom(1_000_000)
    sent, got = 0, b""
    os.set_blocking(world.child.stdin, False)
    while len(got) < len(data):
        try:
            sent += client.send(data[sent:])
        except BlockingIOError:
            pass
        world.turn(2)
        try:
            got += os.read(world.child.stdin, 30_000)
        except BlockingIOError:
            pass
    assert got == data
    client.shutdown(socket.SHUT_WR)
    world.turn(2)
    assert os.read(world.child.stdin, 1) == b""


def test_stdin_stays_open_unless_it_is_once(make: Callable[[StdioSpec], World]) -> None:
    world = make(StdioSpec(open_stdin=True))
    first = world.attach(True, True, True)
    first.send(b"a")
    world.turn(2)
    first.close()
    world.turn(2)
    second = world.attach(True, True, True)
    second.send(b"b")
    world.turn(2)
    assert os.read(world.child.stdin, 10) == b"ab"


def test_input_nobody_asked_for_is_dropped(make: Callable[[StdioSpec], World]) -> None:
    world = make(StdioSpec(open_stdin=True))
    blind = world.attach(False, True, True)
    blind.send(b"not for you")
    world.turn(2)
    os.set_blocking(world.child.stdin, False)
    with pytest.raises(BlockingIOError):
        os.read(world.child.stdin, 10)


def test_a_process_that_closed_its_stdin_does_not_disturb(
    make: Callable[[StdioSpec], World],
) -> None:
    world = make(StdioSpec(open_stdin=True))
    client = world.attach(True, True, True)
    os.close(world.child.stdin)
    world.child.stdin = -1
    for _ in range(3):
        client.send(b"x" * 1000)
        world.turn(2)
    os.write(world.child.stdout, b"alive")
    world.turn(2)
    assert take(client) == frame(1, b"alive")


def test_timers_and_cancelled_ones(make: Callable[[StdioSpec], World]) -> None:
    world = make(StdioSpec())
    seen: list[str] = []
    world.loop.later(0.001, lambda: seen.append("one"))
    world.loop.cancel(world.loop.later(0.0, lambda: seen.append("never")))
    world.until(lambda: bool(seen))
    assert seen == ["one"]
