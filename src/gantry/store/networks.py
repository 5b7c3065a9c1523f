"""Network records in the state database."""

from __future__ import annotations

import sqlite3

import msgspec

from gantry.model.network import NetworkRecord
from gantry.store.database import Database

_SCHEMA = ("CREATE TABLE networks (id TEXT PRIMARY KEY, record BLOB NOT NULL)",)


class SqliteNetworkStore:
    """`gantry.network.ports.NetworkStore` in the table `networks`, a row a network."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("networks", _SCHEMA)

    def load(self) -> list[NetworkRecord]:
        rows = self._database.read(
            lambda c: c.execute("SELECT record FROM networks ORDER BY rowid").fetchall()
        )
        return [msgspec.json.decode(row[0], type=NetworkRecord) for row in rows]

    async def save(self, record: NetworkRecord) -> None:
        data = msgspec.json.encode(record)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO networks (id, record) VALUES (?, ?)"
                " ON CONFLICT (id) DO UPDATE SET record = excluded.record",
                (record.id, data),
            )

        await self._database.write(write)

    async def delete(self, network_id: str) -> None:
        await self._database.write(
            lambda c: c.execute("DELETE FROM networks WHERE id = ?", (network_id,))
        )
