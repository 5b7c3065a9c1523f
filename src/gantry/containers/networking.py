"""Connect and disconnect: networks of containers that run, and of those that do not."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec.structs import replace

from gantry.containers import netfiles
from gantry.containers.core import Core, encode_record
from gantry.containers.record import Container
from gantry.containers.sandbox import endpoint_config
from gantry.model.container import EndpointSettings
from gantry.model.errors import Conflict, Forbidden, GantryError, InvalidParameter, NotFound

Json = dict[str, Any]
Filters = Any
SHARED = (
    "container sharing network namespace with another container or host cannot be connected to any"
    " other network"
)


class Service(Protocol):
    """`gantry.network.service.Networks` as the routes see it."""

    async def list(self, filters: Filters) -> list[Json]: ...

    async def inspect(self, name: str, *, verbose: bool = False, scope: str = "") -> Json: ...

    async def create(self, body: Json) -> Json: ...

    async def remove(self, name: str) -> None: ...

    async def prune(self, filters: Filters) -> Json: ...

    async def egress(self, name: str) -> Json: ...


class Networking:
    """`gantry.api.backend.NetworksBackend`: the network service, with containers by name."""

    def __init__(self, core: Core, service: Service) -> None:
        self._core = core
        self._attachments = Attachments(core)
        self.list = service.list
        self.inspect = service.inspect
        self.create = service.create
        self.remove = service.remove
        self.prune = service.prune
        self.egress = service.egress

    async def connect(self, network: str, container: str, config: EndpointSettings | None) -> None:
        """POST /networks/{id}/connect. Docker's words."""
        found = self._core.table.get(container)
        async with found.lock:
            await self._attachments.add(found, network, config or EndpointSettings())
            await self._attachments.keep(found)

    async def disconnect(self, network: str, container: str, *, force: bool) -> None:
        """POST /networks/{id}/disconnect."""
        try:
            found = self._core.table.get(container)
        except NotFound:
            if not force:
                raise
            self._core.networks.resolve(network)
            raise NotFound(f"endpoint {container} not found") from None
        async with found.lock:
            await self._attachments.take(found, network, force=force)
            await self._attachments.keep(found)


class Attachments:
    """Which networks a container is in. The caller holds its lock, and calls `keep` after
    changes."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def add(self, found: Container, network: str, asked: EndpointSettings) -> None:
        """Forbidden, InvalidParameter, NotFound ...: nothing was changed."""
        endpoint = endpoint_config(asked)
        name, network_id = self._core.networks.check_endpoint(network, endpoint)
        mode = found.record.host_config.network_mode
        if mode.startswith("container:"):
            raise Conflict(SHARED)
        if mode == "host":
            raise InvalidParameter(SHARED)
        if name == "host":
            raise InvalidParameter(
                "cannot connect container to host network - container must be created in host"
                " network mode"
            )
        others = [other for other in found.record.networks if other != name]
        if others and "none" in (name, *others):
            raise InvalidParameter(
                "container cannot be connected to multiple networks with one of the networks in"
                " private (none) mode"
            )
        if _runs(found) and self.has(found, name):
            raise Forbidden(f"endpoint with name {found.name} already exists in network {name}")
        if _runs(found):
            found.live.sandbox = await self._core.networks.join(found.id, network_id, endpoint)
            self._after(found)
        found.record = replace(found.record, networks={**found.record.networks, name: asked})

    async def take(self, found: Container, network: str, *, force: bool = False) -> None:
        """force: although the network says that it failed."""
        try:
            name, network_id = self._core.networks.resolve(network)
        except NotFound:
            if not force or network not in found.record.networks:
                raise
            left = {key: e for key, e in found.record.networks.items() if key != network}
            found.record = replace(found.record, networks=left)  # the network itself is gone
            return
        if found.record.host_config.network_mode == "host":
            raise InvalidParameter(
                "cannot disconnect container from host network - container was created in host"
                " network mode"
            )
        networks = dict(found.record.networks)
        if not self.has(found, name) and name not in networks:
            the = "" if _runs(found) else "the "  # as moby has it, in two places
            raise Forbidden(f"container {found.id} is not connected to {the}network {name}")
        networks.pop(name, None)
        networks.pop(network_id, None)
        if _runs(found) and self.has(found, name):
            try:
                found.live.sandbox = await self._core.networks.leave(found.id, network_id)
            except GantryError:
                if not force:
                    raise
            else:
                self._after(found)
        found.record = replace(found.record, networks=networks)

    def has(self, found: Container, name: str) -> bool:
        """Whether it is in that network: if it runs, really."""
        sandbox = found.live.sandbox
        if _runs(found):
            return sandbox is not None and name in sandbox.endpoints
        return name in found.record.networks

    async def keep(self, found: Container) -> None:
        """Remember the record."""
        await self._core.store.replace(found.id, found.name, encode_record(found.record))

    def _after(self, container: Container) -> None:
        """The files in the container follow; what must be found again after a restart too."""
        sandbox = container.live.sandbox
        assert sandbox is not None
        netfiles.refresh(self._core.folder(container.id), sandbox)
        container.change(network=sandbox.state)
        self._core.note(container)


def _runs(container: Container) -> bool:
    return container.live.task is not None and container.live.sandbox is not None
