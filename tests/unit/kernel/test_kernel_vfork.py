"""A child in its parent's memory: it returns before it executes, so Python stays whole."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable

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
    pid = vfork.vfork_twice(with_parent, int)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert seen
    assert seen != [pid]
    with pytest.raises(ChildProcessError):
        os.waitpid(seen[0], 0)  # reaped


def test_twice_without_a_program() -> None:
    assert vfork.vfork_twice(lambda: 5, int) == 0


def test_twice_the_errno_of_a_failed_execve_is_told() -> None:
    pid = vfork.vfork_twice(lambda: Program(b"/nonexistent", [b"x"], []), lambda number: number)
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
