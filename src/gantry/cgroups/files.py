"""Reading and writing the small files of a cgroup, with errors that name them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from gantry.kernel import procfs


def write(folder: str, name: str, value: str) -> None:
    """Write a file of a cgroup in one write(2) (the kernel parses each write on its own)."""
    write_each(folder, name, (value,))


def write_each(folder: str, name: str, values: Iterable[str]) -> None:
    """Write values one after the other to a file that takes one at a time."""
    path = f"{folder}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"open: {os.strerror(error.errno or 0).lower()}", path)
    try:
        for value in values:
            try:
                os.write(fd, value.encode())
            except OSError as error:
                text = f'failed to write "{value}": write {path}: '
                raise OSError(error.errno, text + os.strerror(error.errno or 0).lower())
    finally:
        os.close(fd)


def enter(entrances: Iterable[str]) -> None:
    """Join the cgroups of `Cgroup.entrances`: for the process itself, with one thread."""
    for path in entrances:
        folder, _, name = path.rpartition("/")
        write(folder, name, "0")


def admit(entrances: Iterable[str], pid: int) -> None:
    """Write a pid to those entrances that make who writes wait; the process does the others."""
    for path in entrances:
        folder, _, name = path.rpartition("/")
        if name != "tasks":
            write(folder, name, str(pid))


def read(folder: str, name: str) -> str:
    """A file's text without the newline at its end. OSError when it is not there."""
    return procfs.read(f"{folder}/{name}").rstrip("\n")


def read_or(folder: str, name: str, default: str = "") -> str:
    """A file's text, `default` where the kernel has no such file (or no such device)."""
    try:
        return read(folder, name)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EACCES):
            return default
        raise


def number(folder: str, name: str, default: int = 0) -> int:
    """A file that holds one number; "max" is 2**64 - 1, as clients of runc see it."""
    text = read_or(folder, name).strip()
    if text == "max":
        return 2**64 - 1
    try:
        return int(text)
    except ValueError:
        return default


def table(folder: str, name: str) -> dict[str, int]:
    """A file of "key number" lines; other lines are left out."""
    found = {}
    for line in read_or(folder, name).splitlines():
        key, _, value = line.partition(" ")
        try:
            found[key] = int(value)
        except ValueError:
            continue
    return found


def numbers(folder: str, name: str) -> list[int]:
    """A file of one number a line (cgroup.procs)."""
    return [int(line) for line in read_or(folder, name).split()]


def make(folder: str) -> bool:
    """mkdir with parents; True when the last one was made here.

    FileNotFoundError also where the parent is there and takes no folders: no cgroup.
    """
    try:
        try:
            os.mkdir(folder, 0o755)
        except FileNotFoundError:
            parent = os.path.dirname(folder)
            if parent in ("", "/"):
                raise
            make(parent)
            os.mkdir(folder, 0o755)
    except FileExistsError:
        return False
    return True


def subtree(folder: str) -> list[str]:
    """A cgroup and all below it, deepest first: the order to remove them in."""
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found.extend(subtree(entry.path))
    except FileNotFoundError:
        return []
    found.append(folder)
    return found


def remove(folder: str) -> None:
    """Remove a cgroup and those below it. Gone already is fine; EBUSY: something lives there."""
    try:
        os.rmdir(folder)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    for path in subtree(folder):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue


def beneath(folder: str, path: str) -> str:
    """A cgroup inside another. OSError ENOENT or EINVAL: not there, or not inside."""
    found = os.path.normpath(f"{folder}/{path.lstrip('/')}")
    if found != folder and not found.startswith(folder + "/"):
        raise OSError(errno.EINVAL, f"bad sub cgroup path: {path} is not a sub cgroup path")
    if not os.path.isdir(found):
        raise OSError(
            errno.ENOENT,
            f"error adding pid to cgroup: open {found}/cgroup.procs: no such file or directory",
        )
    return found
