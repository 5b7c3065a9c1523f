"""Reading /proc: mounts, start times, cgroups, states. Values only, no policy."""

from __future__ import annotations

import os
from typing import NamedTuple


class MountInfo(NamedTuple):
    """One line of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: tuple[str, ...]
    optional: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]


class ProcessStat(NamedTuple):
    """What identifies a process: its state letter, parent and start time.

    start_time: clock ticks since boot; with the pid it names a process for good.
    """

    pid: int
    comm: str
    state: str
    ppid: int
    start_time: int


def read(path: str, errors: str = "surrogateescape") -> str:
    """The text of a small file in /proc or /sys, in as few calls as can be."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = [os.read(fd, 65536)]
        while len(chunks[-1]):
            chunks.append(os.read(fd, 65536))
        return b"".join(chunks).decode(errors=errors)
    finally:
        os.close(fd)


def read_if_there(path: str) -> str:
    """A small file's text, "" when there is none; bytes that are no UTF-8 are replaced."""
    try:
        return read(path, "replace")
    except OSError:
        return ""


def unescape(text: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash."""
    if "\\" not in text:
        return text
    parts = text.split("\\")
    return parts[0] + "".join(
        chr(int(p[:3], 8)) + p[3:] if p[:3].isdigit() else "\\" + p for p in parts[1:]
    )


def parse_mountinfo(text: str) -> list[MountInfo]:
    """Parse the whole file, in its order (a later mount may cover an earlier one)."""
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        rest = right.split(" ")
        if len(fields) < 6 or len(rest) < 3:
            continue
        found.append(
            MountInfo(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                device=fields[2],
                root=unescape(fields[3]),
                mount_point=unescape(fields[4]),
                options=tuple(fields[5].split(",")),
                optional=tuple(fields[6:]),
                fstype=rest[0],
                source=unescape(rest[1]),
                super_options=tuple(rest[2].split(",")),
            )
        )
    return found


def mountinfo(pid: int | str = "self") -> list[MountInfo]:
    """The mounts that a process sees."""
    return parse_mountinfo(read(f"/proc/{pid}/mountinfo"))


def parse_stat(text: str) -> ProcessStat:
    """Parse /proc/PID/stat; a command's name may hold spaces and parentheses."""
    opening, closing = text.index("("), text.rindex(")")
    fields = text[closing + 2 :].split()
    return ProcessStat(
        pid=int(text[:opening]),
        comm=text[opening + 1 : closing],
        state=fields[0],
        ppid=int(fields[1]),
        start_time=int(fields[19]),
    )


def stat(pid: int) -> ProcessStat:
    """/proc/PID/stat. FileNotFoundError or ProcessLookupError: no such process."""
    return parse_stat(read(f"/proc/{pid}/stat"))


def cgroups(pid: int | str = "self") -> dict[str, str]:
    """controller → path below its hierarchy's root; "" is the unified one (cgroups(7)).

    A named v1 hierarchy is found under "name=NAME".
    """
    found = {}
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = path
    return found


def outer_uid() -> int:
    """This process's user as the machine counts: a user namespace's root is somebody."""
    uid = os.geteuid()
    try:
        lines = read("/proc/self/uid_map").splitlines()
    except OSError:
        return uid
    for line in lines:
        inner, outer, count = (int(word) for word in line.split())
        if inner <= uid < inner + count:
            return outer + uid - inner
    return uid


def in_user_namespace() -> bool:
    """Whether users here are others outside: of the first user namespace, all are themselves."""
    try:
        return read("/proc/self/uid_map").split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def status_field(pid: int | str, field: str) -> str:
    """One field of /proc/PID/status, "" when the kernel has none of that name."""
    for line in read(f"/proc/{pid}/status").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    return ""


def zombie_status(pid: int) -> int | None:
    """The wait status of a process that has ended and waits to be reaped (proc_pid_stat(5)).

    None: there is none such, or it is not ours to see.
    """
    try:
        fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[49]) if fields[0] == "Z" else None
