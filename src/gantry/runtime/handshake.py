"""What the two sides of a start say to each other.

One SOCK_SEQPACKET pair, close-on-exec, made before the fork. Left is the caller (the
shim, or gantry-runc), right the process on its way into the container:

    caller                                init
      fork ─────────────────────────────▶  joins and makes namespaces
      makes the cgroup, attaches init      mounts, devices, symlinks
      GO ───────────────────────────────▶  (waits for it where it first needs the cgroup)
      ◀───────────────────────── TREE which  only for a bind that the caller has the rights for,
      TREE + fd ────────────────────────▶  of something that init has just mounted
      ◀──────────────────────────── HOOKS  only when there are hooks for the host's side
      runs prestart, createRuntime
      HOOKS_DONE ───────────────────────▶  pivot_root …
      ◀──────────────────── CONSOLE + fd   only with a terminal
      ◀───────────────────── NOTIFY + fd   only with a seccomp listener
      ◀──────────────────────────── READY  all but execve is done
      (create ends here)                   waits for a byte on exec.fifo, unless start_now
      ◀────────────────────────────── EOF  execve closed init's end: it runs
      ◀──────────── FAILED code text, EOF  anything went wrong at any time
      ◀───────────────── LOG level:text    warnings, and with --debug what is being done

With a user namespace an intermediate process stands between (the maps have to be
written from outside before anything else is made):

      ◀─────────────────────────── USERNS  intermediate has unshared its user namespace
      writes uid_map, gid_map
      MAPPED ───────────────────────────▶  becomes root there
      ◀────────────────────────── OFFSETS  only with a new time namespace
      writes timens_offsets
      MAPPED ───────────────────────────▶  makes the pid namespace, forks
      ◀────────────────────────── PID pid  of init as the caller sees it; intermediate exits

EOF without READY and without FAILED: init was killed on the way (by the kernel for
memory, mostly).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Final, TypeAlias

GO: Final = b"G"
HOOKS: Final = b"H"
HOOKS_DONE: Final = b"h"
CONSOLE: Final = b"C"
NOTIFY: Final = b"N"
READY: Final = b"R"
FAILED: Final = b"F"
USERNS: Final = b"U"
MAPPED: Final = b"u"
OFFSETS: Final = b"T"
TREE: Final = b"M"
PID: Final = b"P"
LOG: Final = b"L"

# (level, text): "debug" texts are sent only where the caller wants them.
Logger: TypeAlias = Callable[[str, str], None]

_MAX: Final = 65536
_INT: Final = struct.Struct("i")


class Channel:
    """One end. Messages are a kind (one byte), a body and at most one fd.

    logger: on the caller's end, where LOG messages go; verbose: on init's, whether
    "debug" ones are sent.
    """

    def __init__(
        self, end: socket.socket, *, logger: Logger | None = None, verbose: bool = False
    ) -> None:
        self._socket = end
        self._logger = logger
        self._verbose = verbose
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
        """The next message that is not for the log; (b"", b"", None) at the end."""
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    _MAX, socket.CMSG_SPACE(_INT.size), socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                # The peer ended with a message of ours unread. The error comes once, and
                # before what the peer still had to say.
                continue
            if data[:1] != LOG:
                break
            if self._logger is not None:
                level, _, text = data[1:].decode("utf-8", "replace").partition(":")
                self._logger(level, text)
        fd = None
        for layer, kind, payload in ancillary:
            if layer == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fd = _INT.unpack(payload[: _INT.size])[0]
        return data[:1], data[1:], fd

    def log(self, level: str, text: str) -> None:
        """Something for the caller's log; it may come before any other message."""
        if level == "debug" and not self._verbose:
            return
        self.send(LOG, f"{level}:{text}".encode("utf-8", "replace")[:4096])

    def fail(self, message: str, exit_code: int) -> None:
        """Report a failure (the text is cut to what one message holds)."""
        self.send(FAILED, bytes((exit_code & 0xFF,)) + message.encode("utf-8", "replace")[:4096])

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def pair(logger: Logger | None = None, *, verbose: bool = False) -> tuple[Channel, Channel]:
    """(the caller's end, init's end). logger, verbose: as Channel says."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    return Channel(ours, logger=logger), Channel(theirs, verbose=verbose)
