"""Ask 127.0.0.11 for a name as often as it answers. Runs in a container, with this machine's
Python: dnsload.py SECONDS.

Many datagrams a system call, for the server to be what is measured: dnsperf, which makes some
calls a question, takes more of a small machine than a fast server does, and then measures
itself. 64 questions are under way at any time, from four sockets.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import time

SOCKETS, BATCH = 4, 16
NAME = b"\x06target\0\0\1\0\1"
WAIT_FOR_ONE = 0x10000  # MSG_WAITFORONE


class Part(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Message(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("parts", ctypes.POINTER(Part)),
        ("parts_size", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Header(ctypes.Structure):
    """struct mmsghdr (recvmmsg(2)): its size counts, for the kernel walks an array of them."""

    _fields_ = (("message", Message), ("size", ctypes.c_uint))


def headers(buffers: list[ctypes.Array[ctypes.c_char]]) -> ctypes.Array[Header]:
    """Headers for the buffers, one each."""
    found = (Header * len(buffers))()
    for header, buffer in zip(found, buffers, strict=True):
        header.message.parts = ctypes.pointer(Part(ctypes.addressof(buffer), len(buffer)))
        header.message.parts_size = 1
    return found


def opened() -> int:
    """A socket to the server, for good."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 100_000))
    sock.connect(("127.0.0.11", 53))
    return sock.detach()


def main() -> None:
    """Print answers a second. All are counted, and the last of each batch is looked at."""
    seconds = float(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    asked = [
        ctypes.create_string_buffer(struct.pack(">6H", n, 0x100, 1, 0, 0, 0) + NAME, 12 + len(NAME))
        for n in range(BATCH)
    ]
    answers = [ctypes.create_string_buffer(512) for _ in range(BATCH)]
    out, back = headers(asked), headers(answers)
    sockets = [opened() for _ in range(SOCKETS)]
    count, began = 0, time.monotonic()
    for sock in sockets:
        libc.sendmmsg(sock, out, BATCH, 0)
    while time.monotonic() < began + seconds:
        for sock in sockets:
            got = libc.recvmmsg(sock, back, BATCH, WAIT_FOR_ONE, None)
            if got > 0:
                count += got
                last = answers[got - 1].raw
                assert last[3] & 15 == 0 and last[7] == 1, last
            # None came: they were lost.
            libc.sendmmsg(sock, out, got if got > 0 else BATCH, 0)
    print(count / (time.monotonic() - began))


if __name__ == "__main__":
    main()
