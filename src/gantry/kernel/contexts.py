"""ucontext(3): C functions that are called with no Python running between them.

makecontext(3) and its like are glibc's. Pointers as arguments are an extension of glibc's own.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_char, c_int, c_long, c_size_t, c_ulong, c_void_p
from typing import Final

_STACK: Final = 16 << 10
"""Bytes, for a function of the C library's."""


class Context(ctypes.Structure):
    """ucontext_t: its start is the same on all of glibc's machines, the rest is opaque."""

    _fields_ = (
        ("flags", c_ulong),
        ("link", c_void_p),
        ("stack", c_void_p),
        ("stack_flags", c_int),
        ("stack_size", c_size_t),
        ("rest", c_char * 8192),
    )


# PyDLL: the interpreter's lock stays held.
_libc: Final = ctypes.PyDLL(None)
_BOUND: Final = all(
    hasattr(_libc, name) for name in ("getcontext", "setcontext", "makecontext", "swapcontext")
)
available: Final = _BOUND and os.uname().machine in ("x86_64", "aarch64")

if _BOUND:
    _libc.makecontext.restype = None


def context(stack: int, size: int, then: Context | None) -> Context:
    """One with a stack of its own, followed by `then` (None: its end ends the thread)."""
    made = Context()
    _libc.getcontext(byref(made))
    made.stack, made.stack_size = stack, size
    made.link = None if then is None else ctypes.addressof(then)
    return made


def call(made: Context, function: object, *args: int) -> None:
    """The context will call the C function `function`."""
    longs = [c_long(arg) for arg in args]
    _libc.makecontext(byref(made), ctypes.cast(function, c_void_p), len(args), *longs)  # type: ignore[arg-type]  # a function pointer


def in_a_row(*calls: tuple[object, *tuple[int, ...]]) -> None:
    """Call C functions, each with its arguments, one right after the other. What they return
    is lost."""
    back = then = Context()
    kept: list[object] = []
    for function, *args in reversed(calls):
        stack = ctypes.create_string_buffer(_STACK)
        then = context(ctypes.addressof(stack), _STACK, then)
        call(then, function, *args)
        kept += (stack, then)
    _libc.swapcontext(byref(back), byref(then))
