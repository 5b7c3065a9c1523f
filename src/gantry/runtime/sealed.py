"""Running from memory that nobody can write to (CVE-2019-5736).

A process that enters a container can be reached from inside as /proc/PID/exe, and a
container's entry point can be a link to it. What is found there must not be the host's
interpreter, so commands that enter containers run from a sealed copy of it. The installed
command (scripts/gantry-runc) has made one already where it could.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "gantry-runc"
_SEALS = 0xF  # seal, shrink, grow, write
_GET_SEALS = 1034
_ADD_SEALS = 1033


def is_sealed() -> bool:
    """Whether this process's executable is a memfd with all seals."""
    import fcntl

    try:
        fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fcntl.fcntl(fd, _GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False  # a file of a file system: it has no seals
    finally:
        os.close(fd)


def run_sealed(arguments: Sequence[str]) -> None:
    """Execute this program again from a sealed copy; returns when it already is one.

    OSError: there is no copy to be had, and nothing may be entered then.
    """
    if is_sealed():
        return
    import fcntl

    python = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    fd = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    original = os.open(python, os.O_RDONLY | os.O_CLOEXEC)
    while os.sendfile(fd, original, None, 1 << 26):
        pass
    os.close(original)
    fcntl.fcntl(fd, _ADD_SEALS, _SEALS)
    environment = dict(os.environ)
    library = os.path.join(os.path.dirname(os.path.dirname(python)), "lib")
    if any(name.startswith("libpython") for name in _names(library)):
        # The copy has no folder that an RPATH of $ORIGIN could start from.
        environment["LD_LIBRARY_PATH"] = library
    # The interpreter's own name, so that it finds its library; -I and -S keep the
    # environment and site packages out of a process that has rights.
    boot = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot.py")
    words = [python, "-I", "-S", "-X", "utf8", boot, *arguments]
    os.execve(f"/proc/self/fd/{fd}", words, environment)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
