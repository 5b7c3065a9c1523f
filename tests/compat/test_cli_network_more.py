"""Networks beyond the first needs: renames, links that follow, lost networks, bad addresses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.support.api import Json
from tests.support.cli import Cli
from tests.support.engine import Engine

NAMES = "{{range .Containers}}{{.Name}} {{end}}"


@pytest.fixture
def net(cli: Cli, engine: Engine) -> Iterator[str]:
    """A user-defined network."""
    yield cli("network", "create", "more").ok()
    engine.clean()
    cli("network", "rm", "more")


def test_neighbours_see_a_new_name(cli: Cli, net: str) -> None:
    cli("run", "-d", "--net", "more", "--name", "before", "busybox", "top").ok()
    cli("rename", "before", "after").ok()
    assert cli("network", "inspect", "-f", NAMES, "more").ok().split() == ["after"]
    ping = ("run", "--rm", "--net", "more", "busybox", "ping", "-c1", "-W1")
    cli(*ping, "after").ok()
    assert cli(*ping, "before").code != 0


def test_links_follow_a_restart(cli: Cli, engine: Engine) -> None:
    cli("run", "-d", "--name", "one", "busybox", "top").ok()
    cli("run", "-d", "--name", "two", "--link", "one:uno", "busybox", "top").ok()
    cli("stop", "-t", "0", "one").ok()
    cli("run", "-d", "--name", "three", "busybox", "top").ok()  # has the address of before
    cli("start", "one").ok()
    template = '{{(index .NetworkSettings.Networks "bridge").IPAddress}}'
    now = cli.field("one", template)
    hosts = cli("exec", "two", "cat", "/etc/hosts").ok()
    assert [line.split()[0] for line in hosts.splitlines() if "uno" in line] == [now]


def test_links_by_id(cli: Cli) -> None:
    """They are links to the one that has the id, and follow it when it is renamed."""
    server = cli("run", "-d", "--name", "server", "busybox", "top").ok().strip()
    for name, term in (("whole", server), ("short", server[:12]), ("shorter", server[:9])):
        cli("run", "-d", "--name", name, "--link", f"{term}:alias", "busybox", "top").ok()
        assert cli.field(name, "{{json .HostConfig.Links}}") == f'["/server:/{name}/alias"]'
        cli("exec", name, "ping", "-c1", "-W2", "alias").ok()
    cli("rename", "server", "other").ok()
    assert cli.field("short", "{{json .HostConfig.Links}}") == '["/other:/short/alias"]'


def test_links_by_id_in_a_network(cli: Cli, net: str) -> None:
    server = cli("run", "-d", "--net", "more", "busybox", "top").ok().strip()
    for term in (server, server[:12]):
        link = ("--link", f"{term}:alias")
        cli("run", "--rm", "--net", "more", *link, "busybox", "ping", "-c1", "-W2", "alias").ok()


def test_a_network_that_is_gone_can_be_left(cli: Cli, net: str) -> None:
    cli("run", "-d", "--net", "more", "--name", "foo", "busybox", "top").ok()
    cli("stop", "-t", "0", "foo").ok()
    cli("network", "rm", "more").ok()
    cli("network", "disconnect", "-f", "more", "foo").ok()
    assert json.loads(cli.field("foo", "{{json .NetworkSettings.Networks}}")) == {}


def test_an_attachment_ends_with_the_run(cli: Cli, net: str) -> None:
    """Who sees its end may remove the network at once."""
    for _ in range(5):
        assert cli("run", "--net", "more", "busybox", "echo", "x").ok() == "x"
        cli("network", "rm", "more").ok()
        cli("network", "create", "more").ok()


def test_the_lowest_address_again(cli: Cli, net: str) -> None:
    template = '{{(index .NetworkSettings.Networks "more").IPAddress}}'
    run = ("run", "-d", "--net", "more", "busybox", "top")
    first, second = cli(*run).ok(), cli(*run).ok()
    address = cli.field(first, template)
    assert cli.field(second, template) != address
    cli("network", "disconnect", "more", first).ok()
    cli("network", "connect", "more", first).ok()
    assert cli.field(first, template) == address


@pytest.mark.parametrize("mode", ["bridge", "none", "host"])
def test_addresses_are_for_networks_of_ones_own(cli: Cli, mode: str) -> None:
    cli("run", "--net", mode, "--ip", "172.28.99.88", "busybox", "true").failed(
        125,
        "user[- ](specified|configured).* on user[- ]defined networks only|no configured subnet",
    )


def test_an_address_outside_of_the_network_is_refused_at_create(
    cli: Cli, net: str, engine: Engine
) -> None:
    if engine.kind == "dockerd":
        pytest.skip("old engines refuse it at start")
    create = ("create", "--name", "outside", "--net", "more", "--ip")
    cli(*create, "10.9.9.9", "busybox").failed(
        1, "invalid config for network more: invalid endpoint settings:\nno configured subnet"
    )
    assert cli("ps", "-aqf", "name=outside").ok() == ""


def test_an_ipv6_subnet_of_a_network_without_ipv6(engine: Engine) -> None:
    pool: dict[str, Json] = {
        "Subnet": "2001:db8::1/64",
        "IPRange": "2001:db8::/96",
        "Gateway": "2001:db8::ffff",
    }
    with engine.api() as api:
        body: Json = {"Name": "four", "IPAM": {"Config": [pool]}}
        api.post("/networks/create", body=body).expect(201)
        try:
            ipam = api.get("/networks/four").obj()["IPAM"]
            assert "2001:db8" not in str(ipam) or engine.kind == "dockerd"
        finally:
            api.delete("/networks/four").expect(204)


def test_a_link_that_is_taken_away(cli: Cli) -> None:
    cli("run", "-d", "--name", "server", "busybox", "top").ok()
    cli("run", "-d", "--name", "user", "--link", "server:alias", "busybox", "top").ok()
    assert "alias" in cli("exec", "user", "cat", "/etc/hosts").ok()
    cli("rm", "--link", "/user/alias").ok()
    hosts = cli("exec", "user", "cat", "/etc/hosts").ok()
    assert "alias" not in hosts and "server" not in hosts
