"""The last steps to execve, the same for a container's init and for an exec'ed process."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from gantry.kernel import syscalls
from gantry.kernel.vfork import Program
from gantry.runtime import handshake, identity, seccomp, security
from gantry.runtime.errors import (
    FAILED,
    NOT_EXECUTABLE,
    NOT_FOUND,
    RuntimeFailure,
    describe,
)
from gantry.runtime.handshake import Channel
from gantry.runtime.plan import ProcessPlan

_PASSWD_MAX = 1 << 20


def enter_process(process: ProcessPlan, channel: Channel, keep: tuple[int, ...] = ()) -> bytes:
    """Drop everything the process shall not have; return what to execute.

    keep: fds needed until execve besides the channel's.

    Called inside the container's root. Raises RuntimeFailure when args[0] is not there
    or not executable: the last moment at which that is still an error of `create`.
    """
    who = process.identity
    _close_rest(3 + process.preserve_fds, (channel.fd, *keep, *security.label_fds()))
    there = _chdir(process.cwd, early=True)  # a filter may forbid what it takes
    if not who.no_new_privs:
        # Loading a filter takes CAP_SYS_ADMIN or no_new_privs: now, or never.
        load_seccomp(process, channel)
    else:
        identity.no_new_privs()
    identity.drop_bounding(who)
    identity.own_stdio(who.uid)
    identity.become_user(who)
    if not there:
        _chdir(process.cwd, early=False)
    if who.unknown:
        names = " ".join(who.unknown)
        channel.log("warning", f"ignoring unknown or unavailable capabilities: [{names}]")
    for name in identity.apply_capabilities(who):
        channel.log("warning", f"can't raise ambient capability {name}: operation not permitted")
    os.umask(who.umask)
    found = look_up(process)
    if who.no_new_privs:
        # As late as can be, but before a listener's fd has nobody to go to any more, and
        # before the startContainer hooks, which have the process's filter.
        load_seccomp(process, channel)
    return found


def place_stdio(process: ProcessPlan) -> None:
    """The caller's three fds onto 0, 1, 2 (from above, so that none overwrites another).

    Done before the process's limits: it takes fds of numbers they may forbid.
    """
    if process.stdio is None or process.terminal:
        return
    high = [syscalls.dup_above(fd, 3) for fd in process.stdio]
    for number, fd in enumerate(high):
        os.dup2(fd, number)
        os.close(fd)


def _close_rest(first: int, keep: tuple[int, ...]) -> None:
    """Close every fd from `first` on but `keep`, which execve closes.

    None may lead to the host (CVE-2024-21626), and whoever waits for the end of a pipe that
    the caller had open must not wait for a container that is only created.
    """
    for fd in sorted(keep):
        if fd >= first:
            os.set_inheritable(fd, False)
            if fd > first:
                syscalls.close_range(first, fd - 1)
            first = fd + 1
    syscalls.close_range(first)


def _chdir(cwd: str, *, early: bool) -> bool:
    """Go to the working directory, as root first, and as the user if root cannot; whether
    it is done. And be sure that it is inside: the kernel names a folder that is not
    "(unreachable)"."""
    try:
        os.chdir(cwd)
    except PermissionError as error:
        if early:
            return False
        raise RuntimeFailure(
            f'chdir to cwd ("{cwd}") set in config.json failed: {describe(error)}', NOT_EXECUTABLE
        )
    except OSError as error:
        raise RuntimeFailure(
            f'chdir to cwd ("{cwd}") set in config.json failed: '
            f"{os.strerror(error.errno or 0).lower()}",
            NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else FAILED,
        )
    try:
        here = os.getcwdb()
    except OSError:
        here = b""
    if not here.startswith(b"/"):
        raise RuntimeFailure(
            "current working directory is outside of container mount namespace root "
            "-- possible container breakout detected"
        )
    return True


def environment(process: ProcessPlan) -> list[bytes]:
    """The process's environment; HOME from the container's /etc/passwd when it has none."""
    found: dict[bytes, bytes] = {}
    for word in process.env:
        raw = os.fsencode(word)
        key, equals, _ = raw.partition(b"=")
        if not equals:
            raise RuntimeFailure("invalid environment variable: missing '='")
        if not key:
            raise RuntimeFailure("invalid environment variable: name cannot be empty")
        if b"\0" in raw:
            raise RuntimeFailure(f'invalid environment variable "{os.fsdecode(key)}": contains nul')
        found[key] = raw  # a name given twice: the last one counts, as in runc
    if not found.get(b"HOME", b"").removeprefix(b"HOME="):
        found[b"HOME"] = b"HOME=" + home_of(process.identity.uid)
    return list(found.values())


def home_of(uid: int) -> bytes:
    """The home folder in this root's /etc/passwd, "/" when it says nothing.

    The file is the image's: only a regular file is read, and not more than a megabyte.
    """
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b"/"
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return b"/"
        data = os.read(fd, min(status.st_size + 1, _PASSWD_MAX))
    except OSError:
        return b"/"
    finally:
        os.close(fd)
    wanted = b"%d" % uid
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == wanted:
            return fields[5] or b"/"
    return b"/"


def look_up(process: ProcessPlan) -> bytes:
    """args[0] as execve takes it: by PATH unless it has a slash.

    Errors are runc's (Go's exec.LookPath), because dockerd's exit codes are read from
    their texts.
    """
    name = process.args[0]
    if "/" in name:
        _check_executable(name, name)
        return os.fsencode(name)
    path = ""
    for word in process.env:
        if word.startswith("PATH="):
            path = word[5:]
    denied = False
    for folder in path.split(":") if path else ():
        candidate = f"{folder or '.'}/{name}"
        try:
            status = os.stat(candidate)
        except PermissionError:
            denied = True
            continue
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            continue
        if not _may_execute(candidate, status.st_mode):
            denied = True
            continue
        return os.fsencode(candidate)
    if denied:
        raise RuntimeFailure(f'exec: "{name}": permission denied', NOT_EXECUTABLE)
    raise RuntimeFailure(f'exec: "{name}": executable file not found in $PATH', NOT_FOUND)


def _may_execute(path: str, mode: int) -> bool:
    """Whether this process may execute a file; by its mode alone where a seccomp filter
    forbids the question (as Go's LookPath)."""
    try:
        syscalls.check_executable(path)
    except OSError as error:
        return error.errno in (errno.EPERM, errno.ENOSYS) and bool(mode & 0o111)
    return True


def _check_executable(shown: str, path: str) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        text = os.strerror(error.errno or 0).lower()
        code = NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE
        raise RuntimeFailure(f'exec: "{shown}": stat {path}: {text}', code)
    if stat.S_ISDIR(status.st_mode):
        raise RuntimeFailure(f'exec: "{shown}": is a directory', NOT_EXECUTABLE)
    if not _may_execute(path, status.st_mode):
        raise RuntimeFailure(f'exec: "{shown}": permission denied', NOT_EXECUTABLE)


def load_seccomp(process: ProcessPlan, channel: Channel) -> None:
    """Load the filter; a listener's fd goes to the caller."""
    if process.seccomp is None:
        return
    listener = seccomp.install(process.seccomp)
    if listener is not None:
        channel.send(handshake.NOTIFY, b"", listener)
        os.close(listener)


def last_steps(process: ProcessPlan, path: bytes) -> Program:
    """What execve gets: nothing but that call is left to be done."""
    argv = [os.fsencode(word) for word in process.args]
    env = environment(process)
    security.set_exec_label(process)
    return Program(path, argv, env)


def exec_failed(path: bytes, number: int) -> int:
    """The kernel refuses, with errno `number`: the exit code.

    The process has already started for whoever asked: its own stderr tells why, and its
    status is 255, as in runc.
    """
    text = f"exec {os.fsdecode(path)}: {os.strerror(number).lower()}\n"
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "replace"))
    return 255
