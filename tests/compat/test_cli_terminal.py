"""Terminals: -it through a pseudo-terminal, resize, detach keys."""

from __future__ import annotations

import itertools

import pytest
from tests.support.cli import Cli
from tests.support.terminal import Terminal
from tests.support.wait import eventually

DETACH = b"\x10\x11"  # ctrl-p ctrl-q


def test_interactive_shell(each_cli: Cli) -> None:
    argv = each_cli.argv("run", "--rm", "-it", "busybox", "sh")
    with Terminal(argv, each_cli.env()) as terminal:
        terminal.expect(rb"/ # ")
        terminal.send(b"tty; echo $((6*7)) >&2\n")
        terminal.expect(rb"/dev/pts/0\r\n")
        terminal.expect(rb"42\r\n")
        terminal.send(b"exit 5\n")
        assert terminal.wait() == 5


def test_control_c(cli: Cli) -> None:
    argv = cli.argv("run", "--rm", "-it", "busybox", "sh")
    with Terminal(argv, cli.env()) as terminal:
        terminal.expect(rb"/ # ")
        terminal.send(b"sleep 600; echo after\n")
        terminal.expect(rb"after")
        eventually(lambda: "sleep" in cli("top", cli("ps", "-q").ok(), "-eo", "pid,args").out)
        terminal.send(b"\x03")
        terminal.expect(rb"/ # ")
        terminal.send(b"\x04")
        assert terminal.wait() in (0, 130)


def resize_until(terminal: Terminal, columns: int, seen: bytes) -> None:
    """Resize to 44 or 45 rows until the process sees it: a newer client has sent the first size
    before it listens for changes."""
    rows = itertools.cycle((44, 45))

    def resized() -> bool:
        terminal.resize(next(rows), columns)
        terminal.expect(seen, timeout=1)
        return True

    eventually(resized)


def test_size_at_start_and_resize(each_cli: Cli) -> None:
    program = "trap 'stty size' WINCH; echo ready; while :; do stty size; sleep 0.1; done"
    argv = each_cli.argv("run", "--rm", "-it", "--name", "sized", "busybox", "sh", "-c", program)
    with Terminal(argv, each_cli.env(), rows=33, columns=101) as terminal:
        terminal.expect(rb"33 101\r\n")
        resize_until(terminal, 99, rb"4[45] 99\r\n")
        each_cli("kill", "sized").ok()
        assert terminal.wait() == 137


def test_detach_and_attach_again(each_cli: Cli) -> None:
    argv = each_cli.argv("run", "-it", "--name", "detached", "busybox", "sh")
    with Terminal(argv, each_cli.env()) as terminal:
        terminal.expect(rb"/ # ")
        terminal.send(b"X=kept\n")
        terminal.expect(rb"/ # ")
        terminal.send(DETACH)
        assert terminal.wait() == 0
    assert each_cli.field("detached", "{{.State.Running}}") == "true"
    with Terminal(each_cli.argv("attach", "detached"), each_cli.env()) as terminal:
        terminal.send(b"echo is-$X\n")
        terminal.expect(rb"is-kept\r\n")
        terminal.send(b"exit 9\n")
        assert terminal.wait() == 9


def test_detach_keys_of_choice(cli: Cli) -> None:
    argv = cli.argv(
        "run", "-it", "--detach-keys", "ctrl-a,x", "--name", "detached", "busybox", "sh"
    )
    with Terminal(argv, cli.env()) as terminal:
        terminal.expect(rb"/ # ")
        terminal.send(DETACH)  # not the keys now
        terminal.send(b"\x01x")
        assert terminal.wait() == 0
    assert cli.field("detached", "{{.State.Running}}") == "true"


def test_half_a_detach_sequence_is_input(cli: Cli) -> None:
    argv = cli.argv("run", "--rm", "-it", "--detach-keys", "a,b", "busybox", "sh")
    with Terminal(argv, cli.env()) as terminal:
        terminal.expect(rb"/ # ")
        terminal.send(b"echo ac\n")
        terminal.expect(rb"\nac\r\n")
        terminal.send(b"exit\n")
        assert terminal.wait() == 0


def test_bad_detach_keys(cli: Cli) -> None:
    done = cli("run", "-t", "--detach-keys", "ctrl-^^", "busybox", "true")
    assert done.code in (1, 125)


def test_exec_terminal(each_cli: Cli) -> None:
    created = each_cli("run", "-d", "busybox", "sleep", "600").ok()
    argv = each_cli.argv("exec", "-it", created, "sh")
    with Terminal(argv, each_cli.env(), rows=20, columns=60) as terminal:
        terminal.expect(rb"/ # ")
        program = b"until [ \"$(stty size)\" = '20 60' ]; do sleep 0.1; done; stty size\n"
        terminal.send(program)
        terminal.expect(rb"\n20 60\r\n")
        terminal.send(b"until stty size | grep ' 132'; do sleep 0.1; done\n")
        resize_until(terminal, 132, rb"\n4[45] 132\r\n")
        terminal.send(b"exit 4\n")
        assert terminal.wait() == 4


def test_exec_detach(cli: Cli) -> None:
    created = cli("run", "-d", "busybox", "sleep", "600").ok()
    with Terminal(cli.argv("exec", "-it", created, "sh"), cli.env()) as terminal:
        terminal.expect(rb"/ # ")
        terminal.send(DETACH)
        assert terminal.wait() in (0, 1)  # the client says "read escape sequence" or nothing
    assert cli("top", created, "-eo", "pid,args").ok().splitlines()[-1].split()[1] == "sh"


def test_terminal_without_stdin(cli: Cli) -> None:
    with Terminal(cli.argv("run", "--rm", "-t", "busybox", "tty"), cli.env()) as terminal:
        assert terminal.wait() == 0
    # The client does not make its own terminal raw without -i, so \n is translated twice.
    assert terminal.seen.replace(b"\r", b"") == b"/dev/pts/0\n"


@pytest.mark.parametrize("words", [("run", "--rm", "-it"), ("run", "--rm", "-ti")])
def test_input_device_is_not_a_tty(cli: Cli, words: tuple[str, ...]) -> None:
    cli(*words, "busybox", "true").failed(1, "the input device is not a TTY")


def test_start_attached_with_terminal(cli: Cli) -> None:
    created = cli("create", "-it", "busybox", "sh").ok()
    with Terminal(cli.argv("start", "-ai", created), cli.env()) as terminal:
        terminal.expect(rb"/ # ")
        terminal.send(b"exit 6\n")
        assert terminal.wait() == 6


def test_console_device(cli: Cli) -> None:
    argv = cli.argv("run", "--rm", "-t", "busybox", "sh", "-c", "echo x > /dev/console")
    with Terminal(argv, cli.env()) as terminal:
        assert terminal.wait() == 0
    assert terminal.seen.replace(b"\r", b"") == b"x\n"
