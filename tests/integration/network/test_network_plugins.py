"""Drivers that are plugins: a network driver and an IPAM driver over a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.integration.network.netlab import (
    SETTINGS,
    ask,
    request,
    routes,
    tcp_server,
    with_networks,
)
from tests.support.machine import Machine

from gantry.ipc.owner import TaskOwner
from gantry.model.errors import GantryError, NotFound, System
from gantry.network.service import Networks
from gantry.testing.network import MemoryNetworkStore

pytestmark = pytest.mark.integration

Json = dict[str, Any]


class FakePlugin:
    """Veths into a bridge of its own; addresses from 10.77.0.0/24, always the next one."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.calls: list[tuple[str, Json]] = []
        self.refuse = ""
        self.garbage: dict[str, bytes] = {}
        self.next = 10

    def ip(self, command: str) -> None:
        self.machine.host.run("ip", *command.split())

    async def handle(self, http: web.Request) -> web.Response:
        method = http.path[1:]
        data = await http.read()
        body: Json = json.loads(data) if data else {}
        self.calls.append((method, body))
        if method == self.refuse:
            return web.json_response({"Err": "not today"})
        handler = getattr(self, method.replace(".", "_"), None)
        if handler is None:
            return web.Response(status=404)
        answer = handler(body)
        if method in self.garbage:
            return web.Response(body=self.garbage[method])
        return web.json_response(answer)

    def Plugin_Activate(self, body: Json) -> Json:
        return {"Implements": ["NetworkDriver", "IpamDriver"]}

    def NetworkDriver_GetCapabilities(self, body: Json) -> Json:
        return {"Scope": "local"}

    def NetworkDriver_CreateNetwork(self, body: Json) -> Json:
        if "plug0" not in self.machine.host.run("ip", "link"):
            self.ip("link add plug0 type bridge")
        self.ip("link set plug0 up")
        return {}

    def NetworkDriver_DeleteNetwork(self, body: Json) -> Json:
        if "plug0" in self.machine.host.run("ip", "link"):
            self.ip("link del plug0")
        return {}

    def NetworkDriver_CreateEndpoint(self, body: Json) -> Json:
        mac = bytes.fromhex(body["EndpointID"][:8])
        return {"Interface": {"MacAddress": "02:77:" + mac.hex(":")}}

    def NetworkDriver_Join(self, body: Json) -> Json:
        name = "p" + body["EndpointID"][:8]
        self.ip(f"link add {name}h type veth peer name {name}c")
        self.ip(f"link set {name}h master plug0 up")
        assert os.path.exists(body["SandboxKey"])
        return {
            "InterfaceName": {"SrcName": f"{name}c", "DstPrefix": "eth"},
            "Gateway": "10.77.0.1",
            "StaticRoutes": [{"Destination": "10.99.0.0/16", "RouteType": 1}],
        }

    def NetworkDriver_Leave(self, body: Json) -> Json:
        return {}

    def NetworkDriver_DeleteEndpoint(self, body: Json) -> Json:
        name = "p" + body["EndpointID"][:8]
        if f"{name}h" in self.machine.host.run("ip", "link"):
            self.ip(f"link del {name}h")
        return {}

    def IpamDriver_GetDefaultAddressSpaces(self, body: Json) -> Json:
        return {"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "there"}

    def IpamDriver_RequestPool(self, body: Json) -> Json:
        return {"PoolID": "pool-1", "Pool": "10.77.0.0/24"}

    def IpamDriver_ReleasePool(self, body: Json) -> Json:
        return {}

    def IpamDriver_RequestAddress(self, body: Json) -> Json:
        if body["Options"].get("RequestAddressType"):
            return {"Address": "10.77.0.1/24"}
        self.next += 1
        return {"Address": body["Address"] or f"10.77.0.{self.next}/24"}

    def IpamDriver_ReleaseAddress(self, body: Json) -> Json:
        return {}

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    @asynccontextmanager
    async def serve(self, folder: Path, name: str = "fake") -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/{method}", self.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(folder / f"{name}.sock")).start()
        try:
            yield
        finally:
            await runner.cleanup()


BODY: Json = {
    "Name": "far",
    "Driver": "fake",
    "Options": {"colour": "blue"},
    "IPAM": {"Driver": "fake", "Options": {"size": "s"}},
}


def test_a_network_by_plugins(machine: Machine, tmp_path: Path) -> None:
    settings = replace(SETTINGS, plugin_dirs=(str(tmp_path), str(tmp_path)))
    store = MemoryNetworkStore()
    plugin = FakePlugin(machine)

    async def first(networks: Networks) -> None:
        async with plugin.serve(tmp_path):
            await networks.create(BODY)
            shown = await networks.inspect("far")
            assert shown["IPAM"] == {
                "Driver": "fake",
                "Options": {"size": "s"},
                "Config": [{"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1"}],
            }
            created = dict(plugin.calls)["NetworkDriver.CreateNetwork"]
            assert created["Options"]["com.docker.network.generic"] == {"colour": "blue"}
            assert created["IPv4Data"][0]["Gateway"] == "10.77.0.1/24"
            one = await networks.allocate(request("one", mode="far"))
            two = await networks.allocate(request("two", mode="far"))
            endpoint = one.endpoints["far"]
            assert endpoint.ip == "10.77.0.11"
            assert endpoint.mac.startswith("02:77:")
            assert endpoint.mac.replace(":", "").endswith(endpoint.endpoint_id[:8])
            assert routes(one) == {"default": "10.77.0.1", "10.77.0.0/24": "", "10.99.0.0/16": ""}
            with tcp_server(one, 80):
                assert await ask(two.netns_fd, "10.77.0.11", 80) == "10.77.0.12 one"
            await networks.release("one" * 8)
            await networks.leave("two" * 8, "far")
            await networks.release("two" * 8)

    with_networks(machine, first, settings, store)

    async def second() -> None:
        async with plugin.serve(tmp_path):
            plugin.calls.clear()
            networks = Networks(settings, store)
            await networks.start()
            assert "NetworkDriver.CreateNetwork" not in plugin.names()
            await networks.settle()
            await networks.remove("far")
            assert "NetworkDriver.DeleteNetwork" in plugin.names()
            await networks.aclose()

    machine.host.call(lambda: asyncio.run(second()))


@pytest.mark.parametrize(
    "refuse",
    ["NetworkDriver.CreateNetwork", "IpamDriver.RequestPool", "IpamDriver.RequestAddress"],
)
def test_a_plugin_that_refuses_a_network(machine: Machine, tmp_path: Path, refuse: str) -> None:
    plugin = FakePlugin(machine)

    async def body(networks: Networks) -> None:
        async with plugin.serve(tmp_path):
            plugin.refuse = refuse
            with pytest.raises(System, match="remote: not today"):
                await networks.create(BODY)
            assert await networks.list({"name": ["far"]}) == []
            plugin.refuse = ""
            await networks.create(BODY)

    with_networks(machine, body, replace(SETTINGS, plugin_dirs=(str(tmp_path), str(tmp_path))))


@pytest.mark.parametrize("refuse", ["NetworkDriver.CreateEndpoint", "NetworkDriver.Join"])
def test_a_plugin_that_refuses_an_endpoint(machine: Machine, tmp_path: Path, refuse: str) -> None:
    plugin = FakePlugin(machine)

    async def body(networks: Networks) -> None:
        async with plugin.serve(tmp_path):
            await networks.create(BODY)
            plugin.refuse = refuse
            with pytest.raises(System, match="remote: not today"):
                await networks.allocate(request("one", mode="far"))
            assert plugin.names()[-1] == "IpamDriver.ReleaseAddress"
            plugin.refuse = ""
            await networks.allocate(request("one", mode="far"))

    with_networks(machine, body, replace(SETTINGS, plugin_dirs=(str(tmp_path), str(tmp_path))))


def test_unknown_drivers(machine: Machine, tmp_path: Path) -> None:
    async def body(networks: Networks) -> None:
        text = "could not find plugin nope in v1 plugin registry: plugin not found"
        with pytest.raises(NotFound, match=text):
            await networks.create({"Name": "x", "Driver": "nope"})
        with pytest.raises(NotFound, match=text):
            await networks.create({"Name": "x", "IPAM": {"Driver": "nope"}})
        with pytest.raises(NotFound):
            await networks.create({"Name": "x", "Driver": "../../etc/passwd"})

    with_networks(machine, body, replace(SETTINGS, plugin_dirs=(str(tmp_path), str(tmp_path))))


GARBAGE = [
    b"\xff\x00 not JSON",
    b"[]",
    b'"text"',
    b"7",
    b"[" * 100_000,
    b'{"Interface": [1]}',
    b'{"Interface": {"Address": 7, "MacAddress": {}}}',
    b'{"Interface": {"Address": "10.77.0.300/24"}}',
    b'{"Interface": {"Address": "10.77.0.9"}}',
    b'{"Interface": {"Address": "10.77.0.9/99"}}',
    b'{"Interface": {"MacAddress": "zz:zz"}}',
    b'{"InterfaceName": "eth0"}',
    b'{"InterfaceName": {"SrcName": 7}}',
    b'{"InterfaceName": {"SrcName": "../../etc", "DstPrefix": "/"}}',
    b'{"InterfaceName": {"SrcName": "lan0"}, "Gateway": "nowhere"}',
    b'{"InterfaceName": {"SrcName": "lan0"}, "StaticRoutes": {"a": 1}}',
    b'{"InterfaceName": {"SrcName": "lan0"}, "StaticRoutes": [3]}',
    b'{"StaticRoutes": [{"Destination": "10.0.0.0/8", "RouteType": 0, "NextHop": "x"}]}',
    b'{"Scope": 5}',
    b'{"Scope": ["local"]}',
    b'{"Pool": 3}',
    b'{"PoolID": ["p"], "Pool": "10.77.0.0/24"}',
    b'{"PoolID": "p", "Pool": "10.77.0.0/24", "Data": [1, 2]}',
    b'{"PoolID": "p", "Pool": "10.77.0.0/24", "Data": {"com.docker.network.gateway": "x"}}',
    b'{"Address": "garbage"}',
    b'{"Address": "10.77.0.5/24/24"}',
    b'{"Address": 5}',
    b'{"Address": "10.77.0.5/24"}' + b" " * (20 << 20),
]
METHODS = [
    "NetworkDriver.GetCapabilities",
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.Join",
    "IpamDriver.GetDefaultAddressSpaces",
    "IpamDriver.RequestPool",
    "IpamDriver.RequestAddress",
]


@pytest.mark.parametrize("method", METHODS)
def test_a_plugin_that_answers_garbage(machine: Machine, tmp_path: Path, method: str) -> None:
    """It is refused, or what it said is taken for nothing; the daemon goes on either way."""
    plugin = FakePlugin(machine)

    async def body(networks: Networks) -> None:
        async with plugin.serve(tmp_path):
            for number, garbage in enumerate(GARBAGE):
                plugin.garbage = {method: garbage}
                name = f"one{number}"
                try:
                    await networks.create(BODY)
                except GantryError:
                    left = {row["Name"] for row in await networks.list({})}
                    assert left == {"bridge", "host", "none"}, garbage
                    plugin.garbage = {}
                    continue
                with contextlib.suppress(GantryError):
                    await networks.allocate(request(name, mode="far"))
                await networks.release(name * 8)
                plugin.garbage = {}
                await networks.remove("far")
                assert "lan0" in machine.host.run("ip", "link")
            await networks.create(BODY)
            await networks.allocate(request("last", mode="far"))

    with_networks(machine, body, replace(SETTINGS, plugin_dirs=(str(tmp_path),)))


def test_a_plugin_that_hangs_holds_up_nobody_else(machine: Machine, tmp_path: Path) -> None:
    settings = replace(SETTINGS, plugin_dirs=(str(tmp_path),))
    store = MemoryNetworkStore()
    plugin, stuck = FakePlugin(machine), FakePlugin(machine)

    async def first(networks: Networks) -> None:
        async with plugin.serve(tmp_path), stuck.serve(tmp_path, "stuck"):
            await networks.create(BODY)
            await networks.create({"Name": "bad", "Driver": "stuck"})

    with_networks(machine, first, settings, store)

    async def second(networks: Networks, owner: TaskOwner) -> None:
        owner.spawn(networks.create({"Name": "more", "Driver": "hung"}), "hang")
        await networks.allocate(request("one", mode="far"))
        await networks.allocate(request("two"))
        with pytest.raises(NotFound, match='plugin "stuck" not found'):
            await networks.allocate(request("three", mode="bad"))
        subnets = {pool["Subnet"] for pool in (await networks.inspect("bad"))["IPAM"]["Config"]}
        await networks.create({"Name": "new"})
        assert subnets.isdisjoint(
            pool["Subnet"] for pool in (await networks.inspect("new"))["IPAM"]["Config"]
        )

    async def main() -> None:
        async with plugin.serve(tmp_path):
            with hung_server(tmp_path / "stuck.sock"), hung_server(tmp_path / "hung.sock"):
                networks = Networks(settings, store)
                async with asyncio.timeout(9):
                    await networks.start()
                await networks.settle()
                owner = TaskOwner("test")
                try:
                    await second(networks, owner)
                finally:
                    await owner.aclose()
                    await networks.aclose()

    machine.host.call(lambda: asyncio.run(main()))


@contextlib.contextmanager
def hung_server(path: Path) -> Iterator[None]:
    """Takes connections and says nothing."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield
