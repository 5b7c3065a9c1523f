"""What the starter tells the shim about the container it has made.

One blob with fds, of which the shim looks at the first five bytes only, until something
happens to its container (see `gantry.shim.idle`)::

    u32 init's pid | u8 fds to be watched (the first ones) | frame (gantry.ipc.frames)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gantry.ipc import wire
from gantry.ipc.frames import Decoder, Message, ProtocolError, encode
from gantry.model.task import TaskSpec
from gantry.shim.pipes import OurFds

PREFIX = struct.Struct("!IB")


@dataclass(frozen=True, slots=True)
class Handover:
    """A running container. The receiver owns the fds.

    attachments: for each client its socket and (stdin, stdout, stderr). oom_files: where
    its OOM kills are counted. own_pids: it has a pid namespace that ends with init.
    """

    spec: TaskSpec
    folder: str
    pid: int
    started_at: float
    own_pids: bool
    oom_files: tuple[str, ...]
    listener: int
    stdio: OurFds
    attachments: tuple[tuple[int, tuple[bool, bool, bool]], ...]


def pack(handover: Handover) -> tuple[bytes, list[int]]:
    """The blob and its fds, in order."""
    sockets = [fd for fd, _ in handover.attachments]
    stdio = handover.stdio
    watched = [handover.listener, *sockets, stdio.stdout, stdio.stderr, stdio.console]
    fds = [fd for fd in watched if fd >= 0]
    head = {
        **wire.task_to_wire(handover.spec, handover.folder),
        "pid": handover.pid,
        "started_at": handover.started_at,
        "own_pids": handover.own_pids,
        "oom_files": list(handover.oom_files),
        "attachments": [list(wants) for _, wants in handover.attachments],
        "open_stdin": stdio.stdin >= 0,
    }
    prefix = PREFIX.pack(handover.pid, len(fds))
    if stdio.stdin >= 0:
        fds.append(stdio.stdin)
    return prefix + encode(head, b"", len(fds)), fds


def unpack(data: bytes, fds: list[int]) -> Handover:
    """The other way round."""
    messages = Decoder().feed(data[PREFIX.size :], fds)
    if len(messages) != 1:
        raise ProtocolError("bad handover")
    (message,) = messages
    spec = wire.task_from_wire(message)
    rest = list(message.fds)
    listener = rest.pop(0)
    wants = wire.attachments_from_wire(message.head.get("attachments"))
    attachments = tuple((rest.pop(0), wanted) for wanted in wants)
    stdin = rest.pop() if message.flag("open_stdin") else -1
    if spec.stdio.terminal:
        stdio = OurFds(console=rest.pop())
    else:
        stdio = OurFds(stdin, *rest)
    return Handover(
        spec=spec,
        folder=message.text("bundle"),
        pid=message.number("pid"),
        started_at=message.seconds("started_at"),
        own_pids=message.flag("own_pids"),
        oom_files=_texts(message, "oom_files"),
        listener=listener,
        stdio=stdio,
        attachments=attachments,
    )


def _texts(message: Message, key: str) -> tuple[str, ...]:
    value = message.head.get(key)
    return tuple(str(text) for text in value) if isinstance(value, list) else ()
