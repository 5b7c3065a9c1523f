"""Start and stop an engine, ours or Debian's dockerd, in scratch roots.

`GANTRY_TEST_ENGINE` chooses (`gantry`, the default, or `dockerd`); `GANTRY_TEST_GANTRYD`
names another gantryd than the one beside this Python. `GANTRY_TEST_SUPERVISOR=containerd`
puts a real containerd below ours.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support import image
from tests.support.api import Api
from tests.support.cli import Cli, clients
from tests.support.machine import Machine
from tests.support.wait import eventually

START_TIMEOUT = 30.0


def chosen() -> str:
    """Return the kind of engine under test."""
    kind = os.environ.get("GANTRY_TEST_ENGINE", "gantry")
    if kind not in ("gantry", "dockerd"):
        raise ValueError(f"GANTRY_TEST_ENGINE: {kind!r} is neither gantry nor dockerd")
    return kind


def under_test() -> Engine:
    """Return the engine under test, not started."""
    if os.environ.get("GANTRY_TEST_SUPERVISOR") == "containerd":
        from tests.support.supervised import SupervisedEngine

        return SupervisedEngine()
    return Engine()


def program(kind: str) -> str:
    """Return the path of an engine's program, or raise FileNotFoundError."""
    if kind == "gantry":
        beside = str(Path(sys.executable).parent / "gantryd")
        path = os.environ.get("GANTRY_TEST_GANTRYD", beside)
    else:
        path = shutil.which("dockerd") or "/usr/sbin/dockerd"
    if not Path(path).exists():
        raise FileNotFoundError(path)
    return path


def read(path: str | Path) -> str:
    """Return a file's text, empty if it is gone."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@dataclass(frozen=True)
class Usage:
    """What the engine and its containers hold of the machine."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    links: frozenset[str]
    nft: str
    namespaces: int
    processes: int
    fds: tuple[str, ...]
    files: frozenset[str]


class Engine:
    """One engine on a machine of its own."""

    def __init__(self, kind: str | None = None, flags: tuple[str, ...] = ()) -> None:
        self.kind = kind or chosen()
        self.root = Path(tempfile.mkdtemp(prefix="gt-", dir="/tmp"))
        # Bind mount sources and container users have to pass through this folder.
        self.root.chmod(0o711)
        self.socket = str(self.root / "e.sock")
        self.data_root = self.root / "data"
        self.exec_root = self.root / "exec"
        self.pidfile = self.root / "e.pid"
        self.log = self.root / "log"
        self.flags = flags
        self.machine = Machine()
        self.process: subprocess.Popen[bytes] | None = None
        self.config = self.root / "config"
        self.config.mkdir()

    # Life

    def argv(self) -> list[str]:
        """Return the engine's command line."""
        return [
            *self.machine.host.command,
            program(self.kind),
            *("-H", f"unix://{self.socket}"),
            *("--data-root", str(self.data_root)),
            *("--exec-root", str(self.exec_root)),
            *("-p", str(self.pidfile)),
            *self.flags,
        ]

    def create(self) -> None:
        """Make the machine; once, before the first `start`."""
        self.machine.start()

    def start(self) -> None:
        """Start the engine and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with suppress(OSError), Api(self.socket, timeout=10) as api:
                if api.get("/_ping").status == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind} did not start:\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, lines: int = 30) -> str:
        """Return the end of the engine's own log."""
        return "\n".join(read(self.log).splitlines()[-lines:])

    @property
    def pid(self) -> int:
        """The daemon's pid."""
        assert self.process is not None, "not started"
        return self.process.pid

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM the daemon and wait for its end; return its exit code."""
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """SIGKILL the daemon alone."""
        self._end(signal.SIGKILL, 10)

    def _end(self, number: signal.Signals, timeout: float) -> int:
        assert self.process is not None, "not started"
        self.process.send_signal(number)
        code = self.process.wait(timeout)
        self.process = None
        return code

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def destroy(self) -> None:
        """End all containers and processes and remove the scratch roots."""
        if self.process is not None and self.process.poll() is None:
            with suppress(Exception):
                self.clean()
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        for pid in self._strays():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.machine.stop()
        for mount in sorted(self.mounts(), key=len, reverse=True):
            subprocess.run(["umount", "-l", mount], capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.create()
            self.start()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.destroy()

    # Clients

    def api(self, version: str = "") -> Api:
        """Return an API client."""
        return Api(self.socket, version)

    def cli(self, version: str = "") -> Cli:
        """Return a docker client; the newest there is unless told."""
        found = clients()
        version = version or list(found)[-1]
        return Cli(found[version], self.socket, version, str(self.config))

    def add_image(self) -> None:
        """Import busybox."""
        params: dict[str, str | int | bool | dict[str, list[str]]] = {
            "fromSrc": "-",
            "repo": "busybox",
            "tag": "latest",
            "changes": 'CMD ["sh"]',
        }
        with self.api() as api:
            answer = api.post("/images/create", params, image.rootfs()).expect(200)
            assert all("error" not in line for line in answer.lines()), answer.body

    def clean(self) -> None:
        """Remove all containers and their volumes."""
        with self.api() as api:
            for entry in api.get("/containers/json", {"all": 1}).array():
                api.delete(f"/containers/{entry['Id']}", {"force": 1, "v": 1})

    # What it holds

    def processes(self) -> list[int]:
        """Return the engine's processes: daemon, launcher, shims, but no container's."""
        return self.machine.host.processes()

    def _strays(self) -> list[int]:
        marker = str(self.root)
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                root = next(iter(read(f"/proc/{name}/mountinfo").splitlines()), "")
                if marker in root:
                    found.append(int(name))
        return found

    def mounts(self) -> list[str]:
        """Return the mount points under the scratch roots."""
        table = read("/proc/self/mountinfo").splitlines()
        points = [line.split(" ")[4] for line in table]
        return [point for point in points if point.startswith(str(self.root))]

    def pss(self, but: Collection[int] = ()) -> int:
        """Return the memory of all the engine's processes (PSS, bytes), `but` some."""
        total = 0
        for pid in set(self.processes()).difference(but):
            if found := re.search(r"^Pss:\s+(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.M):
                total += int(found[1]) * 1024
        return total

    def usage(self, ids: set[str]) -> Usage:
        """Count everything held; cgroups are those named after one of `ids`."""
        cgroups = set()
        for folder, names, _ in os.walk("/sys/fs/cgroup"):
            cgroups |= {f"{folder}/{name}" for name in names if any(i in name for i in ids)}
        files = set()
        for top in (self.data_root, self.exec_root):
            for folder, folders, names in os.walk(top):
                files |= {f"{folder}/{name}" for name in [*folders, *names]}
        listing = self.machine.host.run("ip", "-o", "link").splitlines()
        links = {line.split(": ")[1].split("@")[0] for line in listing}
        rules = self.machine.host.run("nft", "list", "ruleset")
        ours = self.processes()
        fds: list[str] = []
        for pid in ours:
            with suppress(OSError):
                fds += _open_files(pid)
        return Usage(
            mounts=frozenset(self.mounts()),
            cgroups=frozenset(cgroups),
            links=frozenset(links),
            nft=" ".join(re.sub(r"packets \d+ bytes \d+", "", rules).split()),
            namespaces=len(_namespaces()),
            processes=len(ours),
            fds=tuple(sorted(fds)),
            files=frozenset(files),
        )


def _open_files(pid: int) -> list[str]:
    """What each fd of a process leads to, without numbers, sockets by their family."""
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    sockets = {}
    for kind in ("unix", "netlink", "tcp", "tcp6", "udp", "packet"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            for word in words:
                sockets[f"socket:[{word}]"] = f"{kind} {words[-1] if kind == 'unix' else words[1]}"
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        found.append(f"{name}: {re.sub('[0-9]+', '#', sockets.get(target, target))}")
    return found


def _namespaces() -> set[str]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                found.add(os.readlink(f"/proc/{name}/ns/net"))
    return found


def wait_gone(pid: int, timeout: float = 20) -> None:
    """Wait until a process that is no child of ours is gone (or a zombie)."""

    def gone() -> bool:
        status = read(f"/proc/{pid}/stat")
        return not status or status.rpartition(")")[2].split()[0] in "ZX"

    eventually(gone, f"end of {pid}", timeout)
