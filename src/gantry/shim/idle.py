"""A shim's main line: have the container made, sleep, and only then be a program.

Python writes to what it looks at: each object that is used costs a shim the page it is
on. A shim that has built its loop and tables owns 1.4 MiB, one that has just been forked
0.3. So the container is made by another process (`gantry.shim.starter`), whose result is
taken as the bytes that came; this process then waits in one poll(2) for anything to happen
to its container: output, a request, a client's input, init's end. Nothing read or decoded
yet, nothing is lost. Most idle containers never wake their shim.

Written to touch little: C functions and small integers.
"""

from __future__ import annotations

import os
import select
from _socket import socket, socketpair
from array import array
from collections.abc import Callable

from gantry.shim.handover import PID_BYTES

_SPACE = 1040  # CMSG_SPACE(250 fds)
_CMSG_CLOEXEC = 0x40000000
_HEADER = 9  # handover.PREFIX


Starter = Callable[[int, int], None]
"""Makes a container, in a child: gets the control socket, and one for the handover."""


def wait(control: int, hand: int, starter: Starter) -> tuple[bytes, list[int]] | None:
    """The container's handover when there is something to do; None: it was not made.

    hand: the socket it comes from, which is told our pid. When it ends with nothing, what
    `control` has (to clean, to start what only a child can) is for a starter of our own.
    """
    ours = socket(fileno=hand)
    try:
        os.write(hand, os.getpid().to_bytes(PID_BYTES, "big"))
        data, fds = receive(ours)
    except (BrokenPipeError, ConnectionResetError):  # it has ended with our pid unread
        data, fds = b"", array("i")
    ours.close()
    if data:
        return _asleep(control, data, fds)
    poll = select.poll()
    poll.register(control, 1)
    return None if poll.poll()[0][1] & select.POLLHUP else wait_for_child(control, starter)


def wait_for_child(control: int, starter: Starter) -> tuple[bytes, list[int]] | None:
    """`wait`, with a starter of our own, which is forked at once."""
    ours, theirs = socketpair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            starter(control, theirs.detach())
        finally:
            os._exit(0)
    theirs.close()
    data, fds = receive(ours)
    ours.close()
    os.waitpid(child, 0)  # from now on init is our child
    return _asleep(control, data, fds)


def _asleep(control: int, data: bytes, fds: array[int]) -> tuple[bytes, list[int]] | None:
    if not data:
        return None
    poll = select.poll()
    for fd in fds[: data[4]]:
        poll.register(fd, 1)
    poll.register(control, 1)
    pid = int.from_bytes(data[:4], "big")
    init = os.pidfd_open(pid) if pid else -1  # else it is one of the fds
    if pid:
        poll.register(init, 1)
    poll.poll()
    if pid:
        os.close(init)
    return data, list(fds)


def receive(sock: socket) -> tuple[bytes, array[int]]:
    """One handover, whole; b"" when the starter failed (and has told the daemon)."""
    data, fds = b"", array("i")
    wanted = _HEADER
    while len(data) < wanted:
        more, ancillary, _, _ = sock.recvmsg(65536, _SPACE, _CMSG_CLOEXEC)
        if not more:
            return b"", fds
        for _, _, content in ancillary:
            fds.frombytes(content)
        data += more
        if len(data) >= _HEADER:
            wanted = _HEADER + int.from_bytes(data[5:9], "big")
    return data, fds
