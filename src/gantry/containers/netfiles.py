"""A container's hosts, hostname and resolv.conf: files of the host that it has mounted.

It may write to them, so it can make the host's own open(2) for writing wait (a lease, fcntl(2)
F_SETLEASE) or fail (a program that runs: ETXTBSY). Nothing here waits.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress

from gantry.model.network import Sandbox

_log = logging.getLogger(__name__)
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def prepare(folder: str, hostname: str, sandbox: Sandbox) -> None:
    """All three, before a start. OSError."""
    os.makedirs(folder, 0o710, exist_ok=True)
    for name, content in (
        ("hostname", f"{hostname}\n".encode()),
        ("hosts", sandbox.hosts),
        ("resolv.conf", sandbox.resolv_conf),
    ):
        path = f"{folder}/{name}"
        try:
            _write(path, content)
        except OSError:
            # Another container, which shares its network, is in the way: it keeps the old file.
            with suppress(FileNotFoundError):
                os.unlink(path)
            _write(path, content)


def refresh(folder: str, sandbox: Sandbox) -> None:
    """Those of a running container where there is something to say, as far as it lets us."""
    for name, content in (("hosts", sandbox.hosts), ("resolv.conf", sandbox.resolv_conf)):
        if content:
            try:
                _write(f"{folder}/{name}", content)
            except OSError as error:
                _log.warning("cannot write to %s/%s: %s", folder, name, error.strerror)


def _write(path: str, content: bytes) -> None:
    """In place: a container that has the file has this very inode mounted."""
    fd = os.open(path, _FLAGS | os.O_TRUNC, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
