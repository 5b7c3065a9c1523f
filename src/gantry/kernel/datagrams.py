"""Many datagrams a system call, in memory that is allocated once (recvmmsg(2), sendmmsg(2)).

For servers of tiny messages. Replies that go to one client and are of one size go through
the kernel as one packet and are taken apart where they are received (UDP_SEGMENT, udp(7)):
most of what a datagram costs is its way through routing and packet filters.
"""

from __future__ import annotations

import ctypes
import errno
import socket
from collections.abc import Mapping
from ctypes import c_int, c_size_t, c_uint, c_uint16, c_void_p
from struct import unpack_from

from gantry.kernel.libc import failed, libc

_ADDRESS = 16  # struct sockaddr_in
_UDP_SEGMENT = 103
_SEGMENTS = 64  # UDP_MAX_SEGMENTS before Linux 6.9
_PACKET = 65000


class _Iovec(ctypes.Structure):
    _fields_ = (("base", c_void_p), ("size", c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", c_void_p),
        ("name_size", c_uint),
        ("parts", c_void_p),
        ("parts_size", c_size_t),
        ("control", c_void_p),
        ("control_size", c_size_t),
        ("flags", c_int),
    )


class _Mmsghdr(ctypes.Structure):
    """A message, and how many bytes of it were transferred."""

    _fields_ = (("head", _Msghdr), ("size", c_uint))


class _Control(ctypes.Structure):
    """struct cmsghdr with the size of a segment."""

    _fields_ = (("size", c_size_t), ("level", c_int), ("type", c_int), ("segment", c_uint16))


_recvmmsg = libc.recvmmsg
_recvmmsg.argtypes = (c_int, c_void_p, c_uint, c_int, c_void_p)
_sendmmsg = libc.sendmmsg
_sendmmsg.argtypes = (c_int, c_void_p, c_uint, c_int)
_sendto = libc.sendto
_sendto.argtypes = (c_int, c_void_p, c_size_t, c_int, c_void_p, c_uint)


class Datagrams:
    """Room for `count` datagrams of IPv4 sockets, `size` bytes each (longer ones are cut).

    ::

        got = batch.receive(fd)
        for n in batch.reply_known(got, {question: answer}):
            batch.reply(n, answer_to(batch.get(n)))
        batch.send(fd)

    Not thread-safe.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self._memory, names = bytearray(count * size), bytearray(count * _ADDRESS)
        self._view = memoryview(self._memory)
        self._memory_at = ctypes.addressof(c_int.from_buffer(self._memory))
        self._names, self._names_at = names, ctypes.addressof(c_int.from_buffer(names))
        self._inward, self._outward = (_Mmsghdr * count)(), (_Mmsghdr * count)()
        self._places, self._parts = (_Iovec * count)(), (_Iovec * count)()
        self._controls = (_Control * count)()
        for n in range(count):
            self._describe(n)
        # Fields as plain numbers: a structure's attribute takes ten times as long.
        step = ctypes.sizeof(_Mmsghdr)
        self._lengths = memoryview(self._inward).cast("B").cast("I")[_Mmsghdr.size.offset // 4 :]
        self._step = step // 4
        self._peers = memoryview(names).cast("Q")  # family, port and address; then nothing
        self._part_sizes = _numbers(self._parts)[1:]
        self._starts = range(0, count * size, size)
        self._runs: list[list[int]] = []  # [first, end, size of each]

    def _describe(self, n: int) -> None:
        place, part, name = self._places[n], self._parts[n], self._names_at + n * _ADDRESS
        place.base = part.base = self._memory_at + n * self.size
        place.size = self.size
        inward, outward, control = self._inward[n].head, self._outward[n].head, self._controls[n]
        inward.name, inward.name_size = name, _ADDRESS
        inward.parts, inward.parts_size = ctypes.addressof(place), 1
        outward.name_size = _ADDRESS
        outward.control = ctypes.addressof(control)
        control.size = _Control.segment.offset + _Control.segment.size
        control.level, control.type = socket.IPPROTO_UDP, _UDP_SEGMENT

    def receive(self, fd: int) -> int:
        """How many datagrams were waiting (and are now here). OSError."""
        got: int = _recvmmsg(fd, self._inward, self.count, socket.MSG_DONTWAIT, None)
        if got < 0:
            if ctypes.get_errno() in (errno.EAGAIN, errno.EINTR):
                return 0
            raise failed("recvmmsg", fd)
        return got

    def get(self, n: int) -> bytes:
        """Datagram `n` of those received."""
        start = n * self.size
        return self._view[start : start + self._lengths[n * self._step]].tobytes()

    def sender(self, n: int) -> tuple[str, int]:
        """(address, port) that datagram `n` came from, and its reply goes to."""
        port, address = unpack_from(">H4s", self._names, n * _ADDRESS + 2)
        return socket.inet_ntoa(address), port

    def reply(self, n: int, data: bytes) -> None:
        """Let `data`, at most `size` bytes, be the reply to datagram `n`, whose place it takes."""
        start, length = n * self.size, len(data)
        self._memory[start : start + length] = data
        self._part_sizes[2 * n] = length
        self._runs.append([n, n + 1, length])

    def reply_known(self, got: int, known: Mapping[bytes, bytes]) -> list[int]:
        """Reply to those of the first `got` whose question, all but its first two bytes, is
        in `known`: with these two and what is known. Returns the numbers of the others."""
        others: list[int] = []
        memory, view, sizes, runs = self._memory, self._view, self._part_sizes, self._runs
        lengths = self._lengths[: got * self._step : self._step].tolist()
        peers = self._peers[: got * 2 : 2].tolist()
        run, last = [-1, -1, -1], -1
        for n, (start, length, peer) in enumerate(zip(self._starts, lengths, peers, strict=False)):
            answer = known.get(view[start + 2 : start + length].tobytes())
            if answer is None:
                others.append(n)
                continue
            length = len(answer) + 2
            memory[start + 2 : start + length] = answer
            sizes[2 * n] = length
            if peer == last and length == run[2] and n == run[1]:
                run[1] = n + 1
            else:
                run, last = [n, n + 1, length], peer
                runs.append(run)
        return others

    def send(self, fd: int) -> None:
        """Send the replies. Those that the kernel does not take (no room, a filter) are lost,
        as datagrams may be."""
        runs, self._runs = self._runs, []
        packets: list[list[int]] = []
        for run in runs:
            most = max(1, min(_SEGMENTS, _PACKET // run[2]))
            packets += [[n, min(n + most, run[1]), run[2]] for n in range(run[0], run[1], most)]
        for number, (first, end, length) in enumerate(packets):
            head = self._outward[number].head
            head.name = self._names_at + first * _ADDRESS
            head.parts = ctypes.addressof(self._parts) + first * ctypes.sizeof(_Iovec)
            head.parts_size = end - first
            head.control_size = ctypes.sizeof(_Control) if end - first > 1 else 0
            self._controls[number].segment = length
        done = 0
        while done < len(packets):
            rest = ctypes.byref(self._outward, done * ctypes.sizeof(_Mmsghdr))
            sent: int = _sendmmsg(fd, rest, len(packets) - done, socket.MSG_DONTWAIT)
            if sent <= 0:
                self._send_singly(fd, *packets[done])
            done += max(1, sent)

    def _send_singly(self, fd: int, first: int, end: int, length: int) -> None:
        """A packet that the kernel did not take apart: its MTU, or an option of the device."""
        for n in range(first, end) if end - first > 1 else ():
            place, name = self._memory_at + n * self.size, self._names_at + n * _ADDRESS
            _sendto(fd, place, length, socket.MSG_DONTWAIT, name, _ADDRESS)


def _numbers(structures: ctypes.Array[_Iovec]) -> memoryview[int]:
    """The memory of structures whose fields are all of the size of a pointer."""
    return memoryview(structures).cast("B").cast("P")
