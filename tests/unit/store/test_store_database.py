"""The state database: durability in groups, isolation of failures, order, migrations."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from pathlib import Path

import pytest

from gantry.model.errors import System
from gantry.store.database import Database

TABLE = ("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT UNIQUE)",)


def add(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute("INSERT INTO things (name) VALUES (?)", (name,)).lastrowid or 0


def names(db: Database) -> list[str]:
    return [
        row[0]
        for row in db.read(lambda c: c.execute("SELECT name FROM things ORDER BY id").fetchall())
    ]


def opened(path: Path) -> Database:
    db = Database(str(path / "state.db"))
    db.migrate("things", TABLE)
    return db


def test_a_write_is_there_for_readers_and_after_reopening(tmp_path: Path) -> None:
    async def scenario() -> None:
        db = opened(tmp_path)
        assert await db.write(lambda c: add(c, "a")) == 1
        assert names(db) == ["a"]
        await db.aclose()
        again = opened(tmp_path)
        assert names(again) == ["a"]
        await again.aclose()

    asyncio.run(scenario())


def test_one_that_raises_takes_only_its_own_changes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        db = opened(tmp_path)

        def half(connection: sqlite3.Connection) -> None:
            add(connection, "half")
            raise ValueError("no")

        results = await asyncio.gather(
            db.write(lambda c: add(c, "a")),
            db.write(half),
            db.write(lambda c: add(c, "a")),
            db.write(lambda c: add(c, "b")),
            return_exceptions=True,
        )
        assert isinstance(results[1], ValueError)
        assert isinstance(results[2], sqlite3.IntegrityError)
        assert names(db) == ["a", "b"]
        await db.aclose()

    asyncio.run(scenario())


def test_hints_are_in_order_and_written_before_the_next_durable_write(tmp_path: Path) -> None:
    async def scenario() -> None:
        db = opened(tmp_path)
        db.write_soon(lambda c: add(c, "hint"))
        await db.write(lambda c: add(c, "durable"))
        assert names(db) == ["hint", "durable"]
        db.write_soon(lambda c: add(c, "last"))
        await db.aclose()
        again = opened(tmp_path)
        assert names(again) == ["hint", "durable", "last"]
        await again.aclose()

    asyncio.run(scenario())


def test_waiting_writers_share_a_transaction(tmp_path: Path) -> None:
    async def scenario() -> None:
        db = opened(tmp_path)
        await asyncio.gather(*(db.write(functools.partial(add, name=str(i))) for i in range(200)))
        assert names(db) == [str(i) for i in range(200)]
        await db.aclose()
        with pytest.raises(System, match="closed"):
            await db.write(lambda c: add(c, "late"))

    asyncio.run(scenario())


def test_migrations_run_once_and_a_newer_file_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        db = opened(tmp_path)
        db.migrate("things", (*TABLE, "ALTER TABLE things ADD COLUMN size INTEGER DEFAULT 7"))
        await db.write(lambda c: add(c, "a"))
        assert db.read(lambda c: c.execute("SELECT size FROM things").fetchone()) == (7,)
        with pytest.raises(System, match="newer version"):
            db.migrate("things", TABLE)
        with pytest.raises(sqlite3.OperationalError):
            db.migrate("other", ("NONSENSE",))
        await db.aclose()

    asyncio.run(scenario())


def test_what_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is no database at all, and long enough to tell" * 20)
    with pytest.raises(System, match="cannot open the state database"):
        Database(str(path))
