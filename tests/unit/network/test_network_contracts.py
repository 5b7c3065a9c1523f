"""The contract suites that need no kernel: stores, and IPAM drivers with addresses."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gantry.network.ipam import DefaultIpam
from gantry.network.settings import DEFAULT_POOLS
from gantry.store.database import Database
from gantry.store.networks import SqliteNetworkStore
from gantry.testing.network import MemoryNetworkStore, ipam_contract, store_contract


def test_memory_store() -> None:
    store = MemoryNetworkStore()
    asyncio.run(store_contract(lambda: store))


def test_sqlite_store(tmp_path: Path) -> None:
    async def main() -> None:
        database = Database(str(tmp_path / "state.db"))
        try:
            await store_contract(lambda: SqliteNetworkStore(database))
        finally:
            await database.aclose()

    asyncio.run(main())


def test_default_ipam() -> None:
    asyncio.run(ipam_contract(DefaultIpam(DEFAULT_POOLS)))
