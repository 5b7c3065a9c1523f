"""A real systemd, first process of namespaces of its own, with no unit but those it makes.

Only on the second kernel (`make test-cgroup2`), whose machine is an overlay in memory: a
systemd writes to the machine that it runs on, whatever namespaces it is in.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.support.plain import PLAIN, USER
from tests.support.wait import eventually

PROGRAM: Final = "/lib/systemd/systemd"
_BOOTED: Final = Path("/run/systemd/system")
_CGROUP: Final = Path("/sys/fs/cgroup/systemd-under-test")

# It enters its cgroup after the fork: the namespace's root must hold no process but systemd,
# which then hands controllers down.
_GUEST: Final = """
echo 0 > {cgroup}/cgroup.procs
exec unshare --cgroup sh -c '
mount --make-rprivate /
mount -t tmpfs run /run
mkdir -p /run/lock
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec {program} --unit=nothing.target --log-target=console --log-level=warning --show-status=0'
"""


def absent() -> str:
    """Why there can be no systemd here, "" when there can."""
    if os.environ.get("MACHINE") != "cgroup2":
        return "a systemd is only started on the second kernel (make test-cgroup2)"
    if not os.path.exists(PROGRAM):
        return "systemd is not installed"
    return ""


class Systemd:
    """Started by the constructor; `command` are the words that run what follows beside it."""

    def __init__(self) -> None:
        assert not absent(), absent()
        # What it may know: one empty target. Nothing of the machine's own units is started.
        self._folder = Path(tempfile.mkdtemp(prefix="systemd-", dir="/var/tmp"))
        units = self._folder / "units"
        units.mkdir()
        (units / "nothing.target").write_text("[Unit]\nDefaultDependencies=no\n")
        _CGROUP.mkdir(exist_ok=True)
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(
            ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--ipc", "--uts",
             "--mount-proc", "sh", "-c", _GUEST.format(program=PROGRAM, cgroup=_CGROUP)],
            env={
                "PATH": os.environ["PATH"],
                "container": "test",
                "SYSTEMD_UNIT_PATH": str(units),
                "SYSTEMD_GENERATOR_PATH": str(self._folder / "none"),
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )  # fmt: skip
        private = "root/run/systemd/private"
        eventually(lambda: os.path.exists(f"/proc/{self.pid}/{private}"), timeout=60)
        self.command = ["nsenter", "-t", str(self.pid), "-a", "--"]

    @property
    def pid(self) -> int:
        """systemd, as this machine counts; 0 while there is none."""
        parent = self._process.pid
        words = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(words[0]) if words else 0

    def run(self, *words: str) -> str:
        """Run a command beside it, which has to succeed; its output."""
        done = subprocess.run([*self.command, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """A unit's properties, as systemctl shows them."""
        text = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def close(self) -> None:
        """End it and all that it runs."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class UserSystemd:
    """A plain user's own systemd, with a part of the cgroups that is handed to the user.

    command: runs what follows as the user, in that part, as a session's processes are.
    """

    def __init__(self) -> None:
        assert not absent(), absent()
        self._folder = Path(tempfile.mkdtemp(prefix="systemd-", dir="/var/tmp"))
        self.group = Path("/sys/fs/cgroup/user-under-test")
        (self._folder / "nothing.target").write_text("[Unit]\nDefaultDependencies=no\n")
        self.group.mkdir()
        _BOOTED.mkdir(parents=True)  # a user's systemd does not start on any other machine
        (self.group / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        for path in (self.group / "mine", self._folder):
            path.mkdir(exist_ok=True)
            self._give(path)
        words = [PROGRAM, "--user", "--unit=nothing.target", "--log-target=null"]
        self._process = subprocess.Popen(
            ["sh", "-c", f'echo 0 > {self.group}/mine/cgroup.procs; exec "$@"', "sh",
             *PLAIN, *words],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                "XDG_RUNTIME_DIR": str(self._folder),
                "SYSTEMD_UNIT_PATH": str(self._folder),
                "SYSTEMD_GENERATOR_PATH": str(self._folder / "none"),
            },
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        eventually((self._folder / "systemd/private").exists, timeout=60)
        session = self.group / "mine/session"
        session.mkdir()
        self._give(session)
        self.command = ["sh", "-c", f'echo 0 > {session}/cgroup.procs; exec "$@"', "sh", *PLAIN,
                        "env", f"XDG_RUNTIME_DIR={self._folder}"]  # fmt: skip

    @staticmethod
    def _give(path: Path) -> None:
        os.chown(path, USER, USER)
        for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            if (path / name).exists():
                os.chown(path / name, USER, USER)

    def close(self) -> None:
        """End it; its containers have ended before."""
        self._process.kill()
        self._process.wait()
        _BOOTED.rmdir()
        shutil.rmtree(self._folder, ignore_errors=True)
