"""Volumes of plugins: what the plugin is asked, and what becomes of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gantry.model.errors import NotFound, System
from gantry.volumes.ports import Row
from gantry.volumes.service import Volumes

Json = dict[str, Any]


class FakeStore:
    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}

    def load(self) -> Sequence[Row]:
        return []

    async def add(
        self,
        name: str,
        driver: str,
        created: int,
        options: dict[str, str] | None,
        labels: dict[str, str] | None,
    ) -> None:
        self.rows[name] = driver

    async def delete(self, name: str) -> None:
        del self.rows[name]


class FakePlugin:
    """Knows volumes by name; `refuses`: methods that fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Json]] = []
        self.volumes: dict[str, Json] = {}
        self.refuses: set[str] = set()

    async def get(self, name: str, kind: str) -> FakePlugin:
        if name != "far":
            raise NotFound(f'plugin "{name}" not found')
        assert kind == "VolumeDriver"
        return self

    async def call(self, method: str, body: Json | None = None) -> Json:
        assert body is not None
        method = method.removeprefix("VolumeDriver.")
        self.calls.append((method, body))
        if method in self.refuses:
            raise System("remote: no, not this one")
        if method == "Capabilities":
            return {"Capabilities": {"Scope": "global"}}
        name = body["Name"]
        match method:
            case "Create":
                self.volumes[name] = {"Name": name, "Status": {"Hello": "world"}}
            case "Get" if name not in self.volumes:
                raise System("remote: no such volume")
            case "Get":
                return {"Volume": self.volumes[name]}
            case "Remove":
                del self.volumes[name]
            case "Mount":
                self.volumes[name]["Mountpoint"] = f"/far/{name}"
                return {"Mountpoint": f"/far/{name}"}
        return {}


def test_a_volume_of_a_plugin(tmp_path: Path) -> None:
    async def scenario() -> None:
        plugin, store = FakePlugin(), FakeStore()
        volumes = Volumes(str(tmp_path), store, lambda *_: None, plugin)
        body = {"Name": "vol", "Driver": "far", "DriverOpts": {"a": "b"}}
        made = await volumes.create(body)
        assert (made["Driver"], made["Mountpoint"], made["Scope"]) == ("far", "", "global")
        assert plugin.calls[-2] == ("Create", {"Name": "vol", "Opts": {"a": "b"}})
        assert store.rows == {"vol": "far"}
        held = await volumes.ensure("vol", holder="c1")
        assert held.driver == "far"
        assert await volumes.mount("vol", "c1") == "/far/vol"
        assert plugin.calls[-1] == ("Mount", {"Name": "vol", "ID": "c1"})
        assert volumes.path("vol") == "/far/vol"
        await volumes.unmount("vol", "c1")
        assert plugin.calls[-1] == ("Unmount", {"Name": "vol", "ID": "c1"})
        shown = await volumes.inspect("vol")
        assert shown["Status"] == {"Hello": "world"}
        volumes.drop(["vol"], "c1")
        assert (await volumes.prune({"all": ["1"]}))["VolumesDeleted"] == []
        await volumes.remove("vol", force=False)
        assert (plugin.volumes, store.rows) == ({}, {})

    asyncio.run(scenario())


def test_what_a_plugin_refuses(tmp_path: Path) -> None:
    async def scenario() -> None:
        plugin = FakePlugin()
        volumes = Volumes(str(tmp_path), FakeStore(), lambda *_: None, plugin)
        with pytest.raises(NotFound, match='error looking up volume plugin x: plugin "x" not'):
            await volumes.create({"Name": "vol", "Driver": "x"})
        plugin.refuses = {"Create"}
        with pytest.raises(System, match=r"^create vol: VolumeDriver.Create: no, not this one$"):
            await volumes.create({"Name": "vol", "Driver": "far"})
        assert volumes.get("vol") is None
        plugin.refuses = {"Remove"}
        await volumes.create({"Name": "vol", "Driver": "far"})
        with pytest.raises(System, match=r"^remove vol: VolumeDriver.Remove: no, not this one$"):
            await volumes.remove("vol", force=False)
        assert volumes.get("vol") is not None

    asyncio.run(scenario())


def test_one_that_the_plugin_has_is_taken_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        plugin = FakePlugin()
        plugin.volumes["vol"] = {"Name": "vol"}
        volumes = Volumes(str(tmp_path), FakeStore(), lambda *_: None, plugin)
        await volumes.create({"Name": "vol", "Driver": "far"})
        assert [method for method, _ in plugin.calls] == ["Get", "Capabilities"]


def test_one_that_the_plugin_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        plugin, store = FakePlugin(), FakeStore()
        volumes = Volumes(str(tmp_path), store, lambda *_: None, plugin)
        await volumes.create({"Name": "vol", "Driver": "far"})
        plugin.volumes.clear()
        with pytest.raises(NotFound, match="get vol: no such volume"):
            await volumes.inspect("vol")
        again = await volumes.create({"Name": "vol", "Driver": "far", "DriverOpts": {"x": "y"}})
        assert again["Options"] == {"x": "y"}
        assert list(plugin.volumes) == ["vol"]

    asyncio.run(scenario())

    asyncio.run(scenario())
