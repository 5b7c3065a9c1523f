"""Legacy links (--link on the default bridge): environment and hosts lines.

In user-defined networks a link is just another DNS name, see `dns`. What a linked
container brings into the environment is moby's (daemon/links).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Linked:
    """The container that a link leads to, while it runs. ports: "80/tcp"."""

    alias: str
    name: str
    hostname: str
    ip: str
    ipv6: str
    ports: Sequence[str]
    environment: Sequence[str]


def parse(link: str) -> tuple[str, str]:
    """ "container:alias" or "container" → (container, alias); paths' last parts only."""
    name, _, alias = link.partition(":")
    name = name.lstrip("/")
    return name, (alias or name).rpartition("/")[2]


def hosts_lines(linked: Linked) -> list[tuple[str, str]]:
    """(names, address) for /etc/hosts: alias, hostname, and the name unless it is the alias."""
    names = f"{linked.alias} {linked.hostname}"
    if linked.alias != linked.name:
        names += f" {linked.name}"
    return [(names, address) for address in (linked.ip, linked.ipv6) if address]


def environment(owner: str, linked: Linked) -> list[str]:
    """ALIAS_PORT and its like, for the container `owner`."""
    alias = linked.alias.upper().replace("-", "_")
    ports = sorted(map(_split, linked.ports), key=lambda p: (p[1] != "tcp", p[1], p[0]))
    env: list[str] = []
    if ports:
        number, proto = ports[0]
        env.append(f"{alias}_PORT={proto}://{linked.ip}:{number}")
    for group in _runs(ports):
        for number, proto in group:
            prefix = f"{alias}_PORT_{number}_{proto.upper()}"
            env += [
                f"{prefix}={proto}://{linked.ip}:{number}",
                f"{prefix}_ADDR={linked.ip}",
                f"{prefix}_PORT={number}",
                f"{prefix}_PROTO={proto}",
            ]
        (first, proto), (last, _) = group[0], group[-1]
        if first != last:
            prefix = f"{alias}_PORT_{first}_{proto.upper()}"
            env += [
                f"{prefix}_START={proto}://{linked.ip}:{first}",
                f"{prefix}_PORT_START={first}",
                f"{prefix}_END={proto}://{linked.ip}:{last}",
                f"{prefix}_PORT_END={last}",
            ]
    env.append(f"{alias}_NAME=/{owner}/{linked.alias}")
    for variable in linked.environment:
        name, equals, value = variable.partition("=")
        if equals and name not in ("HOME", "PATH"):
            env.append(f"{alias}_ENV_{name}={value}")
    return env


def _split(port: str) -> tuple[int, str]:
    number, _, proto = port.partition("/")
    return int(number), proto or "tcp"


def _runs(ports: Iterable[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    """Neighbouring ports of one protocol together."""
    groups: list[list[tuple[int, str]]] = []
    for port in ports:
        if groups and groups[-1][-1] == (port[0] - 1, port[1]):
            groups[-1].append(port)
        else:
            groups.append([port])
    return groups
