"""Image records in the state database."""

from __future__ import annotations

import sqlite3

import msgspec

from gantry.model.image_record import (
    BlobSource,
    Change,
    ImageRecord,
    Lease,
    ReferenceRecord,
    Stored,
)
from gantry.store.database import Database

_SCHEMA = (
    "CREATE TABLE images (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE image_references (name TEXT PRIMARY KEY, image_id TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE image_leases (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE image_blob_sources (digest TEXT NOT NULL, repository TEXT NOT NULL,"
    " PRIMARY KEY (digest, repository)) WITHOUT ROWID",
)


class SqliteImageStore:
    """`gantry.images.ports.ImageStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("images", _SCHEMA)

    def load(self) -> Stored:
        return self._database.read(_load)

    async def apply(self, change: Change) -> None:
        await self._database.write(lambda connection: _apply(connection, change))


def _load(connection: sqlite3.Connection) -> Stored:
    def rows(columns: str, table: str) -> list[tuple[str, str]]:
        return connection.execute(f"SELECT {columns} FROM {table}").fetchall()

    decode = msgspec.json.decode
    return Stored(
        tuple(decode(record, type=ImageRecord) for _, record in rows("id, record", "images")),
        tuple(ReferenceRecord(*row) for row in rows("name, image_id", "image_references")),
        tuple(decode(record, type=Lease) for _, record in rows("id, record", "image_leases")),
        tuple(BlobSource(*row) for row in rows("digest, repository", "image_blob_sources")),
    )


def _apply(connection: sqlite3.Connection, change: Change) -> None:
    encode = msgspec.json.encode
    many = connection.executemany
    many("DELETE FROM image_references WHERE name = ?", [(n,) for n in change.drop_references])
    many("DELETE FROM images WHERE id = ?", [(n,) for n in change.drop_images])
    many("DELETE FROM image_leases WHERE id = ?", [(n,) for n in change.drop_leases])
    many(
        "INSERT OR REPLACE INTO images VALUES (?, ?)",
        [(record.id, encode(record)) for record in change.put_images],
    )
    many(
        "INSERT OR REPLACE INTO image_references VALUES (?, ?)",
        [(reference.name, reference.image_id) for reference in change.put_references],
    )
    many(
        "INSERT OR REPLACE INTO image_leases VALUES (?, ?)",
        [(lease.id, encode(lease)) for lease in change.put_leases],
    )
    many(
        "INSERT OR IGNORE INTO image_blob_sources VALUES (?, ?)",
        [(source.digest, source.repository) for source in change.put_sources],
    )
