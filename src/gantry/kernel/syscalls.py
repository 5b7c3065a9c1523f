"""The system calls that Python's `os` does not have, one thin function each.

No policy: a function makes one call and returns what the kernel returned. Every failure
is an `OSError` whose `strerror` begins with the call's name and whose `filename` is the
path. Everything that returns an fd sets close-on-exec.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from ctypes import byref, c_char_p, c_int, c_long, c_size_t, c_uint64
from typing import Final

from gantry.kernel.libc import failed, libc, syscall, typed

CLONE_NEWTIME: Final = 0x00000080
CLONE_FS: Final = 0x00000200
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_GET_CHILD_SUBREAPER: Final = 37
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

CLOSE_RANGE_CLOEXEC: Final = 4

O_PATH: Final = os.O_PATH
PROC_SUPER_MAGIC: Final = 0x9FA0
TMPFS_MAGIC: Final = 0x01021994
DEVPTS_MAGIC: Final = 0x1CD1
NSFS_MAGIC: Final = 0x6E736673

SECCOMP_SET_MODE_FILTER: Final = 1

KEYCTL_JOIN_SESSION_KEYRING: Final = 1
KEYCTL_SETPERM: Final = 5
KEYCTL_DESCRIBE: Final = 6

_CAPABILITY_VERSION_3: Final = 0x20080522

_openat2, _OPENAT2 = typed("openat2", c_int, c_char_p, c_char_p, c_size_t)
_Statfs = c_long * 32  # f_type is the first word


def _path(path: str | bytes) -> bytes:
    return path if isinstance(path, bytes) else os.fsencode(path)


# --- namespaces -----------------------------------------------------------------------


def unshare(flags: int) -> None:
    """unshare(2)."""
    if libc.unshare(flags) != 0:
        raise failed("unshare")


def setns(fd: int, flags: int = 0) -> None:
    """setns(2); `fd` is a namespace's or, with several flags, a process's (pidfd)."""
    if libc.setns(fd, flags) != 0:
        raise failed("setns")


def sethostname(name: str) -> None:
    """sethostname(2)."""
    data = name.encode()
    if libc.sethostname(data, len(data)) != 0:
        raise failed("sethostname")


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    data = name.encode()
    if libc.setdomainname(data, len(data)) != 0:
        raise failed("setdomainname")


# --- files -----------------------------------------------------------------------------


def openat2(dirfd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2). EAGAIN (a rename raced with the walk) is tried again, as the page asks."""
    encoded = _path(path)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(128):
        fd = _openat2(_OPENAT2, dirfd, encoded, how, len(how))
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise failed("openat2", path)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """close_range(2); with CLOSE_RANGE_CLOEXEC the fds are closed at the next exec."""
    syscall("close_range", first, last, flags)


def check_executable(path: str) -> None:
    """faccessat2(2) for X_OK with the effective ids; OSError: why it is not."""
    if libc.faccessat(_AT_FDCWD, os.fsencode(path), os.X_OK, _AT_EACCESS) != 0:
        raise failed("faccessat", path)


_AT_FDCWD: Final = -100
_AT_EACCESS: Final = 0x200


def fstatfs_type(fd: int) -> int:
    """f_type of fstatfs(2): the magic number of the file system `fd` is on."""
    buffer = _Statfs()
    if libc.fstatfs(fd, byref(buffer)) != 0:
        raise failed("fstatfs")
    return buffer[0] & 0xFFFFFFFF


# --- mounts ----------------------------------------------------------------------------


def mount(source: str, target: str, fstype: str | None, flags: int = 0, data: str = "") -> None:
    """mount(2). `data` longer than 4095 bytes is the kernel's EINVAL."""
    kind = None if fstype is None else fstype.encode()
    if libc.mount(_path(source), _path(target), kind, flags, _path(data) if data else None) != 0:
        raise failed("mount", target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if libc.umount2(_path(target), flags) != 0:
        raise failed("umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    syscall("pivot_root", _path(new_root), _path(put_old), path=new_root)


# --- processes ---------------------------------------------------------------------------


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2)."""
    result = libc.prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        raise failed("prctl")
    return int(result)


def pidfd_open(pid: int) -> int:
    """pidfd_open(2); the fd is close-on-exec by itself."""
    return syscall("pidfd_open", pid, 0, path=pid)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """pidfd_send_signal(2)."""
    syscall("pidfd_send_signal", pidfd, signal, None, 0)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) on the calling thread; each argument is a bit set of capability numbers."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = struct.pack(
        "6I",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    syscall("capset", header, data)


def capget() -> tuple[int, int, int]:
    """capget(2) of the calling thread: (effective, permitted, inheritable) bit sets."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    syscall("capget", header, data)
    e0, p0, i0, e1, p1, i1 = struct.unpack("6I", data.raw)
    return e0 | e1 << 32, p0 | p1 << 32, i0 | i1 << 32


def seccomp_set_filter(program: bytes, flags: int = 0) -> int:
    """seccomp(2) SECCOMP_SET_MODE_FILTER; `program` is an array of struct sock_filter.

    Returns 0, or the listener's fd when flags ask for one. EINVAL also means that the
    kernel was built without filters.
    """
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("H6xQ", len(program) // 8, ctypes.addressof(code))
    return syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, fprog)


def keyctl_join_session_keyring(name: str) -> int:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING): a new session keyring; returns its serial."""
    return syscall("keyctl", KEYCTL_JOIN_SESSION_KEYRING, name.encode())


def keyctl_setperm(serial: int, permissions: int) -> None:
    """keyctl(KEYCTL_SETPERM)."""
    syscall("keyctl", KEYCTL_SETPERM, serial, permissions)


def keyctl_describe(serial: int) -> str:
    """keyctl(KEYCTL_DESCRIBE): "type;uid;gid;perm;description"."""
    buffer = ctypes.create_string_buffer(512)
    length = syscall("keyctl", KEYCTL_DESCRIBE, serial, buffer, 512)
    return buffer.raw[: max(0, length - 1)].decode(errors="replace")


def personality(persona: int) -> None:
    """personality(2)."""
    if libc.personality(persona) == -1:
        raise failed("personality")


def ioprio_set(ioprio: int) -> None:
    """ioprio_set(2) for the calling process (IOPRIO_WHO_PROCESS)."""
    syscall("ioprio_set", 1, 0, ioprio)


def sched_setattr(
    *, policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int
) -> None:
    """sched_setattr(2) for the calling process; times are nanoseconds."""
    attr = struct.pack("IIQiIQQQ", 48, policy, flags, nice, priority, runtime, deadline, period)
    syscall("sched_setattr", 0, attr, 0)


def set_mempolicy(mode: int, nodes: int) -> None:
    """set_mempolicy(2); `nodes` is a bit set of at most 64 memory nodes."""
    syscall("set_mempolicy", mode, bytes(c_uint64(nodes)), 65)


def bpf(command: int, attr: bytes) -> int:
    """bpf(2)."""
    return syscall("bpf", command, attr, len(attr))


MFD_CLOEXEC: Final = 1
MFD_ALLOW_SEALING: Final = 2
F_ADD_SEALS: Final = 1033
F_SEAL_ALL: Final = 0xF  # seal, shrink, grow, write


def sealed_memfd(name: str, content: bytes) -> int:
    """A memfd that holds `content` and that nobody can change any more (not even root)."""
    fd = os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_ALL)
    except BaseException:
        os.close(fd)
        raise
    return fd


_NS_GET_NSTYPE: Final = 0xB703


def ns_type(fd: int) -> int:
    """ioctl_ns(2) NS_GET_NSTYPE: the CLONE_NEW* constant of an open namespace."""
    return fcntl.ioctl(fd, _NS_GET_NSTYPE)


def dup_above(fd: int, lowest: int) -> int:
    """A close-on-exec duplicate of `fd` that is `lowest` or higher (F_DUPFD_CLOEXEC)."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def execve(path: bytes, argv: list[bytes], env: list[bytes]) -> None:
    """execve(2) with the environment as it is given: order and doubles kept.

    Returns only by raising. (os.execve wants a dict.)
    """
    c_argv = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
    c_env = (ctypes.c_char_p * (len(env) + 1))(*env, None)
    libc.execve(path, c_argv, c_env)
    raise failed("exec", path)


def is_subreaper() -> bool:
    """prctl(PR_GET_CHILD_SUBREAPER)."""
    value = ctypes.c_int(0)
    prctl(PR_GET_CHILD_SUBREAPER, ctypes.addressof(value))
    return bool(value.value)
