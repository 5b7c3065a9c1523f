"""Which of a container's ports are published, at which of its endpoints.

Ports belong to the endpoint that is the container's way out (Docker's gateway endpoint):
when that changes, they follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gantry.model.errors import System
from gantry.model.network import EndpointState, NetworkRecord
from gantry.network.bridge import BridgeDriver
from gantry.network.catalog import Catalog
from gantry.network.drivers import Driver
from gantry.network.live import Live
from gantry.network.publish import PortRequest, port_requests
from gantry.network.publishing import Publication, Publisher
from gantry.network.settings import NetworkSettings

Place = tuple[NetworkRecord, EndpointState]


class Exposure:
    """Publishes for `Live`s; `Publisher` does it."""

    def __init__(
        self,
        settings: NetworkSettings,
        catalog: Catalog,
        publisher: Publisher,
        driver_of: Callable[[NetworkRecord], Driver],
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._publisher = publisher
        self._driver_of = driver_of

    def requests(self, live: Live) -> list[PortRequest]:
        """What the container's configuration asks for; nothing where it has no way out that
        publishes ports (internal networks, other drivers)."""
        request = live.request
        if not request.port_bindings and not request.publish_all:
            return []
        at4, at6 = self._place(live, 4), self._place(live, 6)
        at = at4 or at6
        if at is None:
            return []
        driver = self._driver_of(at[0])
        assert isinstance(driver, BridgeDriver)
        return port_requests(
            request.port_bindings,
            request.exposed,
            publish_all=request.publish_all,
            default_ip=driver.host_ip(at[0]) or self._settings.ip,
            ipv6=at6 is not None or self._settings.userland_proxy,
        )

    async def publish(self, live: Live, requests: Sequence[PortRequest]) -> None:
        """Publish `requests` instead of what is published; ports that stay are not
        interrupted. On error all is as before: System with Docker's text."""
        at4, at6 = self._place(live, 4), self._place(live, 6)
        at = at4 or at6
        if at is None or not requests:
            await self.withdraw(live)
            return
        try:
            live.publication = await self._publisher.change(
                live.publication or Publication([], [], ""),
                requests,
                at4[1].ip if at4 else "",
                at6[1].ipv6 if at6 else "",
                routed4=at4 is not None and self._routed(at4[0], 4),
                routed6=at6 is not None and self._routed(at6[0], 6),
                opened=self._opened(live),
            )
        except (System, OSError) as error:
            raise System(
                "failed to set up container networking: driver failed programming external"
                f" connectivity on endpoint {live.request.name} ({at[1].endpoint_id}): {error}"
            ) from error

    async def withdraw(self, live: Live) -> None:
        """Idempotent."""
        publication, live.publication = live.publication, None
        if publication is not None:
            await self._publisher.withdraw(publication)

    async def let_go(self, live: Live) -> None:
        """The daemon ends, the container goes on."""
        if live.publication is not None:
            await self._publisher.let_go(live.publication)

    def _opened(self, live: Live) -> list[tuple[str, bool]]:
        """The container's addresses in networks that others route to, its way out or not;
        and whether only trusted interfaces' packets are meant."""
        found: list[tuple[str, bool]] = []
        for state in live.endpoints.values():
            record = self._catalog.get(state.network_id)
            if record is None or record.internal:
                continue
            driver = self._driver_of(record)
            if not isinstance(driver, BridgeDriver):
                continue
            for version, address in ((4, state.ip), (6, state.ipv6)):
                routed = self._settings.allow_direct_routing or self._routed(record, version)
                if address and (routed or driver.trusts(record)):
                    found.append((address, not routed))
        return found

    def _place(self, live: Live, version: int) -> Place | None:
        """The endpoint that ports of this IP version are published at."""
        name = live.ways[0 if version == 4 else 1]
        state = live.endpoints.get(name)
        record = self._catalog.get(state.network_id) if state is not None else None
        if state is None or record is None or record.internal:
            return None
        return (record, state) if isinstance(self._driver_of(record), BridgeDriver) else None

    def _routed(self, record: NetworkRecord, version: int) -> bool:
        driver = self._driver_of(record)
        return isinstance(driver, BridgeDriver) and driver.routed(record, version)
