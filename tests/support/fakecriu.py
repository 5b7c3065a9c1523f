"""A criu that keeps nothing: it speaks `criu swrk` and starts a program where it should restore.

CRIU works on few kernels; the way of a checkpoint to it and back is proved with this one.
What it was told is left in the image folder, `told.json`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket

from gantry.ipc.protobuf import Fields, Value, encode

DUMP, RESTORE, NOTIFY = 1, 2, 6
TOLD = "told.json"
PROGRAM = "echo restored; exec sleep 600"
_CLONE, _CLONE_PARENT, _NEWNET = 56, 0x8000, 0x40000000


def main() -> None:
    """Serve one request on the socket that is fd 3."""
    sock = socket.socket(fileno=3)
    request = Fields(sock.recv(1 << 17))
    kind, options = request.number(1), request.message(2)
    folder = f"/proc/{os.getppid()}/fd/{options.number(1)}"
    if kind == DUMP:
        _dump(folder, options)
    else:
        pid = _restore(folder, options)
        notice: list[tuple[int, Value]] = [(1, "post-restore"), (2, pid)]
        sock.send(encode([(1, NOTIFY), (2, True), (5, encode(notice))]))
        sock.recv(1 << 17)
    sock.send(encode([(1, kind), (2, True)]))


def _pairs(options: Fields, field: int) -> dict[str, str]:
    return {one.text(1): one.text(2) for one in options.messages(field)}


def _dump(folder: str, options: Fields) -> None:
    told = {"mounts": _pairs(options, 23), "external": options.texts(37)}
    with open(f"{folder}/{TOLD}", "w", encoding="utf-8") as file:
        json.dump(told, file)
    if not options.number(3):
        os.kill(options.number(2), signal.SIGKILL)


def _restore(folder: str, options: Fields) -> int:
    """A process that is this one's sibling, as CRIU's rst_sibling has it."""
    with open(f"{folder}/{TOLD}", encoding="utf-8") as file:
        assert json.load(file)["mounts"]
    inherited = {one.text(1): one.number(2) for one in options.messages(27)}
    libc = ctypes.CDLL(None)
    pid = int(libc.syscall(_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0))
    if pid == 0:
        if libc.setns(inherited["extRootNetNS"], _NEWNET):
            os._exit(1)
        os.chroot(options.text(13))
        os.chdir("/")
        os.execve("/bin/sh", ["sh", "-c", PROGRAM], {"PATH": "/bin"})
    return pid


if __name__ == "__main__":
    main()
