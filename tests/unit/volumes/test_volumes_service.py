"""Volumes: made, held, listed, pruned, found again; and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from gantry.model.errors import Conflict, InvalidParameter, NotFound
from gantry.store.database import Database
from gantry.store.volumes import VolumeStore
from gantry.volumes.service import Volumes


class Bench:
    def __init__(self, root: Path) -> None:
        self.events: list[tuple[str, str]] = []
        self.database = Database(str(root / "db"))

        def publish(action: str, name: str, attributes: Mapping[str, str]) -> None:
            self.events.append((action, name))

        self.volumes = Volumes(str(root / "volumes"), VolumeStore(self.database), publish)

    async def names(self, **filters: list[str]) -> list[str]:
        return [v["Name"] for v in (await self.volumes.list(filters))["Volumes"]]


def test_create_inspect_remove(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        made = await bench.volumes.create({"Name": "data", "Labels": {"a": "b"}})
        assert made["Mountpoint"] == str(tmp_path / "volumes/data/_data")
        assert Path(made["Mountpoint"]).is_dir()
        assert made["Driver"] == "local"
        assert made["Options"] is None
        assert await bench.volumes.create({"Name": "data"}) == made
        assert await bench.volumes.inspect("data") == made
        await bench.volumes.remove("data", force=False)
        assert not (tmp_path / "volumes/data").exists()
        with pytest.raises(NotFound, match="get data: no such volume"):
            await bench.volumes.inspect("data")
        with pytest.raises(NotFound, match="get data: no such volume"):
            await bench.volumes.remove("data", force=False)
        await bench.volumes.remove("data", force=True)
        assert bench.events == [("create", "data"), ("destroy", "data")]
        await bench.database.aclose()

    asyncio.run(scenario())


def test_held_ones_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        volume = await bench.volumes.ensure("data", holder="c1")
        anonymous = await bench.volumes.ensure("", holder="c2")
        assert len(anonymous.name) == 64
        with pytest.raises(Conflict, match=r"remove data: volume is in use - \[c1\]"):
            await bench.volumes.remove("data", force=True)
        assert await bench.names(dangling=["true"]) == []
        bench.volumes.drop(["data", anonymous.name], "c1")
        assert await bench.names(dangling=["true"]) == ["data"]
        assert (await bench.volumes.prune({}))["VolumesDeleted"] == []
        bench.volumes.drop([anonymous.name], "c2")
        (tmp_path / "volumes" / anonymous.name / "_data" / "file").write_bytes(b"x" * 100)
        pruned = await bench.volumes.prune({})
        assert pruned["VolumesDeleted"] == [anonymous.name]
        assert pruned["SpaceReclaimed"] >= 100
        assert (await bench.volumes.prune({"all": ["true"]}))["VolumesDeleted"] == [volume.name]
        await bench.database.aclose()

    asyncio.run(scenario())


def test_found_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
        await bench.volumes.create({"Name": "scratch", "DriverOpts": options})
        shown = await bench.volumes.inspect("scratch")
        await bench.database.aclose()
        again = Bench(tmp_path)
        assert await again.volumes.inspect("scratch") == shown
        assert shown["Options"] == options
        await again.database.aclose()

    asyncio.run(scenario())


def test_filters(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.volumes.create({"Name": "one", "Labels": {"tier": "1"}})
        await bench.volumes.create({"Name": "two", "Labels": {"tier": "2"}})
        assert await bench.names() == ["one", "two"]
        assert await bench.names(name=["w"]) == ["two"]
        assert await bench.names(label=["tier=1"]) == ["one"]
        assert await bench.names(label=["tier"], driver=["local"]) == ["one", "two"]
        assert await bench.names(driver=["nfs"]) == []
        with pytest.raises(InvalidParameter, match="invalid filter 'odd'"):
            await bench.names(odd=["x"])
        pruned = await bench.volumes.prune({"all": ["1"], "label!": ["tier=2"]})
        assert pruned["VolumesDeleted"] == ["one"]
        await bench.database.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ({"Name": "x"}, InvalidParameter, "volume name is too short"),
        ({"Name": "a/b"}, InvalidParameter, "includes invalid characters for a local volume name"),
        ({"Name": "ab", "DriverOpts": {"odd": "1"}}, InvalidParameter, 'invalid option: "odd"'),
        (
            {"Name": "ab", "DriverOpts": {"type": "nfs"}},
            InvalidParameter,
            'missing required option: "device"',
        ),
        ({"Name": "ab", "DriverOpts": {"size": "1g"}}, InvalidParameter, "no quota support"),
        ({"Name": "ab", "Driver": "odd"}, NotFound, 'plugin "odd" not found'),
        ({"Name": "taken", "Driver": "odd"}, Conflict, "volume name must be unique"),
    ],
)
def test_refused(
    tmp_path: Path, body: dict[str, object], error: type[Exception], text: str
) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.volumes.create({"Name": "taken"})
        with pytest.raises(error, match=text):
            await bench.volumes.create(body)
        assert await bench.names() == ["taken"]
        assert [p.name for p in (tmp_path / "volumes").iterdir()] == ["taken"]
        await bench.database.aclose()

    asyncio.run(scenario())


def test_ensured_at_the_same_time_is_made_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        found = await asyncio.gather(
            *(bench.volumes.ensure("shared", holder=str(n)) for n in range(20))
        )
        assert len({id(v) for v in found}) == 1
        assert len(found[0].holders) == 20
        assert bench.events == [("create", "shared")]
        await bench.database.aclose()

    asyncio.run(scenario())


def test_a_creation_that_fails_lets_only_one_follow(tmp_path: Path) -> None:
    """Those who waited for it, and those who come then, are still one after the other."""

    class Slow(VolumeStore):
        under_way = most = calls = 0

        async def add(self, *row: object) -> None:
            self.calls += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1
            if self.calls < 3:
                raise RuntimeError("disk full")

    async def scenario() -> None:
        store = Slow(Database(str(tmp_path / "db")))
        volumes = Volumes(str(tmp_path / "volumes"), store, lambda *_: None)

        async def late() -> None:
            while store.calls < 2:
                await asyncio.sleep(0)
            await volumes.ensure("shared", holder="late")

        ensured = (volumes.ensure("shared", holder=str(n)) for n in range(4))
        done = await asyncio.gather(*ensured, late(), return_exceptions=True)
        assert [type(one) for one in done].count(RuntimeError) == 2
        assert (store.calls, store.most) == (3, 1)

    asyncio.run(scenario())
