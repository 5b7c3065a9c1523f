"""The drivers of the predefined networks "host" and "none": nothing to make."""

from __future__ import annotations

from collections.abc import Sequence

from gantry.model.errors import Forbidden
from gantry.model.network import EndpointState, NetworkRecord
from gantry.network.drivers import Attached, Traits, Wanted


class NullDriver:
    """name: "host" or "null". One network each, which always is there."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def traits(self, record: NetworkRecord) -> Traits:
        return Traits(gateways=False)

    def check(self, record: NetworkRecord, others: Sequence[NetworkRecord]) -> None:
        if others:
            raise Forbidden(f'only one instance of "{self.name}" network is allowed')

    async def create(self, record: NetworkRecord) -> None:
        pass

    async def remove(self, record: NetworkRecord) -> None:
        pass

    async def attach(self, record: NetworkRecord, wanted: Wanted, netns_fd: int) -> Attached:
        return Attached("")

    async def detach(self, record: NetworkRecord, state: EndpointState, netns_fd: int) -> None:
        pass

    async def adopt(self, record: NetworkRecord, state: EndpointState) -> None:
        pass
