"""What the starter tells the shim about the container it has made.

One blob with fds, of which the shim looks at the first nine bytes only, until something
happens to its container (see `gantry.shim.idle`)::

    u32 init's pid, 0 when its pidfd is the first fd
    u8 fds to be watched (the first ones) | u32 size of the rest | marshal

marshal, for both ends are forks of one process: it is read by one C function, where JSON
and checks would make a shim touch half a megabyte of shared pages.
"""

from __future__ import annotations

import marshal
import socket
import struct
from typing import NamedTuple

from gantry.ipc.channel import send_some
from gantry.model.task import LogSpec, StdioSpec, TaskSpec
from gantry.shim.pipes import OurFds

PREFIX = struct.Struct("!IBI")
PID_BYTES = 4
"""What a shim says first on the socket that it gets its container from: its own pid."""


class Handover(NamedTuple):
    """A running container. The receiver owns the fds. (A keeper's: pid 0, streams alone.)

    pidfd: init's, when it is not the receiver's child; else -1.
    attachments: for each client its socket and (stdin, stdout, stderr). oom_files: where
    its OOM kills are counted; oom: an fd that tells of them, or -1. own_pids: it has a pid
    namespace that ends with init.
    """

    spec: TaskSpec
    folder: str
    pid: int
    started_at: float
    own_pids: bool
    oom_files: tuple[str, ...]
    listener: int
    oom: int
    stdio: OurFds
    attachments: tuple[tuple[int, tuple[bool, bool, bool]], ...]
    pidfd: int = -1


def pack(handover: Handover) -> tuple[bytes, list[int]]:
    """The blob and its fds, in order."""
    spec, fds = handover.spec, handover.stdio
    stdio, log = spec.stdio, spec.log
    sockets = [fd for fd, _ in handover.attachments]
    watched = [
        handover.pidfd,
        handover.listener,
        handover.oom,
        *sockets,
        fds.stdout,
        fds.stderr,
        fds.console,
    ]
    passed = [fd for fd in watched if fd >= 0]
    rest = marshal.dumps(
        (
            (stdio.terminal, stdio.open_stdin, stdio.stdin_once, stdio.rows, stdio.columns),
            (log.driver, log.path, log.max_size, log.max_file, log.compress, dict(log.attrs)),
            (spec.container_id, spec.runtime, spec.runtime_args, spec.systemd_cgroup),
            (handover.folder, handover.pid, handover.started_at, handover.own_pids),
            handover.oom_files,
            tuple(wants for _, wants in handover.attachments),
            fds.stdin >= 0,
            handover.oom >= 0,
            handover.pidfd >= 0,
        )
    )
    known = handover.pid if handover.pidfd < 0 else 0
    prefix = PREFIX.pack(known, len(passed), len(rest))
    if fds.stdin >= 0:
        passed.append(fds.stdin)
    return prefix + rest, passed


def hand_over(shim: socket.socket, made: Handover) -> None:
    """Send it whole; the fds stay the caller's, too."""
    blob, fds = pack(made)
    data = memoryview(blob)
    while data:
        sent = send_some(shim, data, fds)
        data, fds = data[sent:], []


def unpack(data: bytes, fds: list[int]) -> Handover:
    """The other way round. The task's configuration and root stay with the starter."""
    values = marshal.loads(data[9:])
    stdio_values, log_values, task, own, oom_files, wants, has_stdin, has_oom, has_pidfd = values
    stdio = StdioSpec(*stdio_values)
    container_id, runtime, args, systemd_cgroup = task
    spec = TaskSpec(
        container_id, b"", (), stdio, LogSpec(*log_values), runtime, args, systemd_cgroup
    )
    stdin = fds.pop() if has_stdin else -1
    if stdio.terminal:
        ours = OurFds(stdin, -1, -1, fds.pop())
    else:
        stderr, stdout = fds.pop(), fds.pop()
        ours = OurFds(stdin, stdout, stderr, -1)
    folder, pid, started_at, own_pids = own
    pidfd = fds.pop(0) if has_pidfd else -1
    listener, oom = fds.pop(0), fds.pop(0) if has_oom else -1
    attachments = tuple(zip(fds, wants, strict=True))
    return Handover(
        spec, folder, pid, started_at, own_pids, oom_files, listener, oom, ours, attachments, pidfd
    )
