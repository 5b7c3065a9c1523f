"""The C library by ctypes: one handle, one way to turn a failed call into an `OSError`.

Everything is bound when this module is imported: a process that is on its way into a
container must not load code or look names up (a container's files must never be able to
decide what runs in it).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p
from typing import Final

libc: Final = ctypes.CDLL(None, use_errno=True)

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
AT_SYMLINK_NOFOLLOW: Final = 0x100

# Calls older than the common table (number 424 and up) differ by architecture.
_OLD: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "pivot_root": 155,
        "capget": 125,
        "capset": 126,
        "keyctl": 250,
        "ioprio_set": 251,
        "set_mempolicy": 238,
        "sched_setattr": 314,
        "seccomp": 317,
        "bpf": 321,
        "clone": 56,
    },
    "aarch64": {
        "pivot_root": 41,
        "capget": 90,
        "capset": 91,
        "keyctl": 219,
        "ioprio_set": 30,
        "set_mempolicy": 237,
        "sched_setattr": 274,
        "seccomp": 277,
        "bpf": 280,
        "clone": 220,
    },
}
_OLD["riscv64"] = _OLD["aarch64"]
_OLD["loongarch64"] = _OLD["aarch64"]

MACHINE: Final = os.uname().machine

NUMBERS: Final[dict[str, int]] = {
    **_OLD.get(MACHINE, {}),
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}

_syscall = libc.syscall
_syscall.restype = c_long


def typed(name: str, *types: type) -> tuple[Callable[..., int], int]:
    """The raw call `name` for arguments of these C types, and its number, which goes first.

    For calls that a start makes by the dozen: ctypes converts in C then, in a third of the time
    that `syscall` takes. It gives -1 (and errno) where it failed; where this machine's
    architecture has no number for it the kernel says ENOSYS, as to -1.
    """
    function = libc["syscall"]
    function.restype = c_long
    function.argtypes = [c_long, *types]
    return function, NUMBERS.get(name, -1)


def failed(call: str, path: str | bytes | int | None = None) -> OSError:
    """The `OSError` for the call that has just failed in this thread.

    `strerror` is "call: text of errno"; `filename` is the path, where there is one.
    """
    number = ctypes.get_errno()
    text = f"{call}: {os.strerror(number).lower()}"
    if path is None or path in ("", b""):
        return OSError(number, text)
    return OSError(number, text, os.fsdecode(path) if isinstance(path, bytes) else path)


def syscall(
    name: str,
    *args: int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None,
    path: str | bytes | int | None = None,
) -> int:
    """Make the raw call `name`; integers go as longs, bytes, buffers and structures by address.

    Raises: OSError with the call's name and `path`; ENOSYS where this machine's
    architecture has no number for it.
    """
    number = NUMBERS.get(name)
    if number is None:
        ctypes.set_errno(38)
        raise failed(name, path)
    converted: list[object] = []
    for arg in args:
        if isinstance(arg, int):
            converted.append(c_ulong(arg & 0xFFFFFFFFFFFFFFFF))
        elif arg is None:
            converted.append(c_void_p(None))
        elif isinstance(arg, bytes):
            converted.append(c_char_p(arg))
        else:
            converted.append(ctypes.byref(arg))
    result = _syscall(c_long(number), *converted)
    if result == -1:
        raise failed(name, path)
    return int(result)


libc.mount.argtypes = [c_char_p, c_char_p, c_char_p, c_ulong, c_char_p]
libc.umount2.argtypes = [c_char_p, c_int]
libc.signal.argtypes = [c_int, c_void_p]
libc.unshare.argtypes = [c_int]
libc.setns.argtypes = [c_int, c_int]
libc.prctl.argtypes = [c_int, c_ulong, c_ulong, c_ulong, c_ulong]
libc.sethostname.argtypes = [c_char_p, c_ulong]
libc.setdomainname.argtypes = [c_char_p, c_ulong]
libc.personality.argtypes = [c_ulong]
libc.ptsname_r.argtypes = [c_int, c_char_p, c_ulong]
libc.fstatfs.argtypes = [c_int, c_void_p]
libc.sched_setscheduler.argtypes = [c_int, c_int, c_void_p]
libc.dup3.argtypes = [c_int, c_int, c_int]
libc.close.argtypes = [c_int]
libc.umask.argtypes = [c_uint]
