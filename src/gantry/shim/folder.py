"""A task's folder: <exec-root>/tasks/<id>/, mode 0700, for as long as its shim lives.

    shim.sock     the shim listens here, for a daemon that comes after the one that started it
    state.json    written before the container is made (what to clean up) and after (its pid)
    exit.json     how init ended, where no daemon was there to be told
    error.log     a shim's last words, when it failed
    …             an external runtime's bundle

All of it is gone at the next boot and nothing is fsync'ed: it describes processes.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping

from gantry.model.task import ExitStatus

SOCKET = "shim.sock"
STATE = "state.json"
EXIT = "exit.json"
ERROR = "error.log"


class Folder:
    """path: the folder's absolute path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def create(self) -> None:
        """Make it. FileExistsError: another shim's."""
        os.mkdir(self.path, 0o700)

    def listen(self) -> socket.socket:
        """The shim's listening socket, mode 0600."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        folder = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fchmod(sock.fileno(), 0o600)  # what bind(2) then makes
            # By the folder's fd: its path may be longer than a socket's may be (108).
            sock.bind(f"/proc/self/fd/{folder}/{SOCKET}")
            sock.listen(8)
        except OSError:
            sock.close()
            raise
        finally:
            os.close(folder)
        return sock

    def write_state(self, state: Mapping[str, object]) -> None:
        """Replace state.json as a whole."""
        self._replace(STATE, state)

    def read_state(self) -> dict[str, object]:
        """state.json, {} when there is none (yet)."""
        return self._read(STATE)

    def exists(self) -> bool:
        """Whether it is (still) there."""
        return os.path.isdir(self.path)

    def write_exit(self, status: ExitStatus) -> None:
        """Keep how init ended."""
        record = {"code": status.code, "at": status.at, "oom_killed": status.oom_killed}
        self._replace(EXIT, record)

    def remove(self) -> None:
        """The folder and all in it. Idempotent."""
        remove_tree(self.path)

    def open_error_log(self) -> int:
        """An fd for last words."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(f"{self.path}/{ERROR}", flags, 0o600)

    def last_words(self) -> str:
        """What a shim that failed had to say, "" for one that was killed."""
        try:
            with open(f"{self.path}/{ERROR}", encoding="utf-8", errors="replace") as file:
                return file.read(1 << 16)
        except OSError:
            return ""

    def _replace(self, name: str, document: Mapping[str, object]) -> None:
        draft = f"{self.path}/.{name}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(document).encode())
        finally:
            os.close(fd)
        os.rename(draft, f"{self.path}/{name}")

    def _read(self, name: str) -> dict[str, object]:
        try:
            with open(f"{self.path}/{name}", "rb") as file:
                document = json.load(file)
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}


def remove_tree(path: str) -> None:
    """A folder of ours and all in it, as far as it goes (shutil would load bz2, lzma …)."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(path)
    except OSError:
        pass
