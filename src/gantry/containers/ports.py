"""What the containers' services need of others: Protocols, implemented below and beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from typing import Any, Protocol

from gantry.model.image import Image
from gantry.model.network import EndpointConfig, HostPort, Sandbox, SandboxRequest, SandboxState


class Images(Protocol):
    """`gantry.images.engine.Images`, as far as containers care."""

    def resolve(self, name: str) -> Image:
        """NotFound `No such image: x:latest`."""

    def released(self) -> None:
        """A container's file system is gone: layers that only it needed may go, too."""

    def children(self, image_id: str) -> Set[str]:
        """Ids of the images made from it here, directly and not."""


class Networks(Protocol):
    """`gantry.network.service.Networks`, as far as containers care."""

    async def allocate(self, request: SandboxRequest) -> Sandbox: ...

    async def release(self, container_id: str) -> None: ...

    async def adopt(self, request: SandboxRequest, pid: int, saved: SandboxState) -> Sandbox: ...

    async def update_ports(
        self, container_id: str, port_bindings: Mapping[str, Sequence[HostPort]]
    ) -> Sandbox: ...

    async def join(self, container_id: str, network: str, config: EndpointConfig) -> Sandbox: ...

    async def leave(self, container_id: str, network: str) -> Sandbox: ...

    async def rename(self, container_id: str, name: str) -> None: ...

    async def relink(self, container_id: str, links: Sequence[str]) -> Sandbox | None: ...

    async def linking(self, container_id: str) -> Mapping[str, Sandbox]: ...

    def resolve(self, term: str) -> tuple[str, str]: ...

    def check_endpoint(self, network: str, config: EndpointConfig) -> tuple[str, str]: ...


class Volume(Protocol):
    """A named volume."""

    @property
    def name(self) -> str: ...
    @property
    def driver(self) -> str: ...


class Volumes(Protocol):
    """`gantry.volumes.service.Volumes`, as far as containers care."""

    async def ensure(
        self,
        name: str,
        *,
        holder: str,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume: ...

    def hold(self, name: str, holder: str) -> None: ...

    def drop(self, names: Iterable[str], holder: str) -> None: ...

    def get(self, name: str) -> Volume | None: ...

    def path(self, name: str) -> str: ...

    async def mount(self, name: str, user: str) -> str: ...

    async def unmount(self, name: str, user: str) -> None: ...

    def in_use(self, name: str, user: str) -> None: ...

    async def remove(self, name: str, *, force: bool) -> None: ...


class Store(Protocol):
    """`gantry.store.containers.ContainerStore`."""

    def load(self) -> list[tuple[bytes, bytes]]: ...

    async def insert(self, container_id: str, name: str, record: bytes, state: bytes) -> None: ...

    async def replace(self, container_id: str, name: str, record: bytes) -> None: ...

    def note(self, container_id: str, state: bytes) -> None: ...

    async def noted(self, container_id: str, state: bytes) -> None: ...

    async def delete(self, container_id: str) -> None: ...


class Events(Protocol):
    """`gantry.events.bus.EventBus`. last: when the latest event was, in nanoseconds."""

    @property
    def last(self) -> int: ...

    def publish(
        self, kind: str, action: str, actor: str, attributes: Mapping[str, str]
    ) -> object: ...

    def subscribe(
        self, *, since: int | None = None, until: int | None = None, matches: Any
    ) -> AsyncIterator[dict[str, Any]]: ...
