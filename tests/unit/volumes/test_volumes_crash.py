"""What a crash leaves of volumes half made and half removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gantry.store.database import Database
from gantry.store.volumes import VolumeStore
from gantry.volumes.local import LocalDriver
from gantry.volumes.service import Volumes


def test_set_aside_before_the_record_went(tmp_path: Path) -> None:
    driver = LocalDriver(str(tmp_path))
    driver.create("data")
    (tmp_path / "data/_data/file").write_text("x")
    assert driver.set_aside("data")
    assert not (tmp_path / "data").exists()
    driver.recover({"data"})
    assert (tmp_path / "data/_data/file").read_text() == "x"
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_set_aside_after_the_record_went(tmp_path: Path) -> None:
    driver = LocalDriver(str(tmp_path))
    for _ in range(2):  # made anew meanwhile, and removed again
        driver.create("data")
        (tmp_path / "data/_data/file").write_text("x")
        assert driver.set_aside("data")
    driver.create("data")
    (tmp_path / "data/_data/file").write_text("new")
    driver.recover({"data"})
    assert (tmp_path / "data/_data/file").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]
    assert driver.set_aside("none") == ""


def test_made_without_a_record(tmp_path: Path) -> None:
    driver = LocalDriver(str(tmp_path))
    driver.create("empty")
    (tmp_path / "emptier").mkdir()
    driver.create("full")
    (tmp_path / "full/_data/file").write_text("x")
    driver.recover(())
    assert [entry.name for entry in tmp_path.iterdir()] == ["full"]  # files are nobody's to lose


def test_a_record_that_cannot_be_deleted(tmp_path: Path) -> None:
    class Broken(VolumeStore):
        async def delete(self, name: str) -> None:
            raise RuntimeError("disk full")

    async def scenario() -> None:
        database = Database(str(tmp_path / "db"))
        volumes = Volumes(str(tmp_path / "volumes"), Broken(database), lambda *event: None)
        made = await volumes.create({"Name": "data"})
        with pytest.raises(RuntimeError):
            await volumes.remove("data", force=False)
        assert await volumes.inspect("data") == made
        assert Path(made["Mountpoint"]).is_dir()
        await database.aclose()

    asyncio.run(scenario())
