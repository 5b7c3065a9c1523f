"""Every driver that makes interfaces passes the drivers' contract suite."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from tests.integration.network.test_network_plugins import FakePlugin
from tests.integration.network.test_network_vlan import require
from tests.support.machine import Machine

from gantry.model.network import IpamPool
from gantry.network.bridge import BridgeDriver
from gantry.network.drivers import Driver
from gantry.network.netns import Namespaces
from gantry.network.nft import NftFirewall
from gantry.network.plugins import Plugins
from gantry.network.remote import RemoteDriver
from gantry.network.vlan import VlanDriver
from gantry.testing.network import driver_contract, record

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("needs_nftables")]

POOLS = (IpamPool("10.55.0.0/24", pool_id="10.55.0.0/24"),)


@pytest.mark.parametrize(
    "kind", ["bridge", "bridge without firewall", "macvlan", "ipvlan", "remote"]
)
def test_contract(machine: Machine, tmp_path: Path, kind: str) -> None:
    if kind == "ipvlan":
        require(machine, kind)
    before = machine.host.run("ip", "-br", "link").splitlines()

    async def main() -> None:
        namespaces = Namespaces()
        name = kind.split()[0]
        network = record(f"n{random.randrange(1000)}", driver=name, ipam=POOLS)
        if kind == "remote":
            async with FakePlugin(machine).serve(tmp_path):
                plugins = Plugins(str(tmp_path), ())
                plugin = await plugins.get("fake", "NetworkDriver")
                await driver_contract(RemoteDriver(plugin, namespaces), namespaces, network)
                await plugins.aclose()
        else:
            firewall = NftFirewall("contract")
            await firewall.start()
            driver: Driver = BridgeDriver(namespaces, firewall if kind == "bridge" else None)
            if name != "bridge":
                driver = VlanDriver(name, namespaces)
            await driver_contract(driver, namespaces, network)
            await firewall.close(remove=True)
        await namespaces.removed()
        namespaces.close()

    machine.host.call(lambda: asyncio.run(main()))
    after = machine.host.run("ip", "-br", "link").splitlines()
    assert [line.split()[0] for line in after] == [line.split()[0] for line in before]
