"""Giving a process's terminal, pidfd and pid to whoever called."""

from __future__ import annotations

import os
import socket
import struct

from gantry.runtime.errors import RuntimeFailure


def send_fd(path: str, fd: int, name: str) -> None:
    """Send an fd over the stream socket at `path`, its name as the message (runc's way)."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(path)
            sock.sendmsg(
                [name.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
            )
    except OSError as error:
        text = os.strerror(error.errno or 0).lower()
        raise RuntimeFailure(f"dial unix {path}: connect: {text}")


def write_pid_file(path: str, pid: int) -> None:
    """The pid in a file that is there whole or not at all."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}")
    try:
        fd = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666
        )
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        raise RuntimeFailure(f"open {temporary}: {os.strerror(error.errno or 0).lower()}")
