"""Our engine with a real containerd below it (`gantryd --containerd`)."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

from tests.support.cli import Done
from tests.support.engine import Engine
from tests.support.peers import CONTAINERD, find, run
from tests.support.wait import eventually

NAMESPACE = "moby"


class SupervisedEngine(Engine):
    """gantryd and a containerd of its own, both in the engine's network namespace.

    runtime: what containers run on; runc, or "gantry" for our own program.
    """

    def __init__(self, flags: tuple[str, ...] = (), runtime: str = "runc") -> None:
        super().__init__("gantry")
        self.address = str(self.root / "c.sock")
        self.flags = ("--containerd", self.address, "--default-runtime", runtime, *flags)
        self.containerd: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the machine, and start containerd."""
        super().create()
        (self.root / "containerd.toml").write_text(
            f'version = 2\nroot = "{self.root}/c/root"\nstate = "{self.root}/c/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self.address}"\n[ttrpc]\naddress = "{self.address}.ttrpc"\n'
        )
        self.start_containerd()

    def start_containerd(self) -> None:
        """Start it and wait until it answers."""
        program = CONTAINERD or find("containerd")
        words = [*self.machine.host.command, program, "-c", f"{self.root}/containerd.toml"]
        path = f"{os.path.dirname(program)}:{os.environ['PATH']}:/usr/sbin:/sbin"
        with (self.root / "containerd.log").open("ab") as log:
            self.containerd = subprocess.Popen(
                words, stdout=log, stderr=log, env={**os.environ, "PATH": path}
            )
        eventually(lambda: self.ctr("version").code == 0, "containerd's answer", timeout=30)

    def stop_containerd(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it alone; its shims go on."""
        assert self.containerd is not None
        self.containerd.send_signal(number)
        self.containerd.wait(30)
        self.containerd = None

    def ctr(self, *words: str) -> Done:
        """Its own client."""
        return run([find("ctr"), "-a", self.address, "-n", NAMESPACE, *words])

    def destroy(self) -> None:
        """All of it, containerd's shims included."""
        super().destroy()
        if self.containerd is not None:
            with suppress(subprocess.TimeoutExpired):
                self.containerd.wait(10)
