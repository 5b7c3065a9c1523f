"""A network service on a host of its own, and processes' views from inside its sandboxes.

The service runs on a loop in a thread of the host's namespace: every namespace, bridge,
nftables table and sysctl of a test is its own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from tests.support.machine import Machine

from gantry.kernel import syscalls
from gantry.model.network import HostPort, Sandbox, SandboxRequest
from gantry.network import netlink
from gantry.network.service import Networks
from gantry.network.settings import NetworkSettings
from gantry.testing.network import MemoryNetworkStore

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SETTINGS = NetworkSettings(pool_size=2, resolv_conf="/etc/resolv.conf")
BACKENDS = [
    name
    for name in ("nftables", "iptables-nft", "iptables-legacy")
    if name == "nftables" or shutil.which(name)
]


def request(name: str = "one", **fields: object) -> SandboxRequest:
    base = SandboxRequest(container_id=name * 8, name=name, hostname=name)
    return replace(base, **fields)  # type: ignore[arg-type]  # the test's own fields


def publish(*pairs: tuple[str, HostPort]) -> dict[str, list[HostPort]]:
    found: dict[str, list[HostPort]] = {}
    for port, binding in pairs:
        found.setdefault(port, []).append(binding)
    return found


def on_host(machine: Machine, body: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine on a loop of its own on the machine's host."""

    async def main() -> T:
        return await body()

    return machine.host.call(lambda: asyncio.run(main()))


def with_networks(
    machine: Machine,
    body: Callable[[Networks], Awaitable[None]],
    settings: NetworkSettings = SETTINGS,
    store: MemoryNetworkStore | None = None,
) -> None:
    """`body` with a service that is started before and closed after."""

    async def main() -> None:
        networks = Networks(settings, store or MemoryNetworkStore())
        try:
            await networks.start()
            await networks.settle()
            await body(networks)
        finally:
            await networks.aclose()

    on_host(machine, main)


def inside(fd: int | None, function: Callable[[], T]) -> T:
    """Call `function` in a thread that is in the namespace `fd`."""
    assert fd is not None
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            syscalls.setns(fd, CLONE_NEWNET)
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def tcp_server(sandbox: Sandbox | int, port: int, address: str = "::") -> Iterator[None]:
    """Answers every connection with "<peer's address> <own name>" and closes it."""
    fd = sandbox if isinstance(sandbox, int) else sandbox.netns_fd
    name = "" if isinstance(sandbox, int) else sandbox.hostname

    def listen() -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, port))
        sock.listen()
        return sock

    with inside(fd, listen) as listener:

        def serve() -> None:
            while True:
                try:
                    client, peer = listener.accept()
                except OSError:
                    return
                with client:
                    client.sendall(f"{peer[0].removeprefix('::ffff:')} {name}".encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def udp_server(sandbox: Sandbox, port: int) -> Iterator[None]:
    """Answers every datagram with "<peer's address> <own name>"."""

    def bind() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("0.0.0.0", port))
        return sock

    with inside(sandbox.netns_fd, bind) as sock:

        def serve() -> None:
            while True:
                data, peer = sock.recvfrom(2048)
                if data == b"":
                    return
                sock.sendto(f"{peer[0]} {sandbox.hostname}".encode(), peer)

        def stop() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
                own.sendto(b"", ("127.0.0.1", port))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            inside(sandbox.netns_fd, stop)
            thread.join()


def _ask(address: str, port: int, timeout: float) -> str:
    with socket.create_connection((address, port), timeout) as sock:
        data = b""
        while part := sock.recv(4096):
            data += part
        return data.decode()


def _ask_udp(address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((address, port))
        sock.send(b"?")
        return sock.recv(2048).decode()


async def ask(where: int | Machine | None, address: str, port: int, timeout: float = 2) -> str:
    """What the TCP server at address:port says, asked from a sandbox's fd, from the
    machine's LAN host (a Machine), or from the host itself (None)."""
    return await _from(where, lambda: _ask(address, port, timeout))


async def ask_udp(where: int | Machine | None, address: str, port: int) -> str:
    return await _from(where, lambda: _ask_udp(address, port))


async def refused(where: int | Machine | None, address: str, port: int) -> bool:
    """Whether no connection comes about (refused, unreachable or silence)."""
    try:
        await ask(where, address, port, 0.4)
    except OSError:
        return True
    return False


async def _from(where: int | Machine | None, job: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    if where is None:
        return await loop.run_in_executor(None, job)
    if isinstance(where, Machine):
        return await loop.run_in_executor(None, lambda: where.lan.call(job))
    fd = where
    return await loop.run_in_executor(None, lambda: inside(fd, job))


def veths(machine: Machine, bridge: str) -> list[str]:
    said = machine.host.run("ip", "-o", "link", "show", "master", bridge)
    return [line.split(": ")[1].partition("@")[0] for line in said.splitlines()]


def open_namespaces() -> int:
    """How many network namespaces this process's fds hold."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("net:["):
            found.add(target)
    return len(found)


def routes(sandbox: Sandbox) -> dict[str, str]:
    """Destination → gateway ("" on link) of the sandbox's IPv4 routes."""

    def read() -> dict[str, str]:
        with netlink.Socket() as sock:
            found = [r for r in netlink.routes(sock) if r.table == 254]
        return {route.target or "default": route.gateway for route in found}

    return inside(sandbox.netns_fd, read)


@contextmanager
def process_in(fd: int) -> Iterator[int]:
    """A process that stays in the namespace: the container's own, as it were. Its pid."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        syscalls.setns(fd, CLONE_NEWNET)
        os.write(write, b"1")
        os.closerange(3, 4096)
        while True:
            signal.pause()
    os.read(read, 1)
    os.close(read)
    os.close(write)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
