"""Ask 127.0.0.11 for a name as often as it answers: many datagrams a system call, so that the
server is what is measured. Runs in a container, with this machine's Python: dnsload.py SECONDS."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import time

BATCH = 64
NAME = b"\x06target\0\0\1\0\1"


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct mmsghdr (recvmmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("parts", ctypes.POINTER(_Iovec)),
        ("parts_size", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_uint),
    )


def messages(buffers: list[ctypes.Array[ctypes.c_char]]) -> ctypes.Array[_Header]:
    """Headers for the buffers, one each."""
    found = (_Header * len(buffers))()
    for header, buffer in zip(found, buffers, strict=True):
        part = _Iovec(ctypes.cast(buffer, ctypes.c_void_p), len(buffer))
        header.parts = ctypes.pointer(part)
        header.parts_size = 1
    return found


def main() -> None:
    """Print answers a second."""
    seconds = float(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.connect(("127.0.0.11", 53))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
    asked = [
        ctypes.create_string_buffer(struct.pack(">6H", n, 0x100, 1, 0, 0, 0) + NAME, 12 + len(NAME))
        for n in range(BATCH)
    ]
    answers = [ctypes.create_string_buffer(512) for _ in range(BATCH)]
    out, back = messages(asked), messages(answers)
    fd, count = sock.fileno(), 0
    began = time.monotonic()
    libc.sendmmsg(fd, out, BATCH, 0)
    while time.monotonic() < began + seconds:
        got = libc.recvmmsg(fd, back, BATCH, 0x10000, None)  # MSG_WAITFORONE
        if got > 0:
            count += got
            last = answers[got - 1].raw
            assert last[3] & 15 == 0 and last[7] == 1, last
        libc.sendmmsg(fd, out, got if got > 0 else BATCH, 0)  # none came: they were lost
    print(count / (time.monotonic() - began))


if __name__ == "__main__":
    main()
