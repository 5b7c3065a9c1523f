"""Where an engine listens: `unix://`, `tcp://` and TLS material, parsed from user text."""

from __future__ import annotations

from dataclasses import dataclass

from gantry.model.errors import InvalidParameter

DEFAULT_SOCKET = "/var/run/docker.sock"
DEFAULT_HOST = f"unix://{DEFAULT_SOCKET}"
PLAIN_PORT = 2375
TLS_PORT = 2376


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a TLS client: `verify` demands a server certificate signed by `ca`."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """One engine's address.

    `path` is set for a unix socket, `host` and `port` for tcp; `text` is what error
    messages show.
    """

    text: str
    path: str = ""
    host: str = ""
    port: int = 0
    prefix: str = ""
    tls: Tls | None = None

    @property
    def http_host(self) -> str:
        """The Host header: Docker's servers take any for a unix socket."""
        return f"{self.host}:{self.port}" if self.host else "localhost"


def parse_address(text: str, tls: Tls | None = None) -> Address:
    """Reads what -H and DOCKER_HOST take.

    No scheme means tcp. Raises InvalidParameter with Docker's text for anything else
    than unix://, tcp://, http:// and https://.
    """
    text = text.strip()
    if not text:
        return Address(DEFAULT_HOST, path=DEFAULT_SOCKET)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "tcp", text
    if scheme == "unix":
        path = rest or DEFAULT_SOCKET
        return Address(f"unix://{path}", path=path)
    if scheme in ("http", "https"):
        scheme = "tcp"
    if scheme != "tcp":
        raise InvalidParameter(
            f"unable to resolve docker endpoint: invalid bind address format: {text}"
        )
    location, slash, prefix = rest.partition("/")
    host, port = _split_port(location, TLS_PORT if tls else PLAIN_PORT, text)
    prefix = (slash + prefix).rstrip("/")
    return Address(f"tcp://{host}:{port}{prefix}", host=host, port=port, prefix=prefix, tls=tls)


def _split_port(location: str, default: int, text: str) -> tuple[str, int]:
    if location.startswith("["):
        host, _, tail = location[1:].partition("]")
        port = tail.removeprefix(":")
    else:
        host, _, port = location.partition(":")
    if port and not (port.isdigit() and int(port) < 65536):
        raise InvalidParameter(
            f"unable to resolve docker endpoint: invalid bind address format: {text}"
        )
    return host or "127.0.0.1", int(port) if port else default
