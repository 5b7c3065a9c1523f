"""Handshake, hooks: parts that need no rights."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from gantry.oci.runtime_spec import Hook
from gantry.runtime import handshake, hooks
from gantry.runtime.errors import RuntimeFailure
from gantry.runtime.init import no_imports


def test_messages_and_an_fd() -> None:
    ours, theirs = handshake.pair()
    read, write = os.pipe()
    theirs.send(handshake.CONSOLE, b"body", read)
    os.close(read)
    kind, body, fd = ours.receive()
    assert (kind, body) == (handshake.CONSOLE, b"body")
    assert fd is not None
    os.write(write, b"x")
    assert os.read(fd, 1) == b"x"
    assert not os.get_inheritable(fd)
    os.close(fd)
    os.close(write)
    theirs.close()
    assert ours.receive() == (b"", b"", None)
    ours.close()


def test_last_words_are_heard_though_ours_were_not() -> None:
    ours, theirs = handshake.pair()
    ours.send(handshake.GO)
    theirs.fail("the reason", 127)
    theirs.close()
    kind, body, _ = ours.receive()
    assert (kind, body[0], body[1:]) == (handshake.FAILED, 127, b"the reason")
    ours.send(handshake.GO)
    assert ours.receive()[0] == b""
    ours.close()


def test_hooks_get_the_state_and_their_environment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hook = Hook(path="/bin/sh", args=("sh", "-c", f'cat > {out}; echo "$A" >> {out}'), env=("A=b",))
    hooks.run("prestart", [hook], b'{"id":"x"}\n')
    assert out.read_text() == '{"id":"x"}\nb\n'


def test_hooks_that_fail() -> None:
    shell = "/bin/sh"
    with pytest.raises(
        RuntimeFailure, match=r"prestart hook #1: exit status 3, stdout: , stderr: sorry"
    ):
        hooks.run(
            "prestart",
            [
                Hook(path=shell, args=("sh", "-c", "true")),
                Hook(path=shell, args=("sh", "-c", "echo sorry >&2; exit 3")),
            ],
            b"{}",
        )
    with pytest.raises(RuntimeFailure, match="signal: killed"):
        hooks.run("prestart", [Hook(path=shell, args=("sh", "-c", "kill -9 $$"))], b"{}")
    with pytest.raises(RuntimeFailure, match=r"/no/such: no such file|no such file.*: /no/such"):
        hooks.run("prestart", [Hook(path="/no/such")], b"{}")


def test_hooks_have_a_timeout() -> None:
    begin = time.monotonic()
    with pytest.raises(RuntimeFailure, match="timeout"):
        hooks.run(
            "prestart",
            [Hook(path="/bin/sh", args=("sh", "-c", "exec sleep 100"), timeout=1)],
            b"{}",
        )
    assert time.monotonic() - begin < 10


def test_no_import_after_the_fork() -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.modules.pop("this", None)
            try:
                with no_imports():
                    __import__("this")
            except RuntimeFailure:
                __import__("this")
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
