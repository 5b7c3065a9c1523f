"""Volume drivers that are plugins (Docker's VolumeDriver protocol)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gantry.model.errors import NotFound, System
from gantry.volumes.ports import Plugins

Json = dict[str, Any]


class RemoteDrivers:
    """All of them, by name. scopes: "local" or "global", of those that were asked."""

    def __init__(self, plugins: Plugins | None) -> None:
        self._plugins = plugins
        self.scopes: dict[str, str] = {}

    async def call(self, driver: str, method: str, body: Json) -> Json:
        """NotFound without such a plugin, System when it refuses."""
        if self._plugins is None:
            raise NotFound(f'plugin "{driver}" not found')
        try:
            plugin = await self._plugins.get(driver, "VolumeDriver")
        except NotFound:
            raise NotFound(f'plugin "{driver}" not found') from None
        try:
            return await plugin.call(f"VolumeDriver.{method}", body)
        except System as error:
            text = str(error).removeprefix("remote: ").removeprefix(f"VolumeDriver.{method}: ")
            raise System(f"VolumeDriver.{method}: {text}") from None

    async def get(self, driver: str, name: str) -> Json | None:
        """What the plugin says of a volume, None when it has it not. NotFound: no plugin."""
        try:
            answer = await self.call(driver, "Get", {"Name": name})
        except System:
            return None
        found: Json | None = answer.get("Volume")
        return found or None

    async def create(self, driver: str, name: str, options: Mapping[str, str] | None) -> None:
        """The plugin may have it already: then it is that one. NotFound, System."""
        try:
            found = await self.get(driver, name)
        except NotFound as error:
            raise NotFound(
                f"create {name}: error looking up volume plugin {driver}: {error}"
            ) from None
        if found is not None:
            return
        try:
            await self.call(driver, "Create", {"Name": name, "Opts": dict(options or {})})
        except System as error:
            raise System(f"create {name}: {error}") from None

    async def ask_scope(self, driver: str) -> str:
        """Of a driver's volumes; asked for once."""
        if driver not in self.scopes:
            try:
                answer = await self.call(driver, "Capabilities", {})
            except System:
                answer = {}
            scope = (answer.get("Capabilities") or {}).get("Scope", "")
            self.scopes[driver] = "global" if str(scope).lower() == "global" else "local"
        return self.scopes[driver]
