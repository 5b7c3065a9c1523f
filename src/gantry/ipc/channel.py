"""Frames over a unix stream socket, synchronously: for the launcher and the shim."""

from __future__ import annotations

import array
import socket
import struct
from collections import deque
from collections.abc import Mapping, Sequence

from gantry.ipc.frames import MAX_FDS, Decoder, Message, ProtocolError, close_all, encode

_CHUNK = 65536
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * 4)
_UCRED = struct.Struct("=iII")

# Plain numbers: `socket` has enum members, whose operators are Python code that would
# run (and dirty shared pages) in every shim.
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_CMSG_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_CTRUNC = int(socket.MSG_CTRUNC)
_LEVEL = int(socket.SOL_SOCKET)
_RIGHTS = int(socket.SCM_RIGHTS)


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """pid, uid and gid of who made the other end (SO_PEERCRED, unix(7))."""
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return pid, uid, gid


def send_some(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int]) -> int:
    """One sendmsg(2); the fds ride on its first byte. BlockingIOError as the socket does."""
    if not fds:
        return sock.send(data, _NOSIGNAL)
    rights = [(_LEVEL, _RIGHTS, array.array("i", fds))]
    return sock.sendmsg([data], rights, _NOSIGNAL)


def receive_some(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One recvmsg(2): bytes (b"" at the end) and fds, close-on-exec."""
    data, ancillary, flags, _ = sock.recvmsg(_CHUNK, _ANCILLARY, _CMSG_CLOEXEC)
    if not ancillary:
        return data, []
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == _LEVEL and kind == _RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if flags & _CTRUNC:
        close_all(fds)
        raise ProtocolError("passed fds were cut off")
    return data, list(fds)


class Channel:
    """One connection. Blocking calls, or the non-blocking half for an event loop.

    Outgoing messages that the socket does not take wait in `queue`; the fds of a queued
    message belong to the channel and are closed when they were sent (or never can be).
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._decoder = Decoder()
        self._ready: deque[Message] = deque()
        self._out: deque[tuple[memoryview, Sequence[int]]] = deque()

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether messages wait for the socket to be writable."""
        return bool(self._out)

    def send(self, head: Mapping[str, object], body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send whole, waiting (blocking socket); `fds` stay the caller's."""
        data = memoryview(encode(head, body, len(fds)))
        while data:
            sent = send_some(self.sock, data, fds)
            fds = ()
            data = data[sent:]

    def receive(self) -> Message | None:
        """The next message, None when the peer is gone."""
        while not self._ready:
            data, fds = receive_some(self.sock)
            if not data:
                close_all(fds)
                return None
            self._ready.extend(self._decoder.feed(data, fds))
        return self._ready.popleft()

    def receive_ready(self) -> list[Message]:
        """What one read gives on a readable socket. EOFError when the peer is gone."""
        if self._ready:
            ready = list(self._ready)
            self._ready.clear()
            return ready
        try:
            data, fds = receive_some(self.sock)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            raise EOFError from None
        if not data:
            close_all(fds)
            raise EOFError
        return self._decoder.feed(data, fds)

    def queue(self, head: Mapping[str, object], body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send now what the socket takes, keep the rest; takes over `fds`. OSError: gone."""
        self._out.append((memoryview(encode(head, body, len(fds))), fds))
        self.flush()

    def flush(self) -> None:
        """Go on sending. OSError when the peer is gone (fds are closed then)."""
        while self._out:
            data, fds = self._out[0]
            try:
                sent = send_some(self.sock, data, fds)
            except BlockingIOError:
                return
            except OSError:
                self._drop()
                raise
            close_all(fds)
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], ())

    def close(self) -> None:
        """Close the socket and every fd in either queue. Idempotent."""
        self._drop()
        for message in self._ready:
            message.close()
        self._ready.clear()
        self._decoder.close()
        self.sock.close()

    def _drop(self) -> None:
        for _, fds in self._out:
            close_all(fds)
        self._out.clear()
