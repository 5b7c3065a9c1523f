"""Drive a program through a pseudo-terminal, as a person at a terminal does."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from typing import Self


class Terminal:
    """A program with a pseudo-terminal of its own as controlling terminal."""

    def __init__(
        self, argv: list[str], env: dict[str, str], rows: int = 24, columns: int = 80
    ) -> None:
        self._master, slave = os.openpty()
        self._set_size(rows, columns)
        self.seen = b""
        self._read = 0
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", *argv],  # execs: the pid stays
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=env,
            )
        finally:
            os.close(slave)

    def _set_size(self, rows: int, columns: int) -> None:
        packed = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, packed)

    def resize(self, rows: int, columns: int) -> None:
        """Change the terminal's size; the kernel tells the program by SIGWINCH."""
        self._set_size(rows, columns)

    def send(self, data: bytes) -> None:
        """Type."""
        os.write(self._master, data)

    def _fill(self, deadline: float) -> bool:
        wait = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([self._master], [], [], wait)
        if not ready:
            raise AssertionError(f"nothing more came; seen so far: {self.seen!r}")
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the program's side is closed
            return False
        self.seen += data
        return bool(data)

    def expect(self, pattern: bytes, timeout: float = 20) -> re.Match[bytes]:
        """Wait for output of `pattern` after what was expected before."""
        deadline = time.monotonic() + timeout
        while True:
            if match := re.search(pattern, self.seen[self._read :]):
                self._read += match.end()
                return match
            if not self._fill(deadline):
                raise AssertionError(f"ended without {pattern!r}: {self.seen!r}")

    def wait(self, timeout: float = 20) -> int:
        """Wait for the program's end and return its exit code."""
        deadline = time.monotonic() + timeout
        while self._fill(deadline):
            pass
        return self.process.wait(timeout)

    def close(self) -> None:
        """End the program if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
