"""Bundles and runtimes for the black-box suite: nothing here knows what gantry is.

A `Bundle` is a folder with config.json and a busybox root; a `Runtime` is a binary with
runc's command line and a state folder of its own.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Config: TypeAlias = dict[str, object]

BUSYBOX = shutil.which("busybox") or "/bin/busybox"
APPLETS = (
    "sh", "true", "false", "cat", "ls", "id", "mount", "umount", "echo", "sleep", "ps", "grep",
    "env", "ip", "hostname", "stat", "touch", "mkdir", "mknod", "readlink", "tr", "head", "wc",
    "kill", "test", "dd", "chmod", "chown", "ln", "rm", "cp", "awk", "sed", "tail", "pwd", "tty",
    "stty", "sort", "cut", "find", "nice", "ulimit", "date", "uname", "unshare", "chroot",
)  # fmt: skip

NODES = ["nosuid", "noexec", "nodev"]


def make_root(folder: Path) -> Path:
    """A root file system of busybox and two files in /etc."""
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "root", "mnt", "var"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "tmp").chmod(0o1777)
    shutil.copy2(BUSYBOX, folder / "bin/busybox")
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:u:/home/user:/bin/sh\n"
    )
    (folder / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    return folder


def base_config() -> Config:
    """The smallest config that is like a container engine's: everything private."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID"],
                "effective": ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID"],
                "permitted": ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID"],
            },
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": [
                    "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5",
                ],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*NODES, "mode=1777", "size=65536k"],
            },
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": [*NODES, "ro"],
            },
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    }  # fmt: skip


class Bundle:
    """A bundle folder. `config` is written by each use of it."""

    def __init__(self, folder: Path, root_template: Path) -> None:
        self.folder = folder
        self.rootfs = folder / "rootfs"
        shutil.copytree(root_template, self.rootfs, symlinks=True, copy_function=os.link)
        # A root that is written to: files that a test changes must not be the template's.
        for name in ("passwd", "group"):
            path = self.rootfs / "etc" / name
            text = path.read_text()
            path.unlink()
            path.write_text(text)
        (self.rootfs / "tmp").chmod(0o1777)
        self.config = base_config()

    def write(self) -> Path:
        """Write config.json; the bundle's folder."""
        (self.folder / "config.json").write_text(json.dumps(self.config))
        return self.folder

    def part(self, *path: str) -> dict[str, object]:
        """An object inside the config, made where it is missing."""
        here: dict[str, object] = self.config
        for name in path:
            found = here.setdefault(name, {})
            assert isinstance(found, dict)
            here = found
        return here

    def entries(self, *path: str) -> list[object]:
        """A list inside the config, made where it is missing."""
        found = self.part(*path[:-1]).setdefault(path[-1], [])
        assert isinstance(found, list)
        return found

    def sh(self, script: str) -> Bundle:
        """Run a shell script as the process."""
        self.part("process")["args"] = ["sh", "-c", script]
        return self

    def args(self, *words: str) -> Bundle:
        self.part("process")["args"] = list(words)
        return self

    def mount(self, destination: str, kind: str, source: str, *options: str) -> Bundle:
        self.entries("mounts").append(
            {"destination": destination, "type": kind, "source": source, "options": list(options)}
        )
        return self

    def caps(self, *names: str) -> Bundle:
        """Exactly these capabilities, in the three sets that count."""
        self.part("process")["capabilities"] = {
            kind: list(names) for kind in ("bounding", "effective", "permitted")
        }
        return self

    def namespace(self, kind: str, path: str | None = None) -> Bundle:
        """Add a namespace, or say where it is."""
        spaces = [n for n in self.entries("linux", "namespaces") if n != {"type": kind}]
        spaces.append({"type": kind} if path is None else {"type": kind, "path": path})
        self.part("linux")["namespaces"] = spaces
        return self

    def without(self, kind: str) -> Bundle:
        spaces = self.entries("linux", "namespaces")
        self.part("linux")["namespaces"] = [n for n in spaces if n != {"type": kind}]
        return self

    def copy(self) -> Config:
        return copy.deepcopy(self.config)


@dataclass
class Result:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Runtime:
    """A runtime binary. Everything it is asked to make is removed by `clean`."""

    name: str
    command: Sequence[str]
    root: Path
    ids: list[str] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __call__(
        self,
        *words: str,
        stdin: str | bytes = "",
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*self.command, "--root", str(self.root), *words],
            input=data,
            capture_output=True,
            timeout=timeout,
            env=env,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*self.command, "--root", str(self.root), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def new_id(self) -> str:
        name = f"oci{uuid.uuid4().hex[:12]}"
        self.ids.append(name)
        return name

    def run(self, bundle: Bundle, *flags: str, stdin: str = "") -> Result:
        """Run to the end in the foreground."""
        return self("run", *flags, "-b", str(bundle.write()), self.new_id(), stdin=stdin)

    def ok(self, bundle: Bundle, *flags: str, stdin: str = "") -> str:
        """Run to the end, which must be good; stdout."""
        result = self.run(bundle, *flags, stdin=stdin)
        assert result.code == 0, result.text
        return result.out

    def detached(self, bundle: Bundle, *flags: str) -> str:
        """Start and leave running; the id."""
        name = self.new_id()
        done = self._leave(name, "run", "-d", *flags, "-b", str(bundle.write()), name)
        assert done.code == 0, done.err
        return name

    def create(self, bundle: Bundle, *flags: str) -> str:
        """Create and leave; the id. stdout is closed: an init must not hold our pipes."""
        name = self.new_id()
        done = self.create_process(bundle, name, *flags)
        assert done.code == 0, done.err
        return name

    def create_process(self, bundle: Bundle, name: str, *flags: str) -> Result:
        return self._leave(name, "create", *flags, "-b", str(bundle.write()), name)

    def _leave(self, name: str, *words: str) -> Result:
        """A command whose container lives on: it must not hold a pipe of ours."""
        output = self.root.parent / f"{name}.out"
        with output.open("w") as file:
            done = subprocess.run(
                [*self.command, "--root", str(self.root), *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=60,
            )
        return Result(done.returncode, "", output.read_text())

    def state(self, name: str) -> dict[str, object]:
        result = self("state", name)
        assert result.code == 0, result.text
        document = json.loads(result.out)
        assert isinstance(document, dict)
        return document

    def pid(self, name: str) -> int:
        pid = self.state(name)["pid"]
        assert isinstance(pid, int)
        return pid

    def wait_status(self, name: str, status: str, seconds: float = 10) -> None:
        wait_for(lambda: self.state(name)["status"] == status, seconds)

    def clean(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for name in self.ids:
            if (self.root / name).exists():
                self("delete", "--force", name)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Until something is so; an AssertionError when it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def commands() -> dict[str, list[str]]:
    """The runtimes to judge. OCI_RUNTIME=/path adds one of the user's."""
    found = {"gantry-runc": [os.path.join(os.path.dirname(sys.executable), "gantry-runc")]}
    runc = shutil.which("runc", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if runc:
        found["runc"] = [runc]
    extra = os.environ.get("OCI_RUNTIME")
    if extra:
        found[os.path.basename(extra)] = [extra]
    return found
