"""Start the launcher from a sealed copy of the Python interpreter.

What a container can reach as /proc/PID/exe of a process of ours is memory that nobody
can write to (CVE-2019-5736). The copy is run under the interpreter's own name, so it
finds its standard library; `-I -S` keeps environment, user and site packages out: the
launcher is standard library and gantry, and gantry's folder is told to it.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import gantry
from gantry.ipc.launcher import READY, READY_ALL
from gantry.kernel.syscalls import sealed_memfd
from gantry.model.errors import System

SHIMS = "gantry.shim.launcher"
KEEPERS = "gantry.shim.keepers"
"""Modules whose `main` is a launcher: of shims, of keepers (of streams, beside containerd)."""

_CODE = (
    "import os,sys;"
    "sys.path.insert(0,sys.argv[1]);"
    "os.close(int(sys.argv[3]));"
    "from {} import main;"
    "main(int(sys.argv[2]),sys.argv[4])"
)


@dataclass(frozen=True)
class Launched:
    """A launcher: its process (to be waited for), the socket to it, whether it has starters."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    starters: bool

    def close(self) -> None:
        """End it and reap it; its shims go on."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


class Interpreter:
    """A sealed copy of an interpreter. python: its path, None for the running one."""

    def __init__(self, python: str | None = None) -> None:
        found = python or getattr(sys, "_base_executable", "") or sys.executable
        self.path = os.path.realpath(found)
        try:
            content = Path(self.path).read_bytes()
            if not content.startswith(b"\x7fELF"):
                raise System(f"{self.path} is no ELF program: name a real Python interpreter")
            self._fd = sealed_memfd("gantry-launcher", content)
        except OSError as error:
            raise System(f"cannot copy the interpreter {self.path}: {error.strerror}") from None

    def close(self) -> None:
        """Forget the copy; processes that run from it keep it."""
        os.close(self._fd)

    def launch(
        self,
        scratch: str,
        module: str = SHIMS,
        *,
        files: tuple[int, int] | None = None,
        timeout: float = 60.0,
    ) -> Launched:
        """Start a launcher and wait till it is warm. scratch: a folder that it may make.

        module: whose launcher. files: its limits of open files (soft, hard), None for those
        of this process. timeout: seconds; a machine may be slow, and an end is seen at once.
        System: it did not start, and why.
        """
        ours, theirs = socket.socketpair()
        source = str(Path(gantry.__file__).parent.parent)
        errors = os.memfd_create("launcher-errors", os.MFD_CLOEXEC)
        try:
            process = subprocess.Popen(
                [
                    self.path,
                    *("-I", "-S", "-X", "utf8", "-c", _CODE.format(module)),
                    source,
                    str(theirs.fileno()),
                    str(self._fd),
                    scratch,
                ],
                executable=f"/proc/self/fd/{self._fd}",
                pass_fds=(theirs.fileno(), self._fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=self._environment(),
                start_new_session=True,
            )
            if files is not None:  # it forks nothing before it is warm
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, files)
            theirs.close()
            ours.settimeout(timeout)
            said_ready = _ready(ours)
            if not said_ready:
                process.kill()
                process.wait()
                os.lseek(errors, 0, os.SEEK_SET)
                said = os.read(errors, 1 << 16).decode(errors="replace").strip()
                reason = said.splitlines()[-1] if said else f"code {process.returncode}"
                raise System(f"the launcher ({self.path}) did not start: {reason}")
        except OSError as error:
            ours.close()
            theirs.close()
            raise System(f"cannot start the launcher from memory: {error}") from None
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(errors)
        ours.setblocking(False)
        return Launched(process, ours, starters=said_ready == READY_ALL)

    def _environment(self) -> dict[str, str]:
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8"}
        # Where systemd is, for the systemd cgroup driver.
        for name in ("DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"):
            if name in os.environ:
                environment[name] = os.environ[name]
        if self._is_running and sysconfig.get_config_var("Py_ENABLE_SHARED"):
            # The copy has no folder that an RPATH of $ORIGIN could start from.
            environment["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
        return environment

    @property
    def _is_running(self) -> bool:
        return self.path == os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _ready(sock: socket.socket) -> bytes:
    """What the launcher says when it is warm; b"" when it does not."""
    try:
        said = sock.recv(1)
    except TimeoutError:
        return b""
    return said if said in (READY, READY_ALL) else b""
