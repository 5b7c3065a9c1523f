"""Durable records of named volumes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Final

from gantry.store.database import Database

_SCHEMA: Final = (
    "CREATE TABLE volumes (name TEXT PRIMARY KEY, driver TEXT NOT NULL, created INTEGER NOT NULL,"
    " options TEXT NOT NULL, labels TEXT NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """created: nanoseconds since the epoch. labels: None when none were given at all."""

    name: str
    driver: str
    created: int
    options: dict[str, str] | None
    labels: dict[str, str] | None


class VolumeStore:
    """One row a volume."""

    def __init__(self, database: Database) -> None:
        self._db = database
        database.migrate("volumes", _SCHEMA)

    def load(self) -> list[VolumeRow]:
        def select(connection: sqlite3.Connection) -> list[VolumeRow]:
            rows = connection.execute("SELECT * FROM volumes").fetchall()
            return [VolumeRow(r[0], r[1], r[2], json.loads(r[3]), json.loads(r[4])) for r in rows]

        return self._db.read(select)

    async def add(
        self,
        name: str,
        driver: str,
        created: int,
        options: dict[str, str] | None,
        labels: dict[str, str] | None,
    ) -> None:
        """Durable at return."""
        values = (name, driver, created, json.dumps(options), json.dumps(labels))
        await self._db.write(
            lambda c: c.execute("INSERT INTO volumes VALUES (?, ?, ?, ?, ?)", values) and None
        )

    async def delete(self, name: str) -> None:
        """Durable at return."""
        await self._db.write(
            lambda c: c.execute("DELETE FROM volumes WHERE name=?", (name,)) and None
        )
