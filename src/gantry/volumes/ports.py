"""What the volume service needs of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Row(Protocol):
    """One stored volume; see `gantry.store.volumes.VolumeRow`."""

    @property
    def name(self) -> str: ...
    @property
    def driver(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def options(self) -> dict[str, str] | None: ...
    @property
    def labels(self) -> dict[str, str] | None: ...


class Store(Protocol):
    """Durable records."""

    def load(self) -> Sequence[Row]: ...

    async def add(
        self,
        name: str,
        driver: str,
        created: int,
        options: dict[str, str] | None,
        labels: dict[str, str] | None,
    ) -> None: ...

    async def delete(self, name: str) -> None: ...


class Plugin(Protocol):
    """A volume plugin (Docker's VolumeDriver protocol)."""

    async def call(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer. System with the plugin's own words when it refuses."""


class Plugins(Protocol):
    """Where plugins are found: `gantry.network.plugins.Plugins`."""

    async def get(self, name: str, kind: str) -> Plugin:
        """NotFound."""


Publish = Callable[[str, str, Mapping[str, str]], object]
"""(action, volume name, attributes): an event of a volume."""
