"""The userland proxy: what the packet filter cannot translate, a task carries.

That is: connections to ::1, from IPv6 to a container that has only IPv4, and any that
reach the socket that holds a published port because the rules were flushed. It serves
these sockets inside the daemon, with no process a port.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Sequence

from gantry.ipc.owner import TaskOwner
from gantry.network.publish import Held

_CHUNK = 1 << 16
_UDP_IDLE = 90.0
_UDP_PEERS = 1024


class UserlandProxy:
    """Serves the sockets of held ports until they are released."""

    def __init__(self, owner: TaskOwner) -> None:
        self._owner = owner
        self._udp: dict[int, _Udp] = {}
        self._tcp: dict[int, tuple[socket.socket, str, int]] = {}
        self._poll: select.epoll | None = None

    def serve(self, held: Sequence[Held], address: str) -> None:
        """Carry what arrives at the sockets to `address` (IPv4, or IPv6).

        Listeners wait in an epoll set of their own, itself one entry of the loop's: a
        range of a thousand ports is a thousand short system calls, not handles.
        """
        loop = asyncio.get_running_loop()
        for one in held:
            if one.proto == "sctp":
                continue
            for sock in one.sockets:
                fd = sock.fileno()
                if one.proto == "udp":
                    self._udp[fd] = relay = _Udp(sock, (address, one.port))
                    loop.add_reader(fd, relay.inward)
                    continue
                if self._poll is None:
                    self._poll = select.epoll()
                    loop.add_reader(self._poll.fileno(), self._ready)
                self._tcp[fd] = (sock, address, one.port)
                self._poll.register(fd, select.EPOLLIN)

    def stop(self, held: Sequence[Held]) -> None:
        """Before the sockets are closed. Connections that are open go on until they end."""
        for one in held:
            for sock in one.sockets:
                fd = sock.fileno()
                if self._tcp.pop(fd, None) is not None and self._poll is not None:
                    self._poll.unregister(fd)
                relay = self._udp.pop(fd, None)
                if relay is not None:
                    asyncio.get_running_loop().remove_reader(fd)
                    relay.close()
        if self._poll is not None and not self._tcp:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None

    def _ready(self) -> None:
        assert self._poll is not None
        for fd, _events in self._poll.poll(0, 64):
            listener, address, port = self._tcp[fd]
            with contextlib.suppress(OSError):  # the client has gone, or we are out of fds
                client, _peer = listener.accept()
                client.setblocking(False)
                self._owner.spawn(self._carry(client, address, port), f"proxy {address}:{port}")

    async def _carry(self, client: socket.socket, address: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with client, server:
            try:
                await loop.sock_connect(server, (address, port))
            except OSError:
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(loop, client, server))
                group.create_task(_pump(loop, server, client))


async def _pump(
    loop: asyncio.AbstractEventLoop, source: socket.socket, target: socket.socket
) -> None:
    try:
        while data := await loop.sock_recv(source, _CHUNK):
            await loop.sock_sendall(target, data)
    except OSError:
        pass
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class _Udp:
    """A socket for each client, so that answers find their way back."""

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self._listener = listener
        self._target = target
        self._peers: dict[object, tuple[socket.socket, float]] = {}

    def inward(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(64):
            try:
                data, peer = self._listener.recvfrom(_CHUNK)
            except OSError:
                return
            known = self._peers.get(peer)
            if known is None:
                self._expire(loop.time())
                family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
                sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                sock.connect(self._target)
                loop.add_reader(sock.fileno(), self._outward, sock, peer)
            else:
                sock = known[0]
            self._peers[peer] = (sock, loop.time())
            with contextlib.suppress(OSError):
                sock.send(data)

    def _outward(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            self._listener.sendto(sock.recv(_CHUNK), peer)

    def _expire(self, now: float) -> None:
        old = [p for p, (_, used) in self._peers.items() if now - used > _UDP_IDLE]
        if not old and len(self._peers) >= _UDP_PEERS:
            old = list(self._peers)[: _UDP_PEERS // 8]
        for peer in old:
            self._drop(peer)

    def _drop(self, peer: object) -> None:
        sock, _used = self._peers.pop(peer)
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()

    def close(self) -> None:
        for peer in list(self._peers):
            self._drop(peer)
