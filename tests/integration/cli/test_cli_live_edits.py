"""`gantry update` of what runs: ports, labels, networks; and `network egress`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.support.cli import Cli
from tests.support.engine import Engine
from tests.support.machine import HOST_ADDRESS, LAN_ADDRESS
from tests.support.wait import eventually

WEB = ("busybox", "httpd", "-f", "-p", "80", "-h", "/www")
NETWORKS = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"


@pytest.fixture
def live(engine: Engine, cli: Cli) -> Iterator[str]:
    """A web server, published on 8080, and a network of its own beside it."""
    cli("network", "create", "live").ok()
    yield cli("run", "-d", "-p", "8080:80", "-l", "old=1", "-l", "kept=1", *WEB).ok()
    engine.clean()
    cli("network", "rm", "-f", "live").ok()


def reached(engine: Engine, port: int) -> bool:
    try:
        return bool(engine.machine.lan.fetch(HOST_ADDRESS, port))
    except OSError:
        return False


def test_ports(cli: Cli, engine: Engine, live: str) -> None:
    eventually(lambda: reached(engine, 8080))
    before = cli.field(live, "{{.State.StartedAt}} {{.State.Pid}}")
    cli("update", "--publish-add", "8081:80", "--publish-add", "127.0.0.1:8082:80", live).ok()
    assert reached(engine, 8081) and reached(engine, 8080) and not reached(engine, 8082)
    cli("update", "--publish-rm", "8080:80", live).ok()
    assert reached(engine, 8081) and not reached(engine, 8080)
    assert cli("port", live).ok().splitlines()[0] == "80/tcp -> 0.0.0.0:8081"
    cli("update", "--publish-rm", "80", live).ok()
    assert not reached(engine, 8081)
    assert cli("port", live).ok() == ""
    cli("update", "--publish-rm", "80", live).failed(1, "port 80/tcp is not published so")
    assert cli.field(live, "{{.State.StartedAt}} {{.State.Pid}}") == before


def test_labels(cli: Cli, live: str) -> None:
    cli("update", "--label-add", "new=2", "--label-rm", "old", live).ok()
    assert json.loads(cli.field(live, "{{json .Config.Labels}}")) == {"kept": "1", "new": "2"}
    assert cli("ps", "-q", "--no-trunc", "--filter", "label=new=2").ok() == live
    assert cli("ps", "-q", "--filter", "label=old").ok() == ""


def test_networks(cli: Cli, live: str) -> None:
    cli("update", "--network-add", "name=live,alias=www", live).ok()
    assert cli.field(live, NETWORKS).split() == ["bridge", "live"]
    cli("run", "--rm", "--network", "live", "busybox", "wget", "-qO-", "http://www/").ok()
    cli("update", "--network-rm", "live", live).ok()
    assert cli.field(live, NETWORKS).split() == ["bridge"]
    cli("update", "--network-rm", "live", live).failed(1, "is not connected to network live")
    cli("update", "--network-add", "nowhere", live).failed(1, "network nowhere not found")


def test_what_fails_changes_nothing(cli: Cli, engine: Engine, live: str) -> None:
    with engine.machine.host.socket() as taken:
        taken.bind(("0.0.0.0", 8090))
        taken.listen()
        words = ("--publish-add", "8090:80", "--network-add", "live", "--label-add", "x=y")
        cli("update", *words, live).failed(1, "address already in use")
    assert cli.field(live, NETWORKS).split() == ["bridge"]
    assert cli("ps", "-q", "--filter", "label=x").ok() == ""
    assert cli("port", live).ok().splitlines()[0] == "80/tcp -> 0.0.0.0:8080"
    eventually(lambda: reached(engine, 8080))


def test_edits_last(cli: Cli, engine: Engine, live: str) -> None:
    """Over a restart of the container, and of one that did not run."""
    words = ("--publish-add", "8081:80", "--network-add", "name=live,alias=www")
    cli("update", *words, "--label-add", "new=2", live).ok()
    cli("restart", "-t", "0", live).ok()
    eventually(lambda: reached(engine, 8081))
    assert cli.field(live, NETWORKS).split() == ["bridge", "live"]
    cli("stop", "-t", "0", live).ok()
    cli("update", "--publish-rm", "8080:80", "--network-rm", "bridge", live).ok()
    cli("start", live).ok()
    eventually(lambda: reached(engine, 8081))
    assert cli.field(live, NETWORKS).split() == ["live"]
    assert cli.field(live, '{{index .Config.Labels "new"}}') == "2"


def test_egress(cli: Cli, engine: Engine) -> None:
    option = f"gantry.egress.allow={LAN_ADDRESS}/32"
    cli("network", "create", "-o", option, "strict").ok()
    try:
        words = ("--rm", "--network", "strict", "busybox")
        tried = cli("run", *words, "nc", "-w", "1", "203.0.113.9", "80")
        assert tried.code != 0
        shown = eventually(lambda: cli("network", "egress", "strict").ok().splitlines()[1:])
        assert "203.0.113.9" in shown[0] and shown[0].endswith("tcp        80")
        log = engine.data_root / "network"
        assert [p.suffix for p in log.iterdir()] == [".jsonl"]
    finally:
        engine.clean()
        cli("network", "rm", "strict").ok()
