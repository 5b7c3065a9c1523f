"""The daemons that one process of ours answers: the one that started it, any that comes later."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

from gantry.ipc import wire
from gantry.ipc.channel import Channel, peer_credentials
from gantry.ipc.frames import Message, ProtocolError
from gantry.model.errors import GantryError, System
from gantry.shim.loop import READ, WRITE, Loop

Reply = tuple[wire.Head, bytes, Sequence[int]]


class Peers:
    """Connections and their requests.

    answer: does one request and gives its reply; what it raises is the reply then (a request
    without id gets none). on_quiet: called after a reply, when what waited was sent, and when
    a daemon went away.
    """

    def __init__(
        self, loop: Loop, answer: Callable[[Message], Reply], on_quiet: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._answer = answer
        self._on_quiet = on_quiet
        self._peers: dict[int, Channel] = {}
        self._listener: socket.socket | None = None

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent."""
        return any(peer.pending for peer in self._peers.values())

    def listen(self, listener: socket.socket) -> None:
        """Take in who connects there."""
        self._listener = listener
        self._loop.watch(listener.fileno(), READ, self._accept)

    def stop_listening(self) -> None:
        """Take in nobody any more. Idempotent."""
        if self._listener is not None:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def add(self, peer: Channel) -> None:
        """Serve a connection, which is taken over."""
        peer.sock.setblocking(False)
        fd = peer.fileno()
        self._peers[fd] = peer

        def ready(events: int) -> None:
            self._ready(peer, events)

        self._loop.watch(fd, READ, ready)

    def publish(self, event: wire.Head) -> None:
        """An event to all."""
        for peer in list(self._peers.values()):
            self._send(peer, event)

    def close(self) -> None:
        """Let go of all."""
        for peer in list(self._peers.values()):
            self._drop(peer)
        self.stop_listening()

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if peer_credentials(sock)[1] not in (0, os.geteuid()):
            sock.close()
            return
        self.add(Channel(sock))

    def _drop(self, peer: Channel) -> None:
        fd = peer.fileno()
        if self._peers.pop(fd, None) is not None:
            self._loop.unwatch(fd)
            peer.close()
            self._on_quiet()

    def _ready(self, peer: Channel, events: int) -> None:
        try:
            if events & WRITE:
                peer.flush()
                if not peer.pending:
                    self._loop.change(peer.fileno(), READ)
                    self._on_quiet()
            if events & ~WRITE:
                for message in peer.receive_ready():
                    self._handle(peer, message)
        except (EOFError, OSError, ProtocolError):
            self._drop(peer)

    def _handle(self, peer: Channel, message: Message) -> None:
        ident = message.head.get("id")
        body: bytes = b""
        fds: Sequence[int] = ()
        try:
            head, body, fds = self._answer(message)
        except (GantryError, OSError) as error:
            head = {"error": wire.error_to_wire(error)}
        except Exception as error:  # a container must not die of one bad request
            head = {"error": wire.error_to_wire(System(str(error)))}
        finally:
            message.close()
        if ident is not None:
            self._send(peer, {"id": ident, **head}, body, fds)
        self._on_quiet()

    def _send(
        self, peer: Channel, head: wire.Head, body: bytes = b"", fds: Sequence[int] = ()
    ) -> None:
        try:
            peer.queue(head, body, fds)
        except OSError:
            return  # its end of file comes next
        if peer.pending:
            self._loop.change(peer.fileno(), READ | WRITE)
