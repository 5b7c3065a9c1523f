"""What this package needs of others: Protocols, implemented below and beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gantry.model.network import NetworkRecord


class NetworkStore(Protocol):
    """Durable records of user-defined networks (and the default one's id)."""

    def load(self) -> Sequence[NetworkRecord]:
        """All records, oldest first. Called once, at start."""

    async def save(self, record: NetworkRecord) -> None:
        """Insert, or replace the record of the same id; durable at return."""

    async def delete(self, network_id: str) -> None:
        """Idempotent; durable at return."""
