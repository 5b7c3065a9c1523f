"""Which namespaces are made and which are joined, and in what order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from gantry.kernel import syscalls
from gantry.model.record import Record
from gantry.oci.runtime_spec import Linux, Namespace, TimeOffset
from gantry.runtime.errors import RuntimeFailure

FLAGS: Final[Mapping[str, int]] = {
    "user": syscalls.CLONE_NEWUSER,
    "pid": syscalls.CLONE_NEWPID,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "network": syscalls.CLONE_NEWNET,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "mount": syscalls.CLONE_NEWNS,
    "time": syscalls.CLONE_NEWTIME,
}
# The user namespace decides what the others may be joined by; the mount namespace goes
# last, because after it paths mean something else.
_JOIN_ORDER: Final = ("user", "ipc", "uts", "network", "pid", "cgroup", "time", "mount")


class Namespaces(Record):
    """new: CLONE_NEW* of those to make; join: (type, fd) in order; all: both as flags."""

    new: int
    join: tuple[tuple[str, int], ...]
    all: int

    def makes(self, kind: str) -> bool:
        return bool(self.new & FLAGS[kind])

    def has(self, kind: str) -> bool:
        return bool(self.all & FLAGS[kind])

    def join_fd(self, kind: str) -> int | None:
        return next((fd for name, fd in self.join if name == kind), None)


def gather(linux: Linux, given: Mapping[str, int], opened: list[int]) -> Namespaces:
    """Sort a spec's namespaces; paths are opened now (appended to `opened` for the caller).

    given: fds by type that beat the spec's paths.
    """
    new = 0
    every = 0
    join: dict[str, int] = {}
    for namespace in linux.namespaces:
        flag = FLAGS.get(namespace.type)
        if flag is None:
            raise RuntimeFailure(f"namespace {_shown(namespace)} does not exist")
        if every & flag:
            raise RuntimeFailure(f"malformed spec file: duplicated ns {_shown(namespace)}")
        every |= flag
        if namespace.type in given:
            join[namespace.type] = given[namespace.type]
        elif namespace.path:
            join[namespace.type] = _open(namespace.path, flag, opened)
        else:
            new |= flag
    for kind, fd in given.items():
        every |= FLAGS[kind]
        join[kind] = fd
    order = tuple((kind, join[kind]) for kind in _JOIN_ORDER if kind in join)
    return Namespaces(new=new, join=order, all=every)


def _shown(namespace: Namespace) -> str:
    """As Go prints it, and so runc."""
    return f'{{"{namespace.type}" "{namespace.path}"}}'


def _open(path: str, flag: int, opened: list[int]) -> int:
    """Open a namespace file and make sure that it is one, and of the right kind."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        text = os.strerror(error.errno or 0).lower()
        raise RuntimeFailure(f"namespace path: lstat {path}: {text}")
    opened.append(fd)
    if syscalls.fstatfs_type(fd) != syscalls.NSFS_MAGIC:
        raise RuntimeFailure(f"{path} is not a namespace")
    kind = syscalls.ns_type(fd)
    if kind != flag:
        raise RuntimeFailure(f"{path} is a namespace of another kind")
    return fd


def enter(namespaces: Namespaces, *, skip: tuple[str, ...] = ()) -> None:
    """Join, then make, everything but `skip` (pid and user have their own moments)."""
    for kind, fd in namespaces.join:
        if kind not in skip:
            try:
                syscalls.setns(fd, FLAGS[kind])
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror} ({kind} namespace)")
    flags = namespaces.new
    for kind in skip:
        flags &= ~FLAGS[kind]
    if flags:
        syscalls.unshare(flags)


_CLOCKS: Final = {"monotonic": 1, "boottime": 7}


def write_time_offsets(offsets: Mapping[str, TimeOffset], path: str) -> None:
    """Write the offsets of a new time namespace to a process's timens_offsets."""
    for name, offset in offsets.items():
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"{_CLOCKS[name]} {offset.secs} {offset.nanosecs}\n".encode())
        except OSError as error:
            text = os.strerror(error.errno or 0).lower()
            raise RuntimeFailure(f"linux.timeOffsets.{name}: {text}")
        finally:
            os.close(fd)


def set_time_offsets(offsets: Mapping[str, TimeOffset]) -> None:
    """Write the offsets of the time namespace just unshared, then move into it.

    Unsharing changes only what children get (time_namespaces(7)); offsets are writable
    until the first process is in.
    """
    write_time_offsets(offsets, "/proc/self/timens_offsets")
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWTIME)
    finally:
        os.close(fd)
