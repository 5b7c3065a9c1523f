"""A running container's share of the networks, as this process holds it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gantry.model.network import EndpointState, SandboxRequest
from gantry.network.dns import Server
from gantry.network.egress import Restriction
from gantry.network.firewall import LinkRule
from gantry.network.publishing import Publication


@dataclass(slots=True)
class Live:
    """A running container's share: handles, in memory only.

    endpoints: by network name, in the order of their interfaces. ways: names of the
    networks that its default routes (IPv4, IPv6) lead through, "" for none.
    """

    request: SandboxRequest
    netns_fd: int = -1
    endpoints: dict[str, EndpointState] = field(default_factory=dict)
    ways: tuple[str, str] = ("", "")
    publication: Publication | None = None
    dns: Server | None = None
    links: list[LinkRule] = field(default_factory=list)
    restriction: Restriction | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
