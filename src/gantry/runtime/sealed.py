"""Running from memory that nobody can write to (CVE-2019-5736).

A process that enters a container can be reached from inside as /proc/PID/exe, and a
container's entry point can be a link to that: what is found there must not be the host's
interpreter. So commands that enter containers first say that they are another file, an empty
one in memory, sealed: nobody can write to it, and to execute it is an error. Where the kernel
does not let them (a plain user), they execute themselves again from a sealed copy.
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


def forget_locale() -> None:
    """Take from the environment what Python has put there (PEP 538): hooks, and the programs
    that commands call, have their caller's."""
    if os.environ.get("LC_CTYPE") not in ("C.UTF-8", "C.utf8", "UTF-8"):
        return
    try:
        with open("/proc/self/environ", "rb") as given:
            if any(word.startswith(b"LC_CTYPE=") for word in given.read().split(b"\0")):
                return
    except OSError:
        return
    del os.environ["LC_CTYPE"]


def seal(arguments: Sequence[str]) -> None:
    """Return only once this process's executable is sealed. May execute this program again,
    with `arguments`.

    OSError: it cannot be had, and nothing may be entered then.
    """
    if is_sealed():
        _forget_library()
    elif not _let_go():
        _execute_copy(arguments)


def _let_go() -> bool:
    """Whether the interpreter's file could be exchanged for an empty one."""
    if os.geteuid() != 0:
        return False
    from gantry.kernel import exefile

    fd = _memory()
    try:
        _add_seals(fd)
        exefile.become(fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return is_sealed()


def _execute_copy(arguments: Sequence[str]) -> None:
    python = _python()
    fd = _memory()
    original = os.open(python, os.O_RDONLY | os.O_CLOEXEC)
    while os.sendfile(fd, original, None, 1 << 26):
        pass
    os.close(original)
    _add_seals(fd)
    environment = dict(os.environ)
    library = _library(python)
    if library:
        # Before what the caller has there: _forget_library takes it away again.
        given = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = library if given is None else f"{library}:{given}"
    # The interpreter's own name, so that it finds its library; -I and -S keep the
    # environment and site packages out of a process that has rights.
    boot = getattr(sys.modules["__main__"], "__file__", None) or ""
    if not os.path.basename(boot).startswith("boot."):
        boot = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot.py")
    words = [python, "-I", "-S", "-X", "utf8", boot, *arguments]
    os.execve(f"/proc/self/fd/{fd}", words, environment)


def _python() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def _memory() -> int:
    return os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _add_seals(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, _ADD_SEALS, _SEALS)


def _library(python: str) -> str:
    """The folder of the interpreter's shared library, which a copy of the interpreter cannot
    find: it has no folder of its own that an RPATH of $ORIGIN could start from. "": none."""
    folder = os.path.join(os.path.dirname(os.path.dirname(python)), "lib")
    try:
        names = os.listdir(folder)
    except OSError:
        return ""
    return folder if any(name.startswith("libpython") for name in names) else ""


def _forget_library() -> None:
    """Give LD_LIBRARY_PATH back as the caller had it."""
    given = os.environ.get("LD_LIBRARY_PATH")
    library = _library(_python()) if given else ""
    if not library or given is None:
        return
    if given == library:
        del os.environ["LD_LIBRARY_PATH"]
    else:
        os.environ["LD_LIBRARY_PATH"] = given.removeprefix(library + ":")
