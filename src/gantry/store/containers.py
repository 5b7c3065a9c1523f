"""Durable records of containers: what was asked for, and what happened last.

Values are opaque bytes (JSON): the store neither reads nor shapes them.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from gantry.store.database import Database

_SCHEMA: Final = (
    "CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " record BLOB NOT NULL, state BLOB NOT NULL) WITHOUT ROWID",
)


class ContainerStore:
    """One row a container."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.migrate("containers", _SCHEMA)

    def load(self) -> list[tuple[bytes, bytes]]:
        """(record, state) of all."""

        def select(connection: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
            return connection.execute("SELECT record, state FROM containers").fetchall()

        return self._db.read(select)

    async def insert(self, container_id: str, name: str, record: bytes, state: bytes) -> None:
        """Durable at return."""
        row = (container_id, name, record, state)
        await self._db.write(
            lambda c: c.execute("INSERT INTO containers VALUES (?, ?, ?, ?)", row) and None
        )

    async def replace(self, container_id: str, name: str, record: bytes) -> None:
        """A changed record (rename, update); durable at return."""
        await self._db.write(
            lambda c: (
                c.execute(
                    "UPDATE containers SET name=?, record=? WHERE id=?",
                    (name, record, container_id),
                )
                and None
            )
        )

    def note(self, container_id: str, state: bytes) -> None:
        """What happened: written soon, and before any later durable write."""
        self._db.write_soon(
            lambda c: c.execute("UPDATE containers SET state=? WHERE id=?", (state, container_id))
        )

    async def noted(self, container_id: str, state: bytes) -> None:
        """What happened; at return it survives the end of this process."""
        await self._db.write(
            lambda c: (
                c.execute("UPDATE containers SET state=? WHERE id=?", (state, container_id))
                and None
            ),
            sync=False,
        )

    async def delete(self, container_id: str) -> None:
        """Durable at return."""
        await self._db.write(
            lambda c: c.execute("DELETE FROM containers WHERE id=?", (container_id,)) and None
        )
