"""vfork(2) for Python: a child that runs Python in its parent's memory until it executes.

fork(2) copies the page tables, and then each page that Python as much as looks at, in both
processes: for a child that does a few hundred system calls and executes a program, that is
most of its cost. This child shares the memory instead (CLONE_VM), while its parent sleeps
until the child has executed or ended (CLONE_VFORK). All else is the child's own: its
descriptors, signal handlers, credentials, namespaces, working directory. What it changes in
Python's objects, its parent finds changed.

The one difficulty: execve(2) leaves no moment at which the child could return from the
Python functions that led to it, and the interpreter that the parent goes on with would
still be inside of them. So the child returns first, and executes afterwards, when no Python
runs any more. In C one would write `prepare(); execve(path, argv, env); _exit(failed());`.
Here four contexts of makecontext(3), linked with each other, say the same.

For the same reason a child that is killed halfway takes its parent with it, and whoever may
write to the child's memory writes to the parent's. So either nobody can see the child (it is
the first process of its pid namespace, say), or it ends with a fork (`prepared_fork`): what a
container sees then has memory of its own.

Source: clone(2), vfork(2), makecontext(3). Needs glibc; Python 3.14 and later measure how
deep the C stack is and would not run on another one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_void_p
from typing import Final, NamedTuple

from gantry.kernel import contexts, syscalls
from gantry.kernel.contexts import call, context

_SIGCHLD: Final = 17
_SHARED: Final = 0x00000100 | 0x00004000 | _SIGCHLD  # CLONE_VM, CLONE_VFORK
_TIOCSCTTY: Final = 0x540E
_CLONE_PIDFD: Final = 0x00001000
_CLONE_PARENT: Final = 0x00008000
_CLONE_PARENT_SETTID: Final = 0x00100000
_PROT_NONE: Final = 0
_PROT_READ_WRITE: Final = 3
_MAP_STACK: Final = 0x20022  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK
_PAGE: Final = 64 << 10  # the largest that Linux has
_PLAIN: Final = 128 << 10
"""Bytes of stack for what runs C only, or next to nothing."""
_DEEP: Final = 1 << 20


KILLED: Final = 137
"""The exit code of a caller whose child was killed while it prepared."""


class Program(NamedTuple):
    """What execve(2) is given."""

    path: bytes
    argv: list[bytes]
    env: list[bytes]


# PyDLL: the interpreter's lock stays held, whichever of the two processes runs.
_libc: Final = ctypes.PyDLL(None, use_errno=True)
_Callback: Final = ctypes.PYFUNCTYPE(None)
_BOUND: Final = contexts.available and all(
    hasattr(_libc, name) for name in ("clone", "__errno_location")
)
available: Final = _BOUND and sys.version_info < (3, 14)
"""Whether `vfork` can be used here."""

if _BOUND:
    _errno = getattr(_libc, "__errno_location")
    _errno.restype = POINTER(c_int)
    _libc.clone.argtypes = [c_void_p, c_void_p, c_int, c_void_p, c_void_p]
    _libc.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
    _libc.mmap.restype = c_void_p
    _libc.munmap.argtypes = [c_void_p, c_size_t]
    _libc.mprotect.argtypes = [c_void_p, c_size_t, c_int]


def vfork(
    prepare: Callable[[], Program | int], failed: Callable[[int], int], *, flags: int = 0
) -> int:
    """Run `prepare` in a child, then execute what it returns; the child's pid.

    prepare: returns the program, or an exit code to end with. It must not raise, nor
    change objects that the parent goes on with. failed: told the errno when execve(2) has
    failed; what the child then exits with. flags: CLONE_NEW* of clone(2).

    To be called by the only thread, of a process that may be lost: if somebody kills the
    child before it has executed, the caller ends too, with `KILLED`. Returns when the child
    has executed or ended. Whatever namespace or user the child becomes meanwhile, nobody but
    the host's root can look into it: the memory that it shares is made undumpable first.
    Raises OSError.
    """
    return _start(prepare, failed, flags, twice=False)


def vfork_sibling(
    prepare: Callable[[], Program | int], failed: Callable[[int], int], *, flags: int = 0
) -> tuple[int, int]:
    """`vfork` whose child is not the caller's but its parent's; its pid and a pidfd.

    The parent may have reaped it already: only the pidfd is sure to be this process.
    """
    pidfd = c_int(-1)
    pid = _start(prepare, failed, flags | _CLONE_PARENT | _CLONE_PIDFD, pidfd=pidfd)
    return pid, pidfd.value


def prepared_fork(
    prepare: Callable[[], Program | int], failed: Callable[[int], int], *, terminal: bool = False
) -> int:
    """Two children: a first one, by `vfork`, prepares, forks the second, and ends; the second
    executes, in the pid namespace that the first has chosen for its children. The pid of the
    second, which is a child of the caller as well, and leads a session (terminal: with its
    stdin as the controlling terminal); 0 when there was none, since `prepare` returned a code.

    Who is in that namespace never sees the one that runs Python in the caller's memory. They
    may kill, stop, or with CAP_SYS_PTRACE even write to the other: it has a copy, and is not
    waited for. It is on its way to its program when this returns.

    Raises OSError; EAGAIN when the first was not allowed to fork (a limit, a seccomp filter).
    """
    return _start(prepare, failed, 0, twice=True, terminal=terminal)


def _start(
    prepare: Callable[[], Program | int],
    failed: Callable[[int], int],
    flags: int,
    *,
    twice: bool = False,
    terminal: bool = False,
    pidfd: c_int | None = None,
) -> int:
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    size = _DEEP + 8 * _PLAIN
    base = _libc.mmap(None, size, _PROT_READ_WRITE, _MAP_STACK, -1, 0)
    if base == c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap: cannot allocate a stack")
    child = _Child(prepare, failed, base, twice=twice, terminal=terminal)
    try:
        # Below the one that Python runs on: too deep a recursion ends the child, no more.
        _libc.mprotect(base, _PAGE, _PROT_NONE)
        pid = int(
            _libc.clone(
                ctypes.cast(_libc.setcontext, c_void_p),
                base + size,
                _SHARED | flags,
                ctypes.addressof(child.first),
                None if pidfd is None else byref(pidfd),
            )
        )
        if pid < 0:
            raise _failure(ctypes.get_errno())
        if not child.left:
            # Killed within Python, which this process would have to go on with from there.
            try:
                os.write(2, b"a child was killed before it could execute\n")
            finally:
                os._exit(KILLED)
        if not twice:
            return pid
        os.waitpid(pid, 0)
        if child.has_program and not child.second.value:
            raise _failure(errno.EAGAIN)  # a limit on processes, of the container or the user
        return child.second.value
    finally:
        child.forget()
        _libc.munmap(base, size)


def _failure(number: int) -> OSError:
    return OSError(number, f"clone: {os.strerror(number).lower()}")


class _Child:
    """Contexts, each linked with the next one: run → execute → report → exit.

    twice: run → clone → end, and in the second child setsid → execute → report → exit.
    terminal: and between setsid and execute, ioctl.
    """

    def __init__(
        self,
        prepare: Callable[[], Program | int],
        failed: Callable[[int], int],
        base: int,
        *,
        twice: bool,
        terminal: bool,
    ) -> None:
        self.left = self.has_program = False
        self.second = c_int(0)
        self._prepare = prepare
        self._failed = failed
        run, report = _Callback(self._run), _Callback(self._report)
        self._kept: list[object] = [run, report]
        plain = [base + _DEEP + number * _PLAIN for number in range(7)]
        self._exit = context(plain[0], _PLAIN, None)
        after = context(plain[1], _PLAIN, self._exit)
        call(after, report)
        self._execute = context(plain[2], _PLAIN, after)
        self._next = self._execute
        if twice:
            after_lead = self._execute
            if terminal:
                after_lead = context(plain[6], _PLAIN, self._execute)
                call(after_lead, _libc.ioctl, 0, _TIOCSCTTY, 0)
            self._kept.append(after_lead)
            self._lead = context(plain[5], _PLAIN, after_lead)
            call(self._lead, _libc.setsid)
            end = context(plain[3], _PLAIN, None)
            call(end, _libc._exit, 0)
            self._next = context(plain[4], _PLAIN, end)
            self._kept.append(end)
        self.first = context(base, _DEEP, self._next)
        call(self.first, run)
        self._kept.append(after)

    def forget(self) -> None:
        """Let go of everything now: callbacks refer to this object, and it to them."""
        self._kept.clear()

    def _run(self) -> None:
        program = self._prepare()
        self.left = True
        if isinstance(program, int):
            call(self._next, _libc._exit, program)
            return
        self.has_program = True
        path = ctypes.create_string_buffer(program.path)
        argv = (c_char_p * (len(program.argv) + 1))(*program.argv, None)
        env = (c_char_p * (len(program.env) + 1))(*program.env, None)
        self._kept += (path, argv, env)
        addresses = [ctypes.addressof(thing) for thing in (path, argv, env)]
        call(self._execute, _libc.execve, *addresses)
        if self._next is not self._execute:
            # The stack of `exit` is in use only later: in the middle of it the second begins.
            top = (self._exit.stack or 0) + _PLAIN // 2
            call(
                self._next,
                _libc.clone,
                ctypes.cast(_libc.setcontext, c_void_p).value or 0,
                top,
                _SIGCHLD | _CLONE_PARENT | _CLONE_PARENT_SETTID,
                ctypes.addressof(self._lead),
                ctypes.addressof(self.second),
            )

    def _report(self) -> None:
        call(self._exit, _libc._exit, self._failed(_errno().contents.value))
