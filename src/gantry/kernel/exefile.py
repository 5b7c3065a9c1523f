"""A process that lets go of its executable file and says that it is another one.

/proc/PID/exe is a file that others may open, and execute (CVE-2019-5736). The kernel lets a
process change it once nothing of the old file is mapped any more (prctl(2), PR_SET_MM_MAP,
made for CRIU). So each mapping of the old file is replaced where it lies, while the program
goes on running from it:

- what is as it is in the file, code and constants, is mapped once more by another path: by a
  clone of the file's mount that nobody else sees. It is the same memory of the page cache.
- what the loader and the program have written to becomes memory without a file. The program
  may write at any moment, even while it calls a function; so the copy and the move into place
  are two calls with no Python between them.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from ctypes import c_int, c_long, c_size_t, c_ulong, c_void_p
from typing import Final, NamedTuple

from gantry.kernel import contexts, procfs
from gantry.kernel.libc import AT_FDCWD, failed, syscall

_PR_SET_MM: Final = 35
_PR_SET_MM_MAP: Final = 14
_PR_SET_MM_MAP_SIZE: Final = 15
_READ: Final = 1
_WRITE: Final = 2
_LETTERS: Final = ((_READ, "r"), (_WRITE, "w"), (4, "x"))
_PRIVATE: Final = 0x02
_FIXED: Final = 0x10
_ANONYMOUS: Final = 0x20
_MOVE: Final = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_OPEN_TREE_CLONE: Final = 1
_PT_LOAD: Final = 1
_PF_W: Final = 2
_SMALL: Final = 256 << 10
"""Bytes of a program that are copied sooner than mapped again."""
_ELF_HEADER: Final = struct.Struct("<4sB27xQ14xHH")  # magic, class, e_phoff, e_phentsize, e_phnum
_SEGMENT: Final = struct.Struct("<IIQ")  # p_type, p_flags, p_offset
_MM_MAP: Final = struct.Struct("12QII")
# /proc/PID/stat (proc_pid_stat(5)): startcode, endcode, start_data, end_data, start_brk; then,
# after the break, startstack, arg_start, arg_end, env_start, env_end.
_BEFORE_BREAK: Final = (26, 27, 45, 46, 47)
_AFTER_BREAK: Final = (28, 48, 49, 50, 51)

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
_libc.mmap.restype = c_void_p
_libc.mremap.argtypes = [c_void_p, c_size_t, c_size_t, c_int, c_void_p]
_libc.mremap.restype = c_void_p
_libc.memcpy.argtypes = [c_void_p, c_void_p, c_size_t]
_libc.mprotect.argtypes = [c_void_p, c_size_t, c_int]
_libc.prctl.argtypes = [c_int, c_ulong, c_void_p, c_ulong, c_ulong]
_libc.sbrk.argtypes = [c_long]
_libc.sbrk.restype = c_void_p


class _Mapping(NamedTuple):
    start: int
    size: int
    protection: int
    offset: int


def become(fd: int) -> None:
    """Have /proc/self/exe be the file `fd`, one that can be executed, and map nothing of the
    old one any more. For a process with one thread.

    Raises OSError: EPERM without CAP_SYS_ADMIN in the process's user namespace, EINVAL from a
    kernel that was built without CONFIG_CHECKPOINT_RESTORE. What was replaced by then does no
    harm.
    """
    if not contexts.available:
        raise OSError(38, "swapcontext: not of this C library")
    size = ctypes.create_string_buffer(4)
    if _libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP_SIZE, size, 0, 0) != 0:
        raise failed("prctl(PR_SET_MM_MAP_SIZE)")
    mappings = list(_mappings(os.readlink("/proc/self/exe")))
    if sum(mapping.size for mapping in mappings) > _SMALL:
        mappings = _map_again(mappings)
    for mapping in mappings:
        _copy(mapping)
    stat = procfs.read("/proc/self/stat").rpartition(")")[2].split()
    described = _MM_MAP.pack(
        *(int(stat[number - 3]) for number in _BEFORE_BREAK),
        _libc.sbrk(0),
        *(int(stat[number - 3]) for number in _AFTER_BREAK),
        *(0, 0, fd),  # the auxiliary vector stays as it is
    )
    if _libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, described, len(described), 0) != 0:
        raise failed("prctl(PR_SET_MM_MAP)")


def _mappings(path: str) -> Iterator[_Mapping]:
    for line in procfs.read("/proc/self/maps").splitlines():
        if not line.endswith(path):
            continue
        span, letters, offset, _, _, name = line.split(None, 5)
        if name == path:
            start, end = (int(word, 16) for word in span.split("-"))
            protection = sum(bit for bit, letter in _LETTERS if letter in letters)
            yield _Mapping(start, end - start, protection, int(offset, 16))


def _map_again(mappings: list[_Mapping]) -> list[_Mapping]:
    """Replace those that are as they are in the file. The others."""
    tree = syscall("open_tree", AT_FDCWD, b"/proc/self/exe", _OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        file = os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(tree)
    try:
        written = _first_written(file)
        clean = [old for old in mappings if old.offset < written]
        for start, size, protection, offset in clean:
            if _libc.mmap(start, size, protection, _PRIVATE | _FIXED, file, offset) != start:
                raise failed("mmap")
    finally:
        os.close(file)
    return [old for old in mappings if old.offset >= written]


def _first_written(file: int) -> int:
    """From where on in the file its writable segments lie. OSError: it cannot be said."""
    magic, bits, table, size, count = _ELF_HEADER.unpack(os.pread(file, _ELF_HEADER.size, 0))
    if magic != b"\x7fELF" or bits != 2:
        raise OSError(8, "not a 64-bit ELF file")
    headers = os.pread(file, size * count, table)
    segments = [_SEGMENT.unpack_from(headers, size * number) for number in range(count)]
    first: int = min(at for kind, flags, at in segments if kind == _PT_LOAD and flags & _PF_W)
    return first & -os.sysconf("SC_PAGESIZE")


def _copy(old: _Mapping) -> None:
    copy = _libc.mmap(None, old.size, _READ | _WRITE, _PRIVATE | _ANONYMOUS, -1, 0)
    if copy == c_void_p(-1).value:
        raise failed("mmap")
    fill = (_libc.memcpy, copy, old.start, old.size)
    place = (_libc.mremap, copy, old.size, old.size, _MOVE, old.start)
    if old.protection & _WRITE:
        contexts.in_a_row(fill, place)  # where that fails the file is still mapped, and counts
        return
    _libc.memcpy(*fill[1:])
    if _libc.mprotect(copy, old.size, old.protection) != 0:
        raise failed("mprotect")
    if _libc.mremap(*place[1:]) != old.start:
        raise failed("mremap")
