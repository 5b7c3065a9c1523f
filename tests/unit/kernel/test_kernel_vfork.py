"""A child in its parent's memory: it returns before it executes, so Python stays whole."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pty
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gantry.kernel import syscalls, vfork
from gantry.kernel.vfork import Program

pytestmark = pytest.mark.skipif(not vfork.available, reason="needs glibc, and Python before 3.14")


def run(prepare: Callable[[], Program | int], failed: Callable[[int], int] = int) -> int:
    """The exit code of the child."""
    pid = vfork.vfork(prepare, failed)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def shell(script: bytes) -> Program:
    return Program(b"/bin/sh", [b"sh", b"-c", script], [b"WORD=three"])


def test_it_executes_with_arguments_and_environment() -> None:
    assert run(lambda: shell(b'exit "$(( ${#WORD} + 2 ))"')) == 7


def test_a_code_ends_it() -> None:
    assert run(lambda: 9) == 9


def test_the_errno_of_a_failed_execve_is_told() -> None:
    assert run(lambda: Program(b"/etc/passwd", [b"x"], [])) == errno.EACCES
    assert run(lambda: Program(b"/nonexistent", [b"x"], []), lambda number: number + 100) == 102


def test_memory_is_shared_and_all_else_its_own() -> None:
    seen: list[int] = []
    before = os.getcwd(), os.umask(0o022), signal.getsignal(signal.SIGUSR1)
    kept = os.open("/dev/null", os.O_RDONLY)

    def prepare() -> int:
        seen.append(os.getpid())
        os.chdir("/")
        os.umask(0)
        os.close(kept)
        return 0

    pid = vfork.vfork(prepare, int)
    os.waitpid(pid, 0)
    assert seen == [pid]
    assert (os.getcwd(), os.umask(before[1]), signal.getsignal(signal.SIGUSR1)) == (
        before[0],
        0o022,
        before[2],
    )
    os.close(kept)


def test_python_goes_on_where_it_was() -> None:
    """The interpreter's own books (frames, recursion, exceptions) survive many children."""

    def deep(left: int) -> int:
        return 0 if left == 0 else 1 + deep(left - 1)

    def prepare() -> Program:
        try:
            raise ValueError(deep(100))
        except ValueError:
            return shell(b"exit 3")

    for _ in range(100):
        try:
            raise KeyError("outside")
        except KeyError:
            assert run(prepare) == 3
            assert isinstance(sys.exc_info()[1], KeyError)
        assert sys.exc_info()[1] is None
    assert deep(sys.getrecursionlimit() // 2) == sys.getrecursionlimit() // 2


def test_nobody_may_look_into_it() -> None:
    pid = os.fork()  # undumpable for good: not in the process of the tests
    if pid == 0:
        code = 1
        try:
            syscalls.prctl(4, 1)  # PR_SET_DUMPABLE
            child = vfork.vfork(lambda: syscalls.prctl(3), int)  # PR_GET_DUMPABLE
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_too_deep_a_recursion_harms_nobody() -> None:
    def endless() -> int:
        return endless()

    def prepare() -> int:
        try:
            return endless()
        except RecursionError:
            return 5

    assert run(prepare) == 5


def test_twice_the_second_executes_and_leads_a_session() -> None:
    seen: list[int] = []

    def prepare() -> Program:
        seen.append(os.getpid())
        return shell(b'read -r _ _ _ parent _ session _ < /proc/$$/stat; '
                     b'[ $session = $$ ] && [ $parent = "$PARENT" ] && exit 3')  # fmt: skip

    def with_parent() -> Program:
        program = prepare()
        return program._replace(env=[b"PARENT=%d" % parent])

    parent = os.getpid()
    pid = vfork.prepared_fork(with_parent, int)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert seen
    assert seen != [pid]
    with pytest.raises(ChildProcessError):
        os.waitpid(seen[0], 0)  # reaped


def test_twice_without_a_program() -> None:
    assert vfork.prepared_fork(lambda: 5, int) == 0


def test_twice_the_errno_of_a_failed_execve_is_told() -> None:
    pid = vfork.prepared_fork(lambda: Program(b"/nonexistent", [b"x"], []), lambda number: number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.ENOENT


def test_a_child_that_is_killed_halfway_takes_its_parent_with_it() -> None:
    def killed() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    pid = os.fork()
    if pid == 0:
        os.close(2)
        try:
            vfork.vfork(killed, int)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == vfork.KILLED


@contextmanager
def leased(path: Path) -> Iterator[bytes]:
    """A program that takes as long to execute as the context lasts (fcntl(2), F_SETLEASE)."""
    path.write_bytes(Path("/bin/sh").resolve().read_bytes())
    path.chmod(0o700)
    before = signal.signal(signal.SIGIO, lambda *_: None)  # the kernel says: give it back
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield os.fsencode(path)
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def test_a_prepared_fork_does_not_wait_for_a_program_that_never_starts(tmp_path: Path) -> None:
    """Who is in the container can make it so: nobody outside may hang with it."""
    with leased(tmp_path / "program") as path:
        pid = vfork.prepared_fork(lambda: Program(path, [b"sh", b"-c", b"exit 4"], []), int)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_SYS_PTRACE")
def test_what_a_container_sees_of_a_prepared_fork_has_memory_of_its_own(tmp_path: Path) -> None:
    """A container with CAP_SYS_PTRACE may write to the memory of what is exec'ed into it."""
    secret = ctypes.create_string_buffer(b"ours")
    with leased(tmp_path / "program") as path:
        pid = vfork.prepared_fork(lambda: Program(path, [b"sh"], []), int)
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(ctypes.addressof(secret))
            assert memory.read(4) == b"ours"
            memory.seek(ctypes.addressof(secret))
            memory.write(b"evil")
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert secret.value == b"ours"


def test_a_prepared_fork_can_have_a_terminal() -> None:
    master, slave = pty.openpty()

    def prepare() -> Program:
        for fd in (0, 1, 2):
            os.dup2(slave, fd)
        return shell(b"echo talking to its terminal > /dev/tty; exit 6")

    pid = vfork.prepared_fork(prepare, int, terminal=True)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    assert os.read(master, 100) == b"talking to its terminal\r\n"
    os.close(master)
    os.close(slave)
