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

Source: clone(2), vfork(2), makecontext(3). Needs glibc; Python 3.14 and later measure how
deep the C stack is and would not run on another one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_long, c_size_t, c_ulong, c_void_p
from typing import Final, NamedTuple

from gantry.kernel import syscalls

_CLONE_VM: Final = 0x00000100
_CLONE_VFORK: Final = 0x00004000
_SIGCHLD: Final = 17
_PROT_NONE: Final = 0
_PROT_READ_WRITE: Final = 3
_MAP_STACK: Final = 0x20022  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK
_PAGE: Final = 64 << 10  # the largest that Linux has
_PLAIN: Final = 128 << 10
"""Bytes of stack for what runs C only, or next to nothing."""
_DEEP: Final = 1 << 20


class Program(NamedTuple):
    """What execve(2) is given."""

    path: bytes
    argv: list[bytes]
    env: list[bytes]


class _Context(ctypes.Structure):
    """ucontext_t: its start is the same on all of glibc's machines, the rest is opaque."""

    _fields_ = (
        ("flags", c_ulong),
        ("link", c_void_p),
        ("stack", c_void_p),
        ("stack_flags", c_int),
        ("stack_size", c_size_t),
        ("rest", c_char * 8192),
    )


# PyDLL: the interpreter's lock stays held, whichever of the two processes runs.
_libc: Final = ctypes.PyDLL(None, use_errno=True)
_Callback: Final = ctypes.PYFUNCTYPE(None)
_BOUND: Final = all(
    hasattr(_libc, name)
    for name in ("clone", "getcontext", "setcontext", "makecontext", "__errno_location")
)
available: Final = (
    _BOUND and sys.version_info < (3, 14) and os.uname().machine in ("x86_64", "aarch64")
)
"""Whether `vfork` can be used here."""

if _BOUND:
    _errno = getattr(_libc, "__errno_location")
    _errno.restype = POINTER(c_int)
    _libc.clone.argtypes = [c_void_p, c_void_p, c_int, c_void_p]
    _libc.makecontext.restype = None
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

    To be called by the only thread. Returns when the child has executed or ended. Whatever
    namespace or user the child becomes meanwhile, nobody but the host's root can look into
    it: the memory that it shares is made undumpable first. Raises OSError.
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    size = _DEEP + 4 * _PLAIN
    base = _libc.mmap(None, size, _PROT_READ_WRITE, _MAP_STACK, -1, 0)
    if base == c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap: cannot allocate a stack")
    child = _Child(prepare, failed, base)
    try:
        # Below the one that Python runs on: too deep a recursion ends the child, no more.
        _libc.mprotect(base, _PAGE, _PROT_NONE)
        pid = _libc.clone(
            ctypes.cast(_libc.setcontext, c_void_p),
            base + size,
            _CLONE_VM | _CLONE_VFORK | _SIGCHLD | flags,
            ctypes.addressof(child.first),
        )
        if pid < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"clone: {os.strerror(number).lower()}")
        return int(pid)
    finally:
        child.forget()
        _libc.munmap(base, size)


class _Child:
    """prepare() → execve() → failed() → _exit(), each in a context linked with the next."""

    def __init__(
        self, prepare: Callable[[], Program | int], failed: Callable[[int], int], base: int
    ) -> None:
        self._prepare = prepare
        self._failed = failed
        self._kept: list[object] = []
        run, report = _Callback(self._run), _Callback(self._report)
        self._callbacks: tuple[object, ...] = (run, report)
        plain = [base + _DEEP + number * _PLAIN for number in range(3)]
        self._exit = _context(plain[0], _PLAIN, None)
        after = _context(plain[1], _PLAIN, self._exit)
        _make(after, report)
        self._execute = _context(plain[2], _PLAIN, after)
        self.first = _context(base, _DEEP, self._execute)
        _make(self.first, run)
        self._kept.append(after)

    def forget(self) -> None:
        """Let go of everything now: callbacks refer to this object, and it to them."""
        self._callbacks = ()
        self._kept.clear()

    def _run(self) -> None:
        program = self._prepare()
        if isinstance(program, int):
            _make(self._execute, _libc._exit, program)
            return
        path = ctypes.create_string_buffer(program.path)
        argv = (c_char_p * (len(program.argv) + 1))(*program.argv, None)
        env = (c_char_p * (len(program.env) + 1))(*program.env, None)
        self._kept += (path, argv, env)
        addresses = [ctypes.addressof(thing) for thing in (path, argv, env)]
        _make(self._execute, _libc.execve, *addresses)

    def _report(self) -> None:
        _make(self._exit, _libc._exit, self._failed(_errno().contents.value))


def _context(stack: int, size: int, then: _Context | None) -> _Context:
    context = _Context()
    _libc.getcontext(byref(context))
    context.stack, context.stack_size = stack, size
    context.link = None if then is None else ctypes.addressof(then)
    return context


def _make(context: _Context, function: object, *args: int) -> None:
    """The context will call `function`. (Pointers as arguments: glibc's own extension.)"""
    longs = [c_long(arg) for arg in args]
    _libc.makecontext(byref(context), ctypes.cast(function, c_void_p), len(args), *longs)  # type: ignore[arg-type]  # a function pointer
