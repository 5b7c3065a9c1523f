"""The embedded DNS server: 127.0.0.11 in every sandbox of a user-defined network.

Its sockets are opened inside the sandboxes and served by the daemon's loop. When the
daemon restarts they are gone until the container is adopted again, with the same port:
questions asked meanwhile are lost, not refused, so that a resolver's first repetition
(after a second in musl, five in glibc) finds it back.

What it answers: names, aliases, ids, links of containers in the sandbox's own networks,
`name.network`, and the way back (PTR). All else is forwarded, but not out of internal
networks. Behaviour: moby libnetwork/resolver.go, sandbox.go.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from gantry.ipc.owner import TaskOwner
from gantry.kernel.datagrams import Datagrams
from gantry.network import dnswire, redirect
from gantry.network.dnswire import Question
from gantry.network.names import Names, pointed_at
from gantry.network.netns import Namespaces
from gantry.network.resolution import EMBEDDED_DNS, Upstream
from gantry.network.upstream import Forwarder

_BATCH = 64  # questions that are read and answered at once
_BATCHES = 4  # of one sandbox, before others' turn
_DATAGRAM = 2048
_CACHE = 256
_CACHED_QUESTION = 300  # bytes: longer ones are no resolver's
_ASKING = 256  # questions of one sandbox under way: all sandboxes share the forwarder's
_TCP_IDLE = 10.0
_TCP_CONNECTIONS = 100


class Policy(Protocol):
    """An egress policy's say: see `egress`."""

    def allows_name(self, name: str) -> bool: ...

    async def learned(self, name: str, answer: bytes) -> None: ...

    def refused_name(self, name: str) -> None: ...


@dataclass(slots=True)
class View:
    """What one sandbox may know.

    networks: names of its networks, the most preferred first. links: (network, alias) →
    name, which comes before other names. upstreams: whom to ask; those `from_host` only if
    `external`.
    ndots: the container's own resolv.conf sets ndots, so bare names are not forwarded.
    """

    networks: Sequence[Names] = ()
    links: Mapping[tuple[str, str], str] = field(default_factory=dict)
    upstreams: Sequence[Upstream] = ()
    external: bool = True
    ndots: bool = False
    policy: Policy | None = None

    def resolve(self, name: str, version: int) -> list[str] | None:
        """Addresses; None when nobody here has the name."""
        for own, network in _splits(name):
            for names in self.networks:
                if network and names.network.lower() != network:
                    continue
                target = self.links.get((names.network, own))
                found = (
                    names.lookup(own, version) if target is None else names.linked(target, version)
                )
                if found is not None:
                    return found
        return None

    def stamp(self) -> int:
        total = 0
        for names in self.networks:  # asked at every question: no generator
            total += names.version
        return total


def _splits(name: str) -> list[tuple[str, str]]:
    """a.b.c → (a.b.c, any network), (a.b, network c), (a, network b.c)."""
    found = [(name, "")]
    at = name.rfind(".")
    while at > 0:
        found.append((name[:at], name[at + 1 :]))
        at = name.rfind(".", 0, at)
    return found


class Server:
    """The server of one sandbox. port: where it listens, behind the redirect."""

    def __init__(self, view: View, udp: socket.socket, tcp: socket.socket) -> None:
        self.view = view
        self.udp = udp
        self.tcp = tcp
        self.port: int = udp.getsockname()[1]
        self.fd = -1
        self.connections = 0
        self.asking = 0  # questions that others are being asked for it
        self._cache: dict[bytes, bytes] = {}
        self._stamp = -1

    def change(self, view: View) -> None:
        """What the sandbox may know is now this."""
        self.view = view
        self._cache.clear()

    def known(self) -> dict[bytes, bytes]:
        """Answers that still hold, without their identity, by questions without theirs."""
        stamp = self.view.stamp()
        if stamp != self._stamp:
            self._cache.clear()
            self._stamp = stamp
        return self._cache

    def answer(self, query: bytes) -> bytes | None:
        """The answer that we know, None when others are to be asked."""
        cache, view = self.known(), self.view
        kept = cache.get(query[2:])
        if kept is not None:
            return query[:2] + kept
        found = dnswire.question(query)
        if found is None:
            return None
        records, own = self._own(found)
        if not own:
            bare = found.type in (dnswire.A, dnswire.AAAA) and "." not in found.name
            if not (bare and view.ndots):
                return None
        answer = dnswire.reply(query, found, records)
        if len(records) <= 1 and len(query) <= _CACHED_QUESTION:
            if len(cache) >= _CACHE:
                cache.clear()
            cache[query[2:]] = answer[2:]
        return answer

    def _own(self, found: Question) -> tuple[list[bytes], bool]:
        """(records, whether the name is ours)."""
        if found.type == dnswire.PTR:
            address = pointed_at(found.name)
            for names in self.view.networks if address else ():
                name = names.reverse(address)
                if name:
                    return [dnswire.pointer_record(name)], True
            return [], False
        version = 6 if found.type == dnswire.AAAA else 4
        addresses = self.view.resolve(found.name, version)
        if addresses is None:
            return [], False
        if found.type not in (dnswire.A, dnswire.AAAA):
            return [], True
        random.shuffle(addresses)
        return [dnswire.address_record(address) for address in addresses], True


class DnsServers:
    """All sandboxes' servers."""

    def __init__(
        self,
        namespaces: Namespaces,
        owner: TaskOwner,
        forwarder: Callable[[], Forwarder] = Forwarder,
    ) -> None:
        self._namespaces = namespaces
        self._owner = owner
        self._make_forwarder = forwarder
        self._forwarder: Forwarder | None = None
        self._batch: Datagrams | None = None

    async def open(self, netns_fd: int, view: View, port: int = 0) -> Server:
        """Listen in a sandbox. port: the one of before a restart, 0 for any."""
        udp, tcp = await self._namespaces.run(
            partial(self._namespaces.inside, netns_fd, partial(_listen, port))
        )
        server = Server(view, udp, tcp)
        server.fd = netns_fd
        loop = asyncio.get_running_loop()
        loop.add_reader(udp.fileno(), self._readable, server)
        loop.add_reader(tcp.fileno(), self._connected, server)
        return server

    def close(self, server: Server) -> None:
        """Stop serving; the redirect stays (the sandbox ends, or the daemon does)."""
        loop = asyncio.get_running_loop()
        for sock in (server.udp, server.tcp):
            if sock.fileno() >= 0:
                loop.remove_reader(sock.fileno())
                sock.close()

    async def withdraw(self, server: Server) -> None:
        """Stop serving a sandbox that goes on without."""
        self.close(server)
        await self._namespaces.run(partial(self._namespaces.inside, server.fd, redirect.remove))

    def _readable(self, server: Server) -> None:
        if self._batch is None:
            self._batch = Datagrams(_BATCH, _DATAGRAM)
        with contextlib.suppress(OSError):
            for _ in range(_BATCHES):
                count = self._batch.receive(server.udp.fileno())
                if not count:
                    return
                self._answer_batch(server, self._batch, count)

    def _answer_batch(self, server: Server, batch: Datagrams, count: int) -> None:
        """What we know is answered together; for the others' questions others are asked."""
        for n in batch.reply_known(count, server.known()):
            query = batch.get(n)
            if len(query) < 12:
                continue
            answer = server.answer(query)
            if answer is None:
                with contextlib.suppress(RuntimeError):  # closing down
                    self._owner.spawn(self._ask_others(server, query, batch.sender(n)), "dns")
            elif len(answer) <= _DATAGRAM:
                batch.reply(n, answer)
            else:
                with contextlib.suppress(OSError):
                    server.udp.sendto(answer, batch.sender(n))
        batch.send(server.udp.fileno())

    async def _ask_others(self, server: Server, query: bytes, client: tuple[str, int]) -> None:
        answer = await self._forward(server, query, tcp=False)
        with contextlib.suppress(OSError):
            server.udp.sendto(answer, client)

    async def _forward(self, server: Server, query: bytes, *, tcp: bool) -> bytes:
        view = server.view
        policy = view.policy
        name = "" if policy is None else _only_name(query)
        if policy is not None and not policy.allows_name(name):
            policy.refused_name(name)
            return dnswire.failure(query, dnswire.REFUSED)
        if server.asking >= _ASKING:
            return dnswire.failure(query, dnswire.REFUSED)
        servers = [u for u in view.upstreams if view.external or not u.from_host]
        if self._forwarder is None:
            self._forwarder = self._make_forwarder()
        server.asking += 1
        try:
            answer = await self._forwarder.forward(
                query, servers, partial(self._socket, server), tcp=tcp
            )
        finally:
            server.asking -= 1
        if policy is not None:
            await policy.learned(name, answer)
        return answer

    async def _socket(
        self, server: Server, upstream: Upstream, kind: socket.SocketKind
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in upstream.address else socket.AF_INET
        make = partial(socket.socket, family, kind | socket.SOCK_NONBLOCK)
        if upstream.from_host:
            return make()
        return await self._namespaces.run(partial(self._namespaces.inside, server.fd, make))

    def _connected(self, server: Server) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            client, _ = server.tcp.accept()
            client.setblocking(False)
            if server.connections >= _TCP_CONNECTIONS:
                client.close()
                return
            self._owner.spawn(self._converse(server, client), "dns over tcp")

    async def _converse(self, server: Server, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server.connections += 1
        buffer = b""
        try:
            with client, contextlib.suppress(OSError, TimeoutError):
                while True:
                    while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
                        async with asyncio.timeout(_TCP_IDLE):
                            part = await loop.sock_recv(client, 65536)
                        if not part:
                            return
                        buffer += part
                    size = int.from_bytes(buffer[:2], "big")
                    query, buffer = buffer[2 : 2 + size], buffer[2 + size :]
                    if len(query) < 12:
                        return
                    answer = self._answer_tcp(server, query)
                    if answer is None:
                        answer = await self._forward(server, query, tcp=True)
                    await loop.sock_sendall(client, len(answer).to_bytes(2, "big") + answer)
        finally:
            server.connections -= 1

    def _answer_tcp(self, server: Server, query: bytes) -> bytes | None:
        """As over UDP, but nothing is too large."""
        answer = server.answer(query)
        if answer is None or not answer[2] & dnswire.TRUNCATED:
            return answer
        found = dnswire.question(query)
        assert found is not None
        records, _ = server._own(found)
        whole = Question(found.name, found.type, found.end, 65535)
        return dnswire.reply(query, whole, records)


def _only_name(query: bytes) -> str:
    """What a query asks for, "" when that cannot be told: what a policy is not sure to have
    understood must not go to others, who may understand it (and what is in it)."""
    found = dnswire.question(query)
    return found.name if found is not None and query[4:6] == b"\0\1" else ""


def _listen(port: int) -> tuple[socket.socket, socket.socket]:
    """Both sockets on the same port of 127.0.0.11, and the redirect there. In the sandbox."""
    for attempt in range(20):
        udp, tcp = _bind(port if attempt == 0 else 0)
        if udp is None or tcp is None:
            continue
        bound = udp.getsockname()[1]
        try:
            redirect.install(EMBEDDED_DNS, bound, known=bound == port)
        except OSError as error:
            udp.close()
            tcp.close()
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT):
                raise
            # A kernel without nftables: the real port, which the container then cannot have.
            udp, tcp = _bind(53)
            if udp is None or tcp is None:
                raise
        return udp, tcp
    raise OSError(errno.EADDRINUSE, f"no port is free on {EMBEDDED_DNS}")


def _bind(port: int) -> tuple[socket.socket | None, socket.socket | None]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind((EMBEDDED_DNS, port))
        tcp.bind(udp.getsockname())
        tcp.listen(16)
    except OSError:
        udp.close()
        tcp.close()
        return None, None
    return udp, tcp
