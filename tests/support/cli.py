"""Run the stock docker clients."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType


@dataclass(frozen=True)
class Done:
    """What a command did."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    def ok(self) -> str:
        """Return the output without its last newline; AssertionError if it failed."""
        assert self.code == 0, f"{' '.join(self.argv)}: {self.code}\n{self.out}\n{self.err}"
        return self.out.removesuffix("\n")

    def refused(self, pattern: str) -> str:
        """Check that the client or engine refused it: 1 or 125, as client versions differ."""
        return self.failed(125 if self.code == 125 else 1, pattern)

    def failed(self, code: int, pattern: str) -> str:
        """Check that it failed with `code` and a text of `pattern`; return stderr."""
        assert self.code == code, f"{self.argv}: {self.code}, not {code}\n{self.out}\n{self.err}"
        assert re.search(pattern, self.err), f"no {pattern!r} in {self.err!r}"
        return self.err


@cache
def clients() -> dict[str, str]:
    """Return the docker clients of this machine: short version → path, newest last."""
    found: dict[tuple[int, ...], str] = {}
    folders = [*os.environ.get("PATH", "").split(":"), "/usr/local/bin", "/usr/bin"]
    extra = os.environ.get("GANTRY_TEST_DOCKER", "")
    for path in [*extra.split(":"), *(f"{folder}/docker" for folder in folders)]:
        if not path or shutil.which(path) is None:
            continue
        text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        if match := re.search(r"version (\d+)\.(\d+)\.(\d+)", text):
            found.setdefault(tuple(map(int, match.groups())), str(Path(path).resolve()))
    return {f"{key[0]}.{key[1]}": found[key] for key in sorted(found)}


class Background(subprocess.Popen[bytes]):
    """A command in the background; when a test fails, leaving its block does not wait for it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, traceback)


@dataclass
class Cli:
    """One docker client talking to one engine."""

    path: str
    socket: str
    version: str
    config: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def major(self) -> int:
        """The client's major version."""
        return int(self.version.split(".", maxsplit=1)[0])

    def argv(self, *words: str) -> list[str]:
        """Return the whole command line."""
        return [self.path, "-H", f"unix://{self.socket}", *words]

    def env(self) -> dict[str, str]:
        """Return the environment that the client runs in."""
        keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        hints = {"DOCKER_CONFIG": self.config, "DOCKER_CLI_HINTS": "false", "TERM": "xterm"}
        return {**keep, **hints, "DOCKER_BUILDKIT": "0", **self.environment}

    def __call__(self, *words: str, stdin: bytes = b"", timeout: float = 60) -> Done:
        """Run to the end and return what it did."""
        argv = self.argv(*words)
        done = subprocess.run(
            argv, input=stdin, capture_output=True, env=self.env(), timeout=timeout
        )
        return Done(tuple(argv), done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start in the background, all three streams as pipes."""
        return Background(
            self.argv(*words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env(),
            # As from a terminal: a shell that runs the tests in the background ignores it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def field(self, name: str, template: str) -> str:
        """Return `inspect -f template name`."""
        return self("inspect", "-f", template, name).ok()
