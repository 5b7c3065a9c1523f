"""The daemon's own files: both roots with their locks, the pid file, and how many may be open;
and how dear it is to the kernel.

Two daemons on one root would destroy each other's containers, so each root is locked
(flock(2), which goes with the process however it ends) before anything in it is read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource

from gantry.model.errors import Conflict, InvalidParameter, System


def raise_file_limit() -> None:
    """As many open files as we may have. The usual 1024 are for programs that use select(2); a
    published port, a sandbox and a client are a file each. Go does the same for dockerd."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def set_oom_score(score: int) -> None:
    """How soon the kernel kills the daemon, its launcher and shims for memory (proc(5));
    containers have their own. InvalidParameter, System."""
    if not -1000 <= score <= 1000:
        raise InvalidParameter(f"invalid oom-score-adjust {score}: must be between -1000 and 1000")
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError as error:
        raise System(f"unable to set the OOM score: {os.strerror(error.errno or 0)}")


def prepare(path: str, mode: int) -> None:
    """Make a root folder. mode: 0710 for data, 0711 for run-time state."""
    try:
        os.makedirs(path, mode=mode, exist_ok=True)
        os.chmod(path, mode)
    except OSError as error:
        raise System(f"unable to make {path}: {os.strerror(error.errno or 0)}")


def lock(folder: str, stack: contextlib.ExitStack) -> None:
    """Hold a root until `stack` closes. Conflict when another daemon has it."""
    path = os.path.join(folder, "lock")
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    stack.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"another gantryd is using {folder}")


def write_pidfile(path: str, stack: contextlib.ExitStack) -> None:
    """Write our pid; it is removed when `stack` closes. Conflict: that process still lives."""
    if not path:
        return
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        pid = int(file.read().strip() or 0)
        if pid not in (0, os.getpid()) and _is_daemon(pid):
            raise Conflict(
                f"failed to start daemon, ensure gantryd is not running or delete {path}: "
                f"process with PID {pid} is still running"
            )
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
    except OSError as error:
        raise System(f"can't write pid file {path}: {os.strerror(error.errno or 0)}")
    stack.callback(_remove, path)


def _is_daemon(pid: int) -> bool:
    """Pids are given anew: only a gantryd counts, as a crashed one leaves its file behind."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"gantryd" in file.read()
    except OSError:
        return False


def _remove(path: str) -> None:
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        if file.read().strip() != str(os.getpid()):
            return
    with contextlib.suppress(OSError):
        os.unlink(path)
