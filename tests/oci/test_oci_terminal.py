"""Terminals: in the foreground, and by console socket."""

from __future__ import annotations

import array
import os
import pty
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime, wait_for


def read_until(fd: int, wanted: bytes, *, times: int = 1, seconds: float = 20) -> bytes:
    data = b""
    deadline = time.monotonic() + seconds
    while data.count(wanted) < times and time.monotonic() < deadline:
        try:
            chunk = os.read(fd, 4096)
        except OSError:
            break
        if not chunk:
            break
        data += chunk
    assert data.count(wanted) >= times, data
    return data


class ConsoleSocket:
    """Where a runtime sends a terminal's master."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen()
        self._socket.settimeout(10)

    def receive(self) -> int:
        conn, _ = self._socket.accept()
        conn.settimeout(10)
        with conn:
            _, ancillary, _, _ = conn.recvmsg(4096, socket.CMSG_SPACE(4))
        return array.array("i", ancillary[0][2])[0]

    def close(self) -> None:
        self._socket.close()
        os.unlink(self.path)


@pytest.fixture
def console() -> Iterator[ConsoleSocket]:
    made = ConsoleSocket(f"/tmp/gantry-console-{os.getpid()}.sock")
    yield made
    made.close()


def test_console_socket(runtime: Runtime, bundle: Bundle, console: ConsoleSocket) -> None:
    bundle.part("process")["terminal"] = True
    bundle.part("process")["consoleSize"] = {"height": 33, "width": 101}
    bundle.sh(
        "tty; stty size; test -t 2 && echo yes; stat -c %t:%T /dev/console; echo all; cat; exit 0"
    )
    name = runtime.create(bundle, "--console-socket", console.path)
    master = console.receive()
    try:
        assert runtime("start", name).code == 0
        text = read_until(master, b"all\r\n")
        assert b"/dev/pts/0" in text
        if runtime.name != "runc":  # 1.1 does not set it in a created container's tty
            assert b"33 101" in text
        os.write(master, b"typed\n")
        read_until(master, b"typed", times=2)  # its echo, and what cat says
        os.write(master, b"\x03")  # interrupts the shell's whole group
        runtime.wait_status(name, "stopped")
    finally:
        os.close(master)


def test_dev_console_is_the_terminal(
    runtime: Runtime, bundle: Bundle, console: ConsoleSocket
) -> None:
    bundle.part("process")["terminal"] = True
    bundle.sh("echo to-console > /dev/console; echo to-tty > /dev/tty; cat")
    runtime.detached(bundle, "--console-socket", console.path)
    master = console.receive()
    try:
        read_until(master, b"to-tty")
    finally:
        os.close(master)


def test_exec_with_a_terminal(runtime: Runtime, bundle: Bundle, console: ConsoleSocket) -> None:
    name = runtime.detached(bundle.args("sleep", "1000"))
    result = runtime(
        "exec", "-t", "-d", "--console-socket", console.path, name, "sh", "-c", "tty; sleep 1"
    )
    assert result.code == 0, result.err
    master = console.receive()
    try:
        read_until(master, b"/dev/pts/")
    finally:
        os.close(master)


def test_in_the_foreground(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["terminal"] = True
    bundle.sh("tty; read line; echo got $line; exit 5").write()
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*runtime.command, "--root", str(runtime.root), "run", "-b", str(bundle.folder),
         runtime.new_id()],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        read_until(master, b"/dev/pts/0")
        os.write(master, b"hello\r")
        read_until(master, b"got hello")
        assert process.wait(10) == 5
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_detached_needs_a_socket(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["terminal"] = True
    result = runtime.create_process(bundle, runtime.new_id())
    assert result.code == 1
    assert "cannot allocate tty if runc will detach without setting console socket" in result.err


def test_a_socket_needs_a_terminal(
    runtime: Runtime, bundle: Bundle, console: ConsoleSocket
) -> None:
    result = runtime.create_process(bundle, runtime.new_id(), "--console-socket", console.path)
    assert result.code == 1
    assert "cannot use console socket if runc will not detach or allocate tty" in result.err


def test_a_dead_socket_leaves_nothing(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.part("process")["terminal"] = True
    name = runtime.new_id()
    result = runtime.create_process(bundle, name, "--console-socket", "/tmp/gantry-no-such.sock")
    assert result.code == 1
    wait_for(lambda: not (runtime.root / name).exists())
