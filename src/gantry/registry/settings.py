"""How registries are reached: mirrors, insecure ones, proxies, limits (daemon.json, flags)."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from gantry.model.errors import InvalidParameter

INDEX_SERVER: Final = "https://index.docker.io/v1/"
"""What Docker clients call Docker Hub where they keep credentials."""
HUB: Final = "docker.io"
HUB_REGISTRY: Final = "registry-1.docker.io"

CERTS_DIRS: Final = ("/etc/gantry/certs.d", "/etc/docker/certs.d")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST_PORT: Final = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"(?::([0-9]+))?|\[[a-fA-F0-9:]+\](?::([0-9]+))?"
)


@dataclass(frozen=True, slots=True)
class Proxies:
    """URLs of proxies ("" none) and who is reached without: as HTTP_PROXY, NO_PROXY ... say."""

    http: str = ""
    https: str = ""
    no_proxy: str = ""

    @staticmethod
    def of_environment(environment: Mapping[str, str] = os.environ) -> Proxies:
        def get(name: str) -> str:
            return environment.get(name.upper()) or environment.get(name.lower()) or ""

        return Proxies(get("http_proxy"), get("https_proxy"), get("no_proxy"))

    def over(self, other: Proxies) -> Proxies:
        """This, and `other` where this says nothing (daemon.json over the environment)."""
        return Proxies(
            self.http or other.http, self.https or other.https, self.no_proxy or other.no_proxy
        )

    def of(self, scheme: str, host: str, port: int | None) -> str | None:
        """The proxy for a URL, or None. Loopback is never proxied, as Go has it."""
        proxy = self.https if scheme == "https" else self.http
        if not proxy or host == "localhost":
            return None
        address = _address(host)
        if address is not None and address.is_loopback:
            return None
        for item in self.no_proxy.split(","):
            if _matches(item.strip().lower(), host.lower(), port, address):
                return None
        return proxy if "://" in proxy else "http://" + proxy


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Made by `parse_settings`. max_attempts: tries of one blob's download."""

    mirrors: tuple[str, ...] = ()
    insecure_hosts: frozenset[str] = frozenset()
    insecure_networks: tuple[Network, ...] = (
        ipaddress.ip_network("::1/128"),
        ipaddress.ip_network("127.0.0.0/8"),
    )
    nondistributable: tuple[str, ...] = ()
    certs_dirs: tuple[str, ...] = CERTS_DIRS
    proxies: Proxies = field(default_factory=Proxies.of_environment)
    max_downloads: int = 3
    max_uploads: int = 5
    max_attempts: int = 5
    user_agent: str = "docker/29.0.0 gantry"

    def insecure(self, host: str, addresses: Iterable[str] = ()) -> bool:
        """Whether a registry (host[:port], with its addresses where known) may be spoken to
        without TLS, or with a certificate from nobody we know."""
        if host == HUB:
            return False
        if host in self.insecure_hosts:
            return True
        name = _split(host)[0]
        for text in (name, *addresses):
            address = _address(text)
            if address is not None and any(
                address in network
                for network in self.insecure_networks
                if network.version == address.version
            ):
                return True
        return False

    def allows_nondistributable(self, host: str) -> bool:
        """Whether foreign layers are pushed to `host` too."""
        address = _address(_split(host)[0])
        for item in self.nondistributable:
            if item == host:
                return True
            try:
                if address is not None and address in ipaddress.ip_network(item, strict=False):
                    return True
            except ValueError:
                continue
        return False

    def info(self) -> dict[str, Any]:
        """`RegistryConfig` of /info."""
        indexes = {
            host: {"Name": host, "Mirrors": [], "Secure": False, "Official": False}
            for host in sorted(self.insecure_hosts)
        }
        indexes[HUB] = {
            "Name": HUB,
            "Mirrors": list(self.mirrors),
            "Secure": True,
            "Official": True,
        }
        return {
            "AllowNondistributableArtifactsCIDRs": None,
            "AllowNondistributableArtifactsHostnames": None,
            "InsecureRegistryCIDRs": [str(network) for network in self.insecure_networks],
            "IndexConfigs": indexes,
            "Mirrors": list(self.mirrors),
        }


def parse_settings(
    *,
    mirrors: Iterable[str] = (),
    insecure: Iterable[str] = (),
    nondistributable: Iterable[str] = (),
    proxies: Proxies | None = None,
    max_downloads: int = 3,
    max_uploads: int = 5,
    max_attempts: int = 5,
    certs_dirs: tuple[str, ...] = CERTS_DIRS,
) -> RegistrySettings:
    """Check what flags and daemon.json say. InvalidParameter with Docker's texts."""
    hosts: set[str] = set()
    networks: list[Network] = []
    for item in insecure:
        host = _index_name(item)
        scheme, separator, rest = host.partition("://")
        if separator:
            if scheme.lower() not in ("http", "https"):
                raise InvalidParameter(f"insecure registry {item} should not contain '://'")
            host = rest
        try:
            networks.append(ipaddress.ip_network(host, strict=False))
            if "/" not in host:
                networks.pop()
                hosts.add(host)
        except ValueError:
            match = _HOST_PORT.fullmatch(host)
            if match is None:
                raise InvalidParameter(
                    f'insecure registry {host} is not valid: invalid host "{_split(host)[0]}"'
                )
            port = match[1] or match[2]
            if port and int(port) > 65535:
                raise InvalidParameter(
                    f'insecure registry {host} is not valid: invalid port "{port}"'
                )
            hosts.add(host)
    for name, value in (
        ("max-concurrent-downloads", max_downloads),
        ("max-concurrent-uploads", max_uploads),
        ("max-download-attempts", max_attempts),
    ):
        if value < 1:
            raise InvalidParameter(f"invalid {name}: {value}")
    return RegistrySettings(
        mirrors=tuple(dict.fromkeys(check_mirror(mirror) for mirror in mirrors)),
        insecure_hosts=frozenset(hosts),
        insecure_networks=(*networks, *RegistrySettings().insecure_networks),
        nondistributable=tuple(nondistributable),
        certs_dirs=certs_dirs,
        proxies=(proxies or Proxies()).over(Proxies.of_environment()),
        max_downloads=max_downloads,
        max_uploads=max_uploads,
        max_attempts=max_attempts,
    )


def check_mirror(url: str) -> str:
    """A mirror's URL with a slash at its end. InvalidParameter."""
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme:
        raise InvalidParameter(
            f'invalid mirror: no scheme specified for "{url}":'
            " must use either 'https://' or 'http://'"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidParameter(f'invalid mirror: "{url}" is not a valid URI')
    if parts.scheme not in ("http", "https"):
        raise InvalidParameter(
            f'invalid mirror: unsupported scheme "{parts.scheme}" in "{url}":'
            " must use either 'https://' or 'http://'"
        )
    if parts.query or parts.fragment:
        raise InvalidParameter(f'invalid mirror: query or fragment at end of the URI "{url}"')
    if parts.username is not None:
        shown = url.replace(f":{parts.password}@", ":xxxxx@") if parts.password else url
        raise InvalidParameter(f'invalid mirror: username/password not allowed in URI "{shown}"')
    return url.rstrip("/") + "/"


def _index_name(name: str) -> str:
    if name == "index.docker.io":
        return HUB
    if name.startswith("-") or name.endswith("-"):
        raise InvalidParameter(f"invalid index name ({name}). Cannot begin or end with a hyphen")
    return name


def _split(host: str) -> tuple[str, str]:
    """Host without brackets, and port or ""."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest.removeprefix(":")
    if host.count(":") == 1:
        name, _, port = host.partition(":")
        return name, port
    return host, ""


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _matches(
    item: str,
    host: str,
    port: int | None,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
) -> bool:
    """One NO_PROXY item, as Go's httpproxy reads it."""
    if not item:
        return False
    if item == "*":
        return True
    if "/" in item:
        try:
            return address is not None and address in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    name, item_port = _split(item)
    if item_port and str(port) != item_port:
        return False
    if address is not None:
        return _address(name) == address
    name = name.removeprefix("*")
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith("." + name)
