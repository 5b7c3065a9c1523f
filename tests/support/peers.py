"""Other people's engines on our runtime, and our engine on other people's runtimes.

Each has its own roots and sockets; what `docker` and `podman` have in common is called
the same way.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import image
from tests.support.cli import Done
from tests.support.engine import Engine
from tests.support.wait import eventually

GANTRY_RUNC = str(Path(sys.executable).parent / "gantry-runc")
CONTAINERD = os.environ.get("GANTRY_TEST_CONTAINERD", "")
"""Another containerd than the one in PATH, with its shims beside it."""
_SBIN = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_UNIFIED = Path("/sys/fs/cgroup/unified/cgroup.controllers")


def find(program: str) -> str:
    """A program's path; "" when it is not installed."""
    return shutil.which(program, path=_SBIN) or ""


def run(argv: list[str], stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Done:
    """Run a command to its end."""
    done = subprocess.run(argv, input=stdin, capture_output=True, env=env, timeout=60)
    return Done(tuple(argv), done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass
class Front:
    """An engine under test. `call` takes docker's words; `flags` are for each `run`."""

    name: str
    call: Callable[..., Done]
    flags: tuple[str, ...] = ()
    names: list[str] = field(default_factory=list)

    def run(self, name: str, *words: str) -> Done:
        """`run --name name` with its flags before those given."""
        self.names.append(name)
        return self.call("run", "--name", name, "--network", "none", *self.flags, *words)

    def clean(self) -> None:
        """Remove the containers."""
        for name in self.names:
            self.call("kill", "-s", "KILL", name)  # podman would wait for SIGTERM's effect
            self.call("rm", "-f", name)
        self.names.clear()


@contextmanager
def dockerd_on_gantry() -> Iterator[Front]:
    """Debian's dockerd with gantry-runc beside its own runtime."""
    flags = ("--add-runtime", f"gantry={GANTRY_RUNC}", "--iptables=false", "--bridge=none")
    with Engine("dockerd", flags) as engine:
        engine.add_image()
        yield Front("dockerd", engine.cli(), ("--runtime", "gantry"))


@contextmanager
def gantryd_on(program: str, folder: Path) -> Iterator[Front]:
    """Our engine with a real runtime beside its own."""
    path = _for_hybrid(program, folder)
    with Engine("gantry", ("--add-runtime", f"peer={path}")) as engine:
        engine.add_image()
        yield Front(f"gantryd on {program}", engine.cli(), ("--runtime", "peer"))


def _for_hybrid(program: str, folder: Path) -> str:
    """The program. crun refuses a machine whose v2 hierarchy has controllers beside v1's (one
    of v1's that is not mounted is enough): there it is shown one that has none."""
    path = find(program)
    if program != "crun" or not _UNIFIED.exists() or not _UNIFIED.read_text().strip():
        return path
    script = folder / "crun"
    inside = f'mount --bind /dev/null {_UNIFIED} && exec {path} "$@"'
    script.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{inside}' crun \"$@\"\n")
    script.chmod(0o755)
    return str(script)


@contextmanager
def podman_on_gantry(folder: Path) -> Iterator[Front]:
    """Podman, with roots of its own."""
    settings = folder / "containers.conf"
    settings.write_text(
        "[containers]\n"
        'default_ulimits = ["nofile=512:512", "nproc=512:512"]\n'  # never above what we have
        "[engine]\n"
        'cgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    env = {**os.environ, "PATH": _SBIN, "CONTAINERS_CONF": str(settings)}
    roots = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
    words = [find("podman"), *roots, "--tmpdir", str(folder / "tmp"), "--storage-driver", "vfs",
             "--runtime", GANTRY_RUNC]  # fmt: skip

    def call(*more: str, stdin: bytes = b"") -> Done:
        return run([*words, *more], stdin, env)

    tar = folder / "root.tar"
    tar.write_bytes(image.rootfs())
    call("import", "--change", "ENV PATH=/bin", str(tar), "busybox").ok()
    try:
        yield Front("podman", call)
    finally:
        _remove_empty("libpod_parent")


def _remove_empty(name: str) -> None:
    """Remove the cgroups of a name that Podman leaves, as far as nobody is in them."""
    top = Path("/sys/fs/cgroup")
    for group in (*top.glob(name), *top.glob(f"*/{name}")):
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)


@dataclass
class Ctr:
    """A real containerd of our own, by its command-line client."""

    address: str
    rootfs: Path
    namespace: str

    def __call__(self, *words: str) -> Done:
        return run([find("ctr"), "-a", self.address, "-n", self.namespace, *words])

    def run(self, name: str, *words: str, flags: tuple[str, ...] = ()) -> Done:
        """Run a container of ours: its root is a folder, its runtime gantry-runc."""
        return self(
            "run", *flags, "--env", "PATH=/bin", "--runc-binary", GANTRY_RUNC, "--rootfs",
            str(self.rootfs), name, *words,
        )  # fmt: skip

    def tasks(self) -> dict[str, str]:
        """Task → its status."""
        lines = self("task", "ls").ok().splitlines()[1:]
        return {line.split()[0]: line.split()[2] for line in lines}


@contextmanager
def containerd(folder: Path) -> Iterator[Ctr]:
    """A containerd with everything of its own under `folder`."""
    settings = folder / "config.toml"
    settings.write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{folder}/c.sock"\n[ttrpc]\naddress = "{folder}/c.ttrpc"\n'
    )
    rootfs = folder / "rootfs"
    rootfs.mkdir()
    subprocess.run(["tar", "-x", "-C", str(rootfs)], input=image.rootfs(), check=True)
    made = Ctr(f"{folder}/c.sock", rootfs, f"gantry{os.getpid()}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [CONTAINERD or find("containerd"), "-c", str(settings)], stdout=log, stderr=log,
            env={**os.environ, "PATH": f"{os.path.dirname(CONTAINERD)}:{_SBIN}".lstrip(":")},
        )  # fmt: skip
        try:
            eventually(lambda: made("version").code == 0, timeout=30)
            yield made
        finally:
            for name in made.tasks():
                made("task", "rm", "-f", name)
            for name in made("container", "ls", "-q").out.split():
                made("container", "rm", name)
            process.send_signal(signal.SIGTERM)
            process.wait(30)
