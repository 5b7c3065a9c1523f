"""Where the engine listens: unix sockets, TCP (plain or TLS), sockets passed by systemd."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from gantry.http.server import Handler, Server
from gantry.http.tls import TlsProtocol
from gantry.model.errors import Conflict, InvalidParameter, System

_log = logging.getLogger(__name__)

DEFAULT_SOCKET: Final = "/var/run/docker.sock"
DEFAULT_PORT: Final = 2375
DEFAULT_TLS_PORT: Final = 2376
LISTEN_FDS_START: Final = 3
BACKLOG: Final = 1024


@dataclass(frozen=True, slots=True)
class Address:
    """One -H value, parsed. kind: "unix" (path), "tcp" (host, port), "fd" (path is its name
    or number, "" all)."""

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.kind == "tcp":
            host = f"[{self.host}]" if ":" in self.host else self.host
            return f"tcp://{host}:{self.port}"
        return f"{self.kind}://{self.path}"


def parse(text: str, *, tls: bool = False) -> Address:
    """Parse an address as dockerd's -H takes it (opts/hosts.go). InvalidParameter."""
    kind, separator, rest = text.strip().partition("://")
    if not separator:
        kind, rest = ("unix", kind) if kind.startswith("/") else ("tcp", kind)
    match kind:
        case "unix":
            return Address("unix", path=rest or DEFAULT_SOCKET)
        case "fd":
            return Address("fd", path="" if rest == "*" else rest)
        case "tcp":
            return _parse_tcp(text, rest, DEFAULT_TLS_PORT if tls else DEFAULT_PORT)
    raise InvalidParameter(f"invalid bind address ({text}): unsupported proto: {kind}")


def _parse_tcp(text: str, rest: str, port: int) -> Address:
    rest = rest.rstrip("/")
    if "/" in rest:
        raise InvalidParameter(f"invalid bind address ({text}): should not contain a path element")
    if rest.startswith("["):
        host, closed, tail = rest[1:].partition("]")
        if not closed or (tail and not tail.startswith(":")):
            raise InvalidParameter(f"invalid bind address ({text}): missing ']'")
        number = tail[1:]
    else:
        host, _, number = rest.partition(":")
    if number:
        if not number.isdigit() or int(number) > 65535:
            raise InvalidParameter(f"invalid bind address ({text}): invalid port {number!r}")
        port = int(number)
    return Address("tcp", host=host or "localhost", port=port)


def open_unix(path: str, group: str = "docker") -> socket.socket:
    """A listening unix socket, mode 0660, of root and `group` where that group exists.

    A stale socket file is replaced, one that somebody answers on is not: Conflict.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        _remove_stale(path)
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        old = os.umask(0o177)  # nobody else gets in between bind and chmod
        try:
            sock.bind(path)
        except OSError as error:
            raise System(f"can't create unix socket {path}: {os.strerror(error.errno or 0)}")
        finally:
            os.umask(old)
        undo.callback(os.unlink, path)
        if os.geteuid() == 0:
            os.chown(path, 0, _gid(group))
        os.chmod(path, 0o660)
        sock.listen(BACKLOG)
        undo.pop_all()
    return sock


def _gid(group: str) -> int:
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid if group else 0
    except KeyError:
        _log.debug("could not change group of the socket to %s: no such group", group)
        return 0


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"can't create unix socket {path}: it exists and is not a socket")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(1)
    try:
        probe.connect(path)
    except OSError as error:
        if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
            raise System(f"can't use unix socket {path}: {os.strerror(error.errno or 0)}")
    else:
        raise Conflict(f"can't create unix socket {path}: another engine listens on it")
    finally:
        probe.close()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def open_tcp(host: str, port: int) -> list[socket.socket]:
    """Listening TCP sockets, one for each address of `host` ("" or "*": all)."""
    found: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        try:
            infos = socket.getaddrinfo(
                None if host in ("", "*") else host,
                port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )
        except socket.gaierror as error:
            raise InvalidParameter(f"listen tcp: lookup {host}: {error.strerror}")
        for family, kind, proto, _, address in dict.fromkeys(infos):
            try:
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, proto)
            except OSError:
                continue  # an address family that this kernel lacks
            undo.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
            except OSError as error:
                raise System(f"listen tcp {host}:{port}: bind: {os.strerror(error.errno or 0)}")
            sock.listen(BACKLOG)
            found.append(sock)
        undo.pop_all()
    if not found:
        raise System(f"listen tcp {host}:{port}: no address")
    return found


def passed_sockets(name: str = "") -> list[socket.socket]:
    """Sockets given by systemd (sd_listen_fds(3)): all, or the one of a name or number."""
    count = 0
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        count = int(os.environ.get("LISTEN_FDS", "0") or 0)
    if count == 0:
        raise InvalidParameter(
            "no sockets found via socket activation: make sure the service was started by systemd"
        )
    fds = list(range(LISTEN_FDS_START, LISTEN_FDS_START + count))
    if name:
        names = os.environ.get("LISTEN_FDNAMES", "").split(":")
        if name.isdigit():
            fds = [fd for fd in fds if fd == int(name)]
        else:
            fds = [fd for fd, given in zip(fds, names, strict=False) if given == name]
        if not fds:
            raise InvalidParameter(f"no such activated file descriptor: {name}")
    found = []
    for fd in fds:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        found.append(sock)
    return found


class Listeners:
    """All that the engine listens on, and every connection that came by it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listening: list[asyncio.Server] = []
        self._paths: list[str] = []
        self.addresses: list[str] = []

    async def add(
        self, address: Address, *, group: str = "docker", tls: ssl.SSLContext | None = None
    ) -> None:
        """Start listening. TLS is for TCP only, as dockerd has it."""
        loop = asyncio.get_running_loop()
        match address.kind:
            case "unix":
                sockets = [open_unix(address.path, group)]
                self._paths.append(address.path)
            case "fd":
                sockets = passed_sockets(address.path)
            case _:
                sockets = open_tcp(address.host, address.port)
        for sock in sockets:
            if sock.family == socket.AF_UNIX:
                self._listening.append(
                    await loop.create_unix_server(self._server, sock=sock, backlog=BACKLOG)
                )
                self.addresses.append(str(address))
            else:
                self._listening.append(
                    await loop.create_server(
                        partial(TlsProtocol, tls, self._server) if tls else self._server,
                        sock=sock,
                        backlog=BACKLOG,
                    )
                )
                host, port = sock.getsockname()[:2]
                self.addresses.append(str(Address("tcp", host=host, port=port)))

    async def aclose(self, grace: float = 10.0) -> None:
        """Stop listening, let short requests end within `grace` seconds, end the rest."""
        for listening in self._listening:
            listening.close()
        await self._server.shutdown(grace)
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._listening.clear()
        self._paths.clear()


async def serve(
    app: Handler,
    addresses: Sequence[str],
    *,
    group: str = "docker",
    tls: ssl.SSLContext | None = None,
) -> Listeners:
    """Listen on all `addresses` (as -H takes them). All or none: an error closes the others."""
    parsed = [parse(text, tls=tls is not None) for text in addresses]
    listeners = Listeners(Server(app))
    try:
        for address in parsed:
            await listeners.add(address, group=group, tls=tls)
    except BaseException:
        await listeners.aclose()
        raise
    return listeners
