"""Fakes of what the network package needs of others, and of the package itself."""

from __future__ import annotations

from collections.abc import Iterable

from gantry.model.network import NetworkRecord


class MemoryNetworkStore:
    """A `gantry.network.ports.NetworkStore` in memory."""

    def __init__(self, records: Iterable[NetworkRecord] = ()) -> None:
        self.records = {record.id: record for record in records}

    def load(self) -> list[NetworkRecord]:
        return list(self.records.values())

    async def save(self, record: NetworkRecord) -> None:
        self.records[record.id] = record

    async def delete(self, network_id: str) -> None:
        self.records.pop(network_id, None)
