"""The audit log of egress policies, and the kernel's log of refused packets (NFLOG).

The log is JSON lines, a file a network, kept in memory too for those who ask; a file
that has grown large is set aside once. Source of the wire format:
linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from gantry.network.netlink import attr, attributes

_log = logging.getLogger(__name__)

Json = dict[str, Any]
OnRefused = Callable[[str, str, str, int], None]
"""(source, destination, protocol, destination port or 0)."""

_KEPT = 1000
_LARGE = 8 << 20
_HDR = struct.Struct("=IHHII")
_ULOG = 4 << 8
_PACKET, _CONFIG = 0, 1
_PAYLOAD = 9
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}


class Audit:
    """What was refused, by network. folder: where files are, "" for memory only."""

    def __init__(self, folder: str = "") -> None:
        self._folder = folder
        self._recent: dict[str, deque[Json]] = {}

    def write(self, networks: Iterable[str], **facts: object) -> None:
        """One line for each of `networks` (ids): when, and the facts."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        row: Json = {"time": moment, "verdict": "refused", **facts}
        for network in networks:
            recent = self._recent.get(network)
            if recent is None:
                recent = self._recent[network] = deque(self.read_file(network), _KEPT)
            recent.append(row)
            self._append(network, row)

    def read(self, network: str) -> list[Json]:
        """The last thousand lines, oldest first."""
        recent = self._recent.get(network)
        return list(recent) if recent is not None else self.read_file(network)[-_KEPT:]

    def forget(self, network: str) -> None:
        """The network is gone, and its log."""
        self._recent.pop(network, None)
        if self._folder:
            for suffix in ("", ".1"):
                with contextlib.suppress(OSError):
                    os.unlink(self._path(network) + suffix)

    def read_file(self, network: str) -> list[Json]:
        if not self._folder:
            return []
        rows: list[Json] = []
        for suffix in (".1", ""):
            try:
                with open(self._path(network) + suffix, encoding="utf-8") as file:
                    for line in file:
                        with contextlib.suppress(ValueError):
                            rows.append(json.loads(line))
            except OSError:
                continue
        return rows

    def _path(self, network: str) -> str:
        return f"{self._folder}/egress-{network}.jsonl"

    def _append(self, network: str, row: Json) -> None:
        if not self._folder:
            return
        path = self._path(network)
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                large = file.tell() > _LARGE
            if large:
                os.replace(path, path + ".1")
        except OSError as error:
            _log.warning("audit log %s: %s", path, error)


class PacketLog:
    """Packets that rules send to NFLOG group `group`, told to `refused` on the running loop.

    OSError when another program has the group, or the kernel has no such log.
    """

    def __init__(self, group: int, refused: OnRefused) -> None:
        self._refused = refused
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 12
        )
        try:
            self._sock.bind((0, 0))
            head = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(group))
            self._ask(head + attr(1, b"\x01"))  # bind
            self._ask(head + attr(2, struct.pack(">IBx", 96, 2)))  # copy 96 bytes of each
            self._ask(head + attr(5, struct.pack(">I", 1)))  # at once, not a hundred together
        except BaseException:
            self._sock.close()
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock.fileno(), self.drain)

    def close(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _ask(self, payload: bytes) -> None:
        size = 16 + len(payload)
        self._sock.setblocking(True)
        self._sock.send(_HDR.pack(size, _ULOG | _CONFIG, 0x5, 1, 0) + payload)
        answer = self._sock.recv(4096)
        self._sock.setblocking(False)
        code = -struct.unpack_from("=i", answer, 16)[0]
        if code:
            raise OSError(code, f"NFLOG: {os.strerror(code)}")

    def drain(self) -> None:
        """Tell of what has come so far."""
        for _ in range(64):
            try:
                data = self._sock.recv(1 << 16)
            except OSError:
                return
            at = 0
            while at + 16 <= len(data):
                size, kind, _flags, _seq, _pid = _HDR.unpack_from(data, at)
                if size < 16:
                    break
                if kind == _ULOG | _PACKET:
                    payload = dict(attributes(data[at + 20 : at + size])).get(_PAYLOAD, b"")
                    with contextlib.suppress(IndexError, struct.error, ValueError):
                        self._refused(*describe(payload))
                at += (size + 3) & ~3


def describe(packet: bytes) -> tuple[str, str, str, int]:
    """(source, destination, protocol, destination port or 0) of an IP packet's beginning."""
    if packet[0] >> 4 == 6:
        source, target = packet[8:24], packet[24:40]
        proto, at = packet[6], 40
    else:
        source, target = packet[12:16], packet[16:20]
        proto, at = packet[9], (packet[0] & 0x0F) * 4
    port = 0
    if proto in (6, 17, 132):
        port = int.from_bytes(packet[at + 2 : at + 4], "big")
    name = _PROTOCOLS.get(proto, str(proto))
    return str(ip_address(source)), str(ip_address(target)), name, port
