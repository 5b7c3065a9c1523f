"""A systemd as far as its D-Bus interface goes: it takes notes and answers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gantry.cgroups import dbus
from gantry.cgroups.dbus import Value, Variant, Writer

_ERROR = "org.freedesktop.systemd1."


class Call(NamedTuple):
    """One method call, as it arrived."""

    member: str
    arguments: list[Value]


class FakeSystemd:
    """Listens on a socket until `close`. calls: what it was asked, in order.

    failed: units whose name is taken until they are reset. result: how jobs end. early:
    JobRemoved comes before the answer that names the job, as systemd may do.
    """

    def __init__(self, path: Path, *, version: str = "v252.1", early: bool = False) -> None:
        self.path = path
        self.version = version
        self.early = early
        self.result = "done"
        self.failed: set[str] = set()
        self.calls: list[Call] = []
        self._jobs = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"unix:path={self.path}"

    def named(self, member: str) -> list[list[Value]]:
        """The arguments of every call of a method."""
        return [call.arguments for call in self.calls if call.member == member]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                try:
                    self._converse(peer)
                except (EOFError, OSError):
                    continue

    def _converse(self, peer: socket.socket) -> None:
        self._line(peer)
        peer.sendall(b"OK 0123456789abcdef\r\n")
        self._line(peer)
        while True:
            head = self._exactly(peer, 16)
            body, serial, fields = struct.unpack_from("<III", head, 4)
            rest = self._exactly(peer, fields + -fields % 8)
            message = dbus.decode(head, rest[:fields], self._exactly(peer, body))
            self.calls.append(Call(message.member, message.body))
            self._answer(peer, serial, message.member, message.body)

    def _line(self, peer: socket.socket) -> None:
        while self._exactly(peer, 1) != b"\n":
            continue

    @staticmethod
    def _exactly(peer: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = peer.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def _answer(self, peer: socket.socket, serial: int, member: str, body: list[Value]) -> None:
        if member in ("StartTransientUnit", "StopUnit"):
            unit = str(body[0])
            if unit in self.failed:
                self._send(
                    peer, 3, {5: serial, 4: _ERROR + "UnitExists"}, "s", [f"{unit} is there"]
                )
                return
            self._jobs += 1
            job = f"/org/freedesktop/systemd1/job/{self._jobs}"
            removed: list[Value] = [self._jobs, job, unit, self.result]
            if self.early:
                self._send(peer, 4, {3: "JobRemoved"}, "uoss", removed)
            self._send(peer, 2, {5: serial}, "o", [job])
            if not self.early:
                self._send(peer, 4, {3: "JobRemoved"}, "uoss", removed)
        elif member == "Get":
            value = self.version if body[1] == "Version" else "/user.slice/user@7.service"
            self._send(peer, 2, {5: serial}, "v", [Variant("s", value)])
        else:
            if member == "ResetFailedUnit":
                self.failed.discard(str(body[0]))
            self._send(peer, 2, {5: serial}, "", [])

    def _send(
        self, peer: socket.socket, kind: int, fields: dict[int, int | str], signature: str,
        values: Sequence[Value],
    ) -> None:  # fmt: skip
        body = Writer()
        for part, value in zip(dbus.split(signature), values, strict=True):
            body.write(part, value)
        listed: list[Value] = [
            [key, Variant("u" if isinstance(value, int) else "s", value)]
            for key, value in fields.items()
        ]
        if signature:
            listed.append([8, Variant("g", signature)])
        head = Writer()
        head.data.extend(struct.pack("<cBBBII", b"l", kind, 0, 1, len(body.data), 1))
        head.write("a(yv)", listed)
        head.pad(8)
        peer.sendall(bytes(head.data + body.data))


def properties(value: Value) -> dict[str, Value]:
    """An a(sv) as a table, each name once (the last counts)."""
    assert isinstance(value, list)
    found: dict[str, Value] = {}
    for entry in value:
        assert isinstance(entry, list) and isinstance(entry[1], Variant)
        found[str(entry[0])] = entry[1].value
    return found
