"""The packet filter backends, each held to the same: one contract for all."""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.network.netlab import (
    BACKENDS,
    SETTINGS,
    ask,
    ask_udp,
    publish,
    refused,
    request,
    tcp_server,
    udp_server,
    with_networks,
)
from tests.support.machine import HOST_ADDRESS, LAN_ADDRESS, Machine

from gantry.model.errors import InvalidParameter
from gantry.model.network import EndpointConfig
from gantry.network.backends import NAMES, ChosenFirewall
from gantry.network.service import Networks
from gantry.network.settings import NetworkSettings
from gantry.testing.network import MemoryNetworkStore

pytestmark = pytest.mark.integration


def state(machine: Machine) -> list[str]:
    """All rules of all filters, without counters and comments."""
    found = machine.host.run("nft", "list", "ruleset").splitlines()
    for command in ("iptables-legacy-save", "ip6tables-legacy-save"):
        if shutil.which(command):
            found += machine.host.run(command).splitlines()
    found = [re.sub(r"counter packets \d+ bytes \d+", "counter", line) for line in found]
    return [line for line in found if "#" not in line and not line.startswith(":")]


def test_published_ports(machine: Machine, settings: NetworkSettings) -> None:
    async def body(networks: Networks) -> None:
        bindings = publish(
            ("80/tcp", ("", "8080")), ("81/tcp", ("127.0.0.1", "8081")), ("53/udp", ("", "53"))
        )
        bindings |= {f"{n}/tcp": [("", str(n + 1000))] for n in range(7000, 7010)}
        bindings |= {f"{n}/tcp": [("", str(n))] for n in range(7500, 7510)}
        web = await networks.allocate(request("web", port_bindings=bindings))
        other = await networks.allocate(request("other"))
        with tcp_server(web, 80), tcp_server(web, 81), tcp_server(web, 7005), tcp_server(web, 7505):
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"
            assert await ask(None, "127.0.0.1", 8080) == "172.17.0.1 web"
            assert await ask(None, HOST_ADDRESS, 8080) == f"{HOST_ADDRESS} web"
            assert (await ask(other.netns_fd, HOST_ADDRESS, 8080)).endswith(" web")
            assert (await ask(web.netns_fd, HOST_ADDRESS, 8080)).endswith(" web")
            assert await ask(None, "127.0.0.1", 8081) == "172.17.0.1 web"
            assert await refused(machine, HOST_ADDRESS, 8081)
            assert await ask(machine, HOST_ADDRESS, 8005) == f"{LAN_ADDRESS} web"
            assert await ask(machine, HOST_ADDRESS, 7505) == f"{LAN_ADDRESS} web"
            assert await refused(machine, HOST_ADDRESS, 7005)
        with udp_server(web, 53):
            assert await ask_udp(machine, HOST_ADDRESS, 53) == f"{LAN_ADDRESS} web"

    with_networks(machine, body, settings)


def test_borders(machine: Machine, settings: NetworkSettings) -> None:
    machine.lan.run("ip", "route", "add", "172.16.0.0/12", "via", HOST_ADDRESS)

    async def body(networks: Networks) -> None:
        for name, more in (
            ("front", {}),
            ("back", {}),
            ("inner", {"Internal": True}),
            ("apart", {"Options": {"com.docker.network.bridge.enable_icc": "false"}}),
            ("open", {"Options": {"com.docker.network.bridge.gateway_mode_ipv4": "routed"}}),
        ):
            await networks.create({"Name": name, **more})
        bindings = publish(("80/tcp", ("", "8080")))
        box = {
            name: await networks.allocate(
                request(f"{name}{n}", mode=name, port_bindings=bindings if name == "open" else {})
            )
            for n in range(1)
            for name in ("front", "back", "inner", "apart", "open")
        }
        second = await networks.allocate(request("apart1", mode="apart"))
        ip = {name: sandbox.endpoints[name].ip for name, sandbox in box.items()}
        with (
            tcp_server(box["back"], 80),
            tcp_server(box["inner"], 80),
            tcp_server(box["apart"], 80),
            tcp_server(box["open"], 80),
            tcp_server(box["open"], 81),
        ):
            for name in ("back", "inner", "apart"):
                assert await refused(box["front"].netns_fd, ip[name], 80), name
                assert await refused(machine, ip[name], 80), name
            assert await refused(second.netns_fd, ip["apart"], 80)
            assert await ask(machine, ip["open"], 80) == f"{LAN_ADDRESS} open0"
            assert await refused(machine, ip["open"], 81)
        with open(machine.lan.path) as namespace, tcp_server(namespace.fileno(), 80):
            for name, source in (("front", HOST_ADDRESS), ("apart", HOST_ADDRESS)):
                assert (await ask(box[name].netns_fd, LAN_ADDRESS, 80)).strip() == source
            assert (await ask(box["open"].netns_fd, LAN_ADDRESS, 80)).strip() == ip["open"]
            assert await refused(box["inner"].netns_fd, LAN_ADDRESS, 80)

    with_networks(machine, body, settings)


def test_links_without_icc(machine: Machine, settings: NetworkSettings) -> None:
    async def body(networks: Networks) -> None:
        db = await networks.allocate(request("db", exposed=("5432/tcp",)))
        ends = {"bridge": EndpointConfig(links=("db",))}
        web = await networks.allocate(request("web", endpoints=ends))
        stranger = await networks.allocate(request("stranger"))
        ip = db.endpoints["bridge"].ip
        with tcp_server(db, 5432), tcp_server(db, 80):
            assert await ask(web.netns_fd, ip, 5432)
            assert await refused(web.netns_fd, ip, 80)
            assert await refused(stranger.netns_fd, ip, 5432)

    with_networks(machine, body, replace(settings, icc=False))


def test_all_of_it_goes_away(machine: Machine, settings: NetworkSettings) -> None:
    machine.host.run("sysctl", "-w", "net.ipv6.conf.all.forwarding=1")

    async def body(networks: Networks) -> None:
        await networks.ready()
        before = state(machine)
        await networks.create({"Name": "back", "EnableIPv6": True})
        bindings = publish(("80/tcp", ("", "8080")), ("81/tcp", ("127.0.0.1", "81")))
        await networks.allocate(request("web", mode="back", port_bindings=bindings))
        assert state(machine) != before
        await networks.release("web" * 8)
        await networks.remove("back")
        assert state(machine) == before
        await networks.remove_all()
        assert not [line for line in state(machine) if "DOCKER" in line or "gantry" in line]

    with_networks(machine, body, settings)


def test_restored_after_another_tool_flushed_it(
    machine: Machine, settings: NetworkSettings
) -> None:
    async def body(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", port_bindings=bindings))
        with tcp_server(web, 80):
            flush = {
                "nftables": ("nft flush ruleset",),
                "iptables-nft": ("iptables-nft -F FORWARD", "iptables-nft -t nat -F"),
                "iptables-legacy": ("iptables-legacy -F FORWARD", "iptables-legacy -t nat -F"),
            }
            for command in flush[settings.firewall_backend]:
                machine.host.run(*command.split())
            assert not await networks.check_firewall()
            assert await networks.check_firewall()
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"

    with_networks(machine, body, settings)


@pytest.mark.parametrize("flavour", [b for b in BACKENDS if b != "nftables"])
@pytest.mark.parametrize(
    "flushed",
    [
        "-t nat -F DOCKER",
        "-t raw -F",
        "-t nat -D PREROUTING 1",
        "-F DOCKER-ISOLATION-STAGE-2",
        "-D DOCKER-CT 1",
    ],
)
def test_whatever_iptables_takes_away_is_missed(
    machine: Machine, flavour: str, flushed: str
) -> None:
    async def body(networks: Networks) -> None:
        bindings = publish(("80/tcp", ("", "8080")), ("81/tcp", ("127.0.0.1", "8081")))
        await networks.allocate(request("web", port_bindings=bindings))
        before = state(machine)
        machine.host.run(flavour, *flushed.split())
        assert not await networks.check_firewall()
        assert await networks.check_firewall()
        assert sorted(state(machine)) == sorted(before)

    with_networks(machine, body, replace(SETTINGS, firewall_backend=flavour))


@pytest.mark.usefixtures("needs_nftables")
@pytest.mark.parametrize(
    "command",
    [
        "nft flush chain inet gantry forward",
        "nft flush set inet gantry bridges",
        "nft delete table inet gantry",
    ],
)
def test_even_parts_of_it_are_missed(machine: Machine, command: str) -> None:
    async def body(networks: Networks) -> None:
        await networks.allocate(request("web", port_bindings=publish(("80", ("", "8080")))))
        before = state(machine)
        machine.host.run(*command.split())
        assert not await networks.check_firewall()
        assert state(machine) == before

    with_networks(machine, body)


@pytest.mark.usefixtures("needs_nftables")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flush_is_noticed_by_itself(machine: Machine, backend: str) -> None:
    async def body(networks: Networks) -> None:
        await networks.ready()
        await networks.allocate(request("web", port_bindings=publish(("80", ("", "8080")))))
        before = sorted(state(machine))
        for command in ("nft flush ruleset", "iptables-legacy -t nat -F", "iptables-legacy -F"):
            machine.host.run(*command.split())
        async with asyncio.timeout(10):
            while not set(before) <= set(state(machine)):
                await asyncio.sleep(0.05)

    with_networks(machine, body, replace(SETTINGS, firewall_poll=0.1, firewall_backend=backend))


@pytest.mark.usefixtures("needs_nftables")
def test_nobody_has_to_ask_for_the_check(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.ready()
        before = state(machine)
        machine.host.run("nft", "flush", "ruleset")
        machine.host.run("iptables-nft", "-P", "FORWARD", "DROP")
        web = await networks.allocate(request("web", port_bindings=publish(("80", ("", "8080")))))
        with tcp_server(web, 80):
            async with asyncio.timeout(10):
                while await ask_quickly(machine) != f"{LAN_ADDRESS} web":
                    await asyncio.sleep(0.05)
        assert set(before) <= set(state(machine))

    with_networks(machine, body, replace(SETTINGS, firewall_poll=0.1))


async def ask_quickly(machine: Machine) -> str:
    try:
        return await ask(machine, HOST_ADDRESS, 8080, 0.3)
    except OSError:
        return ""


async def link_local(machine: Machine) -> str:
    """The host's, once it is found to be nobody else's."""
    async with asyncio.timeout(5):
        while True:
            shown = machine.host.run("ip", "-6", "addr", "show", "dev", "lan0", "scope", "link")
            if "tentative" not in shown:
                return shown.split("inet6 ")[1].split("/")[0] + "%lan0"
            await asyncio.sleep(0.05)


def test_ipv6(machine: Machine, settings: NetworkSettings) -> None:
    for host, address in ((machine.host, "2001:db8::1/64"), (machine.lan, "2001:db8::2/64")):
        host.run("ip", "-6", "addr", "add", address, "dev", "lan0", "nodad")

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "six", "EnableIPv6": True})
        await networks.create({"Name": "other", "EnableIPv6": True})
        bindings = publish(("80/tcp", ("", "8080")))
        web = await networks.allocate(request("web", mode="six", port_bindings=bindings))
        stranger = await networks.allocate(request("stranger", mode="other"))
        with tcp_server(web, 80):
            assert await ask(machine, "2001:db8::1", 8080) == "2001:db8::2 web"
            assert await ask(None, "2001:db8::1", 8080) == "2001:db8::1 web"
            for address in ("::1", await link_local(machine)):
                assert (await ask(None, address, 8080)).endswith(" web"), address
            assert await refused(stranger.netns_fd, web.endpoints["six"].ipv6, 80)

    with_networks(machine, body, settings)


@pytest.mark.usefixtures("needs_nftables")
@pytest.mark.parametrize("first", BACKENDS)
@pytest.mark.parametrize("second", BACKENDS)
def test_what_another_backend_left_is_taken_away(
    machine: Machine, tmp_path: Path, first: str, second: str
) -> None:
    """Its rules lead to containers that are gone, and to those that have their addresses now."""
    store = MemoryNetworkStore()
    settings = replace(SETTINGS, run_dir=str(tmp_path), owner="one")
    own = {"nftables": "nft add rule inet gantry DOCKER-USER ip saddr 192.0.2.9 drop"}
    rule = own.get(first, f"{first} -A DOCKER-USER -s 192.0.2.9 -j DROP")

    async def before(networks: Networks) -> None:
        await networks.create({"Name": "back", "EnableIPv6": True})
        bindings = publish(("80/tcp", ("", "8080")), ("81/tcp", ("127.0.0.1", "81")))
        await networks.allocate(request("web", mode="back", port_bindings=bindings))
        machine.host.run(*rule.split())

    async def after(networks: Networks) -> None:
        rules = "\n".join(state(machine))
        assert "8080" not in rules
        assert "192.0.2.9" in rules
        if first != second:
            if first == "nftables":
                assert "@bridges" not in rules
            else:
                assert "DOCKER-FORWARD" not in rules or second != "nftables"
        web = await networks.allocate(
            request("new", port_bindings=publish(("80/tcp", ("", "8081"))))
        )
        with tcp_server(web, 80):
            assert await ask(machine, HOST_ADDRESS, 8081) == f"{LAN_ADDRESS} new"
            assert await refused(machine, HOST_ADDRESS, 8080)

    with_networks(machine, before, replace(settings, firewall_backend=first), store)
    with_networks(machine, after, replace(settings, firewall_backend=second), store)


@pytest.mark.parametrize("flavour", [b for b in BACKENDS if b != "nftables"])
@pytest.mark.parametrize("already", [False, True])
def test_forwarding_for_containers_makes_no_router(
    machine: Machine, tmp_path: Path, flavour: str, already: bool
) -> None:
    """As with dockerd: what forwarding was not on for before is dropped."""
    command6 = flavour.replace("iptables", "ip6tables")
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        machine.host.run("sysctl", "-w", f"{name}={int(already)}")

    def policies() -> list[str]:
        return [machine.host.run(c, "-S", "FORWARD").split()[2] for c in (flavour, command6)]

    wanted = "ACCEPT" if already else "DROP"

    async def body(networks: Networks) -> None:
        assert policies() == [wanted, "ACCEPT"]
        await networks.create({"Name": "six", "EnableIPv6": True})
        assert policies() == [wanted, wanted]
        machine.host.run(flavour, "-F", "FORWARD")
        assert not await networks.check_firewall()
        assert policies() == [wanted, wanted]
        web = await networks.allocate(request("web", port_bindings=publish(("80", ("", "8080")))))
        with tcp_server(web, 80):
            assert await ask(machine, HOST_ADDRESS, 8080) == f"{LAN_ADDRESS} web"

    store = MemoryNetworkStore()
    settings = replace(SETTINGS, run_dir=str(tmp_path), owner="one", firewall_backend=flavour)
    with_networks(machine, body, settings, store)

    async def after(networks: Networks) -> None:
        assert policies() == ["ACCEPT", "ACCEPT"]

    with_networks(machine, after, replace(settings, firewall_backend=""), store)


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(InvalidParameter, match='invalid firewall-backend "pf": must be one of'):
        ChosenFirewall("pf", "gantry")
    assert "iptables" in NAMES
