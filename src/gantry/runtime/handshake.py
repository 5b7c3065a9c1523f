"""What the two sides of a start say to each other.

One SOCK_SEQPACKET pair, close-on-exec, made before the fork. Left is the caller (the
shim, or gantry-runc), right the process on its way into the container:

    caller                                init
      fork ─────────────────────────────▶  joins and makes namespaces
      makes the cgroup, attaches init      mounts, devices, symlinks
      GO ───────────────────────────────▶  (waits for it where it first needs the cgroup)
      ◀──────────────────────────── HOOKS  only when there are hooks for the host's side
      runs prestart, createRuntime
      HOOKS_DONE ───────────────────────▶  pivot_root …
      ◀──────────────────── CONSOLE + fd   only with a terminal
      ◀───────────────────── NOTIFY + fd   only with a seccomp listener
      ◀──────────────────────────── READY  all but execve is done
      (create ends here)                   waits for a byte on exec.fifo, unless start_now
      ◀────────────────────────────── EOF  execve closed init's end: it runs
      ◀──────────── FAILED code text, EOF  anything went wrong at any time

With a user namespace an intermediate process stands between (the maps have to be
written from outside before anything else is made):

      ◀─────────────────────────── USERNS  intermediate has unshared its user namespace
      writes uid_map, gid_map
      MAPPED ───────────────────────────▶  becomes root there, makes the pid namespace, forks
      ◀────────────────────────── PID pid  of init as the caller sees it; intermediate exits

EOF without READY and without FAILED: init was killed on the way (by the kernel for
memory, mostly).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

GO: Final = b"G"
HOOKS: Final = b"H"
HOOKS_DONE: Final = b"h"
CONSOLE: Final = b"C"
NOTIFY: Final = b"N"
READY: Final = b"R"
FAILED: Final = b"F"
USERNS: Final = b"U"
MAPPED: Final = b"u"
PID: Final = b"P"

_MAX: Final = 65536
_INT: Final = struct.Struct("i")


class Channel:
    """One end. Messages are a kind (one byte), a body and at most one fd."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self.fd = end.fileno()

    def send(self, kind: bytes, body: bytes = b"", fd: int | None = None) -> None:
        """Send one message. A peer that is gone is no error here: `receive` will tell."""
        if fd is None:
            # write(2), not sendmsg(2): a seccomp filter may stand already.
            try:
                os.write(self.fd, kind + body)
            except (BrokenPipeError, ConnectionResetError):
                return
        else:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _INT.pack(fd))]
            self._socket.sendmsg([kind + body], ancillary)

    def receive(self) -> tuple[bytes, bytes, int | None]:
        """The next message; (b"", b"", None) at the end."""
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    _MAX, socket.CMSG_SPACE(_INT.size), socket.MSG_CMSG_CLOEXEC
                )
                break
            except ConnectionResetError:
                # The peer ended with a message of ours unread. The error comes once, and
                # before what the peer still had to say.
                continue
        fd = None
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fd = _INT.unpack(payload[: _INT.size])[0]
        return data[:1], data[1:], fd

    def fail(self, message: str, exit_code: int) -> None:
        """Report a failure (the text is cut to what one message holds)."""
        self.send(FAILED, bytes((exit_code & 0xFF,)) + message.encode("utf-8", "replace")[:4096])

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def pair() -> tuple[Channel, Channel]:
    """(the caller's end, init's end)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    return Channel(ours), Channel(theirs)
