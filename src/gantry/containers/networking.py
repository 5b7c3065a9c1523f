"""Connect and disconnect: networks of containers that run, and of those that do not."""

from __future__ import annotations

import os
from typing import Any, Protocol

from msgspec.structs import replace

from gantry.containers.core import Core, encode_record
from gantry.containers.record import Container
from gantry.containers.sandbox import endpoint_config
from gantry.model.container import EndpointSettings
from gantry.model.errors import Conflict, Forbidden, GantryError, InvalidParameter, NotFound
from gantry.model.network import EndpointConfig, Sandbox

Json = dict[str, Any]
Filters = Any


class Service(Protocol):
    """`gantry.network.service.Networks` as the routes and this module see it."""

    async def list(self, filters: Filters) -> list[Json]: ...

    async def inspect(self, name: str, *, verbose: bool = False, scope: str = "") -> Json: ...

    async def create(self, body: Json) -> Json: ...

    async def remove(self, name: str) -> None: ...

    async def prune(self, filters: Filters) -> Json: ...

    async def join(self, container_id: str, network: str, config: EndpointConfig) -> Sandbox: ...

    async def leave(self, container_id: str, network: str) -> Sandbox: ...

    def resolve(self, term: str) -> tuple[str, str]: ...

    def check_endpoint(self, network: str, config: EndpointConfig) -> tuple[str, str]: ...


class Networking:
    """`gantry.api.backend.NetworksBackend`: the network service, with containers by name."""

    def __init__(self, core: Core, service: Service) -> None:
        self._core = core
        self._service = service
        self.list = service.list
        self.create = service.create
        self.remove = service.remove
        self.prune = service.prune

    async def inspect(self, name: str, *, verbose: bool, scope: str) -> Json:
        return await self._service.inspect(name, verbose=verbose, scope=scope)

    async def connect(self, network: str, container: str, config: EndpointSettings | None) -> None:
        """POST /networks/{id}/connect. Docker's words."""
        found = self._core.table.get(container)
        asked = config or EndpointSettings()
        endpoint = endpoint_config(asked)
        name, network_id = self._service.check_endpoint(network, endpoint)
        mode = found.record.host_config.network_mode
        async with found.lock:
            if mode.startswith("container:"):
                raise Conflict("container sharing network namespace with another container or host"
                               " cannot be connected to any other network")  # fmt: skip
            if mode == "host":
                raise InvalidParameter(
                    "container sharing network namespace with another container or host cannot be"
                    " connected to any other network"
                )
            running = found.live.task is not None and found.live.sandbox is not None
            if name in found.record.networks and (not running or self._attached(found, name)):
                raise Forbidden(f"endpoint with name {found.name} already exists in network {name}")
            if running:
                found.live.sandbox = await self._service.join(found.id, network_id, endpoint)
                self._after(found)
            await self._keep(found, {**found.record.networks, name: asked})

    async def disconnect(self, network: str, container: str, *, force: bool) -> None:
        """POST /networks/{id}/disconnect."""
        try:
            found = self._core.table.get(container)
        except NotFound:
            if not force:
                raise
            return
        name, network_id = self._service.resolve(network)
        async with found.lock:
            if found.record.host_config.network_mode == "host":
                raise InvalidParameter("cannot disconnect container from host network - container"
                                       " was created in host network mode")  # fmt: skip
            networks = dict(found.record.networks)
            running = found.live.task is not None and found.live.sandbox is not None
            if name not in networks and not (running and self._attached(found, name)):
                raise Forbidden(f"container {found.id} is not connected to network {name}")
            networks.pop(name, None)
            if running:
                try:
                    found.live.sandbox = await self._service.leave(found.id, network_id)
                except GantryError:
                    if not force:
                        raise
                else:
                    self._after(found)
            await self._keep(found, networks)

    def _attached(self, container: Container, name: str) -> bool:
        sandbox = container.live.sandbox
        return sandbox is not None and name in sandbox.endpoints

    def _after(self, container: Container) -> None:
        """The files in the container follow; what must be found again after a restart too."""
        sandbox = container.live.sandbox
        assert sandbox is not None
        folder = self._core.folder(container.id)
        for name, content in (("hosts", sandbox.hosts), ("resolv.conf", sandbox.resolv_conf)):
            if content:
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(content)
        container.change(network=sandbox.state)
        self._core.note(container)

    async def _keep(self, container: Container, networks: dict[str, EndpointSettings]) -> None:
        record = replace(container.record, networks=networks)
        await self._core.store.replace(container.id, container.name, encode_record(record))
        container.record = record
