"""The contents of /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gantry.model.errors import InvalidParameter
from gantry.network import resolution
from gantry.network.resolution import ResolvConf, Upstream, extra_hosts, hosts_file, resolv_conf

HOST = ResolvConf.parse(
    "# comment\nnameserver 127.0.0.1\nnameserver 10.1.1.1\nnameserver fe80::1\nnameserver x\n"
    "domain old\nsearch corp.example lan\noptions ndots:2 edns0\nsortlist 1.2.3.4\n"
)


def lines(data: bytes) -> list[str]:
    return [line for line in data.decode().splitlines() if line and line[0] != "#"]


def test_the_default_bridge_gets_the_hosts_servers_that_it_can_reach() -> None:
    data, upstreams = resolv_conf(HOST)
    assert lines(data) == [
        "nameserver 10.1.1.1",
        "search corp.example lan",
        "options ndots:2 edns0",
        "sortlist 1.2.3.4",
    ]
    assert upstreams == ()
    assert "# Based on host file: '/etc/resolv.conf' (legacy)" in data.decode()
    assert lines(resolv_conf(HOST, ipv6=True)[0])[1] == "nameserver fe80::1"


def test_fallback_servers_when_none_is_left() -> None:
    data, _ = resolv_conf(ResolvConf.parse("nameserver 127.0.0.53\n"))
    assert lines(data) == ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]
    assert "# Used default nameservers." in data.decode()


def test_options_override() -> None:
    data, _ = resolv_conf(HOST, dns=["127.0.0.1"], search=["."], options=["timeout:1"])
    assert lines(data) == ["nameserver 127.0.0.1", "options timeout:1", "sortlist 1.2.3.4"]
    assert "# Overrides: [nameservers search options]" in data.decode()


def test_the_embedded_server_is_the_only_one_and_asks_the_others() -> None:
    data, upstreams = resolv_conf(ResolvConf.parse("nameserver 127.0.0.1\n"), kind="embedded")
    assert lines(data) == ["nameserver 127.0.0.11", "options ndots:0"]
    assert upstreams == (Upstream("127.0.0.1", True),)
    assert "# ExtServers: [host(127.0.0.1)]" in data.decode()
    data, upstreams = resolv_conf(HOST, dns=["9.9.9.9"], options=["ndots:3"], kind="embedded")
    assert lines(data)[2] == "options ndots:3"
    assert upstreams == (Upstream("9.9.9.9", False),)


def test_host_network_keeps_the_hosts_file() -> None:
    assert lines(resolv_conf(HOST, kind="host")[0])[:2] == [
        "nameserver 127.0.0.1",
        "nameserver 10.1.1.1",
    ]


def test_hosts_names_and_order() -> None:
    data = hosts_file(
        hostname="web",
        domainname="example.org",
        addresses=["172.17.0.2", "fd00::2"],
        extra=extra_hosts(["a:1.2.3.4", "b=::1", "c:[fe80::1]", "gw:host-gateway"], ["172.17.0.1"]),
    )
    assert data.decode().splitlines() == [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::\tip6-localnet",
        "ff00::\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
        "1.2.3.4\ta",
        "::1\tb",
        "fe80::1\tc",
        "172.17.0.1\tgw",
        "172.17.0.2\tweb.example.org web",
        "fd00::2\tweb.example.org web",
    ]
    assert b"::" not in hosts_file(hostname="a", addresses=["fd00::2"], ipv6=False)


@pytest.mark.parametrize("entry", ["nothing", ":1.2.3.4", "a:b", "a:1.2.3"])
def test_bad_extra_hosts(entry: str) -> None:
    with pytest.raises(InvalidParameter):
        extra_hosts([entry], [])


def test_the_hosts_file_is_read_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    now = time.time() + 10
    monkeypatch.setattr(resolution, "time", SimpleNamespace(time=lambda: now))
    first = resolution.read_resolv_conf(str(file))
    assert resolution.read_resolv_conf(str(file)) is first
    draft = tmp_path / "draft"
    draft.write_text("nameserver 192.0.2.2\n")
    draft.rename(file)
    assert resolution.read_resolv_conf(str(file)).servers == ("192.0.2.2",)
    now = time.time()
    file.write_text("nameserver 192.0.2.3\n")
    once, twice = (resolution.read_resolv_conf(str(file)) for _ in range(2))
    assert once.servers == ("192.0.2.3",) and twice is not once, "it may still be written to"
