"""Two hosts made of network namespaces: the one the engine runs on, and one on its LAN.

An engine in a namespace of its own cannot disturb this machine's bridges, routes and
firewall, nor be disturbed by another engine's; and whatever process is in that namespace,
and in this machine's mount namespace, is the engine's. That is how its processes are found
without knowing anything of how it is built.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from tests.support.wait import eventually

T = TypeVar("T")

HOST_ADDRESS: Final = "198.51.100.1"
LAN_ADDRESS: Final = "198.51.100.2"
_NUMBERS = itertools.count(1)
_CLONE_NEWNET: Final = 0x40000000


def run(*argv: str) -> str:
    """Run a command that has to succeed and return its output."""
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"

    @property
    def command(self) -> list[str]:
        """The words that run what follows in this namespace."""
        return ["nsenter", f"--net={self.path}", "--"]

    def run(self, *argv: str) -> str:
        """Run a command here."""
        return run(*self.command, *argv)

    def call(self, function: Callable[[], T]) -> T:
        """Call `function` in a thread that is in this namespace; sockets it makes stay here."""
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                with Path(self.path).open("rb") as namespace:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns", self.path)
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Return a socket of this host."""
        sock = self.call(lambda: socket.socket(socket.AF_INET, kind))
        sock.settimeout(5)
        return sock

    def fetch(self, address: str, port: int, path: str = "/") -> bytes:
        """Fetch a page by HTTP from this host and return its body."""
        with self.socket() as sock:
            sock.connect((address, port))
            sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            answer = bytearray()
            while data := sock.recv(65536):
                answer += data
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], head
        return body

    def ask_udp(self, address: str, port: int, data: bytes) -> bytes:
        """Send a datagram and return what comes back."""
        with self.socket(socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)
            sock.connect((address, port))
            sock.send(data)
            return sock.recv(65536)

    def processes(self) -> list[int]:
        """Return the pids in this network namespace and this process's mount namespace."""
        network = os.stat(self.path)
        mounts = os.stat("/proc/self/ns/mnt")
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with suppress(OSError):
                net, mnt = os.stat(f"/proc/{name}/ns/net"), os.stat(f"/proc/{name}/ns/mnt")
                if (net.st_dev, net.st_ino) != (network.st_dev, network.st_ino):
                    continue
                if (mnt.st_dev, mnt.st_ino) == (mounts.st_dev, mounts.st_ino):
                    found.append(int(name))
        return sorted(found)

    def wait_empty(self) -> None:
        """Wait for the end of all its processes."""
        eventually(lambda: not self.processes(), f"end of all in {self.name}")


class Machine:
    """The engine's host and a LAN host, joined by a veth pair."""

    def __init__(self) -> None:
        stem = f"gt{os.getpid()}n{next(_NUMBERS)}"
        self.host = Host(stem + "h")
        self.lan = Host(stem + "l")
        self._made: list[Host] = []

    def start(self) -> None:
        """Make both namespaces and the wire between them."""
        for host in (self.host, self.lan):
            run("ip", "netns", "add", host.name)
            self._made.append(host)
            host.run("ip", "link", "set", "lo", "up")
        peer = ("peer", "name", "lan0", "netns", self.lan.name)
        run("ip", "link", "add", "lan0", "netns", self.host.name, "type", "veth", *peer)
        for host, address in ((self.host, HOST_ADDRESS), (self.lan, LAN_ADDRESS)):
            host.run("ip", "addr", "add", f"{address}/24", "dev", "lan0")
            host.run("ip", "link", "set", "lan0", "up")
        self.host.run("ip", "route", "add", "default", "via", LAN_ADDRESS)

    def stop(self) -> None:
        """Kill what is left in the engine's namespace and remove both."""
        for host in self._made:
            for pid in host.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for host in self._made:
            host.wait_empty()
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True)
        self._made.clear()
