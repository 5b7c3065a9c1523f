"""Networking: the default bridge, published ports, host and none, names and resolvers."""

from __future__ import annotations

import functools
import ipaddress
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.cli import Cli
from tests.support.engine import Engine
from tests.support.machine import HOST_ADDRESS, LAN_ADDRESS, Host
from tests.support.wait import eventually

PAGE = b"a page from a container\n"
ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7))
while True:
    data, peer = s.recvfrom(65536)
    s.sendto(peer[0].encode() + b" " + data, peer)
"""


def web(cli: Cli, *words: str) -> str:
    """Start a web server."""
    return cli("run", "-d", *words, "busybox", "httpd", "-f", "-p", "80", "-h", "/www").ok()


def udp_echo(cli: Cli, *words: str) -> str:
    """Start an echo server, with this machine's Python: busybox has none for udp."""
    python = str(Path(sys.executable).resolve())
    chroot = ("-v", "/:/machine:ro", "busybox", "chroot", "/machine", python, "-c", ECHO)
    return cli("run", "-d", *words, *chroot).ok()


def address(cli: Cli, name: str) -> str:
    return cli.field(name, '{{(index .NetworkSettings.Networks "bridge").IPAddress}}')


def fetched(host: Host, at: str, port: int) -> bytes:
    return eventually(lambda: host.fetch(at, port), f"http://{at}:{port}", timeout=10)


class TestPublished:
    def test_tcp_from_everywhere(self, each_cli: Cli, engine: Engine) -> None:
        web(each_cli, "-p", "8080:80")
        machine = engine.machine
        assert fetched(machine.lan, HOST_ADDRESS, 8080) == PAGE
        assert fetched(machine.host, HOST_ADDRESS, 8080) == PAGE
        assert fetched(machine.host, "127.0.0.1", 8080) == PAGE
        other = each_cli("run", "--rm", "busybox", "wget", "-qO-", f"http://{HOST_ADDRESS}:8080/")
        assert other.ok().encode() == PAGE.rstrip()

    def test_udp_from_everywhere(self, cli: Cli, engine: Engine) -> None:
        udp_echo(cli, "-p", "7007:7/udp")
        machine = engine.machine
        for host, at in (
            (machine.lan, HOST_ADDRESS),
            (machine.host, HOST_ADDRESS),
            (machine.host, "127.0.0.1"),
        ):
            ask = functools.partial(host.ask_udp, at, 7007, b"hi")
            got = eventually(ask, f"udp {at}", 10)
            assert got.endswith(b" hi")
        assert machine.lan.ask_udp(HOST_ADDRESS, 7007, b"x") == f"{LAN_ADDRESS} x".encode()

    def test_only_on_loopback(self, cli: Cli, engine: Engine) -> None:
        web(cli, "-p", "127.0.0.1:8081:80")
        assert fetched(engine.machine.host, "127.0.0.1", 8081) == PAGE
        with pytest.raises(OSError, match=r"refused|timed out"):
            engine.machine.lan.fetch(HOST_ADDRESS, 8081)

    def test_port_of_the_engine_s_choice(self, each_cli: Cli, engine: Engine) -> None:
        created = web(each_cli, "-p", "80")
        shown = each_cli("port", created, "80/tcp").ok().splitlines()[0]
        at, _, port = shown.rpartition(":")
        assert at == "0.0.0.0"
        assert 32768 <= int(port) <= 60999
        assert fetched(engine.machine.lan, HOST_ADDRESS, int(port)) == PAGE

    def test_range(self, cli: Cli, engine: Engine) -> None:
        created = web(cli, "-p", "9000-9002:80-82")
        lines = set(cli("port", created).ok().splitlines())
        assert {f"{80 + n}/tcp -> 0.0.0.0:{9000 + n}" for n in range(3)} <= lines
        assert fetched(engine.machine.lan, HOST_ADDRESS, 9000) == PAGE

    def test_all_exposed(self, cli: Cli) -> None:
        created = web(cli, "-P", "--expose", "80", "--expose", "81/udp")
        ports = json.loads(cli.field(created, "{{json .NetworkSettings.Ports}}"))
        assert set(ports) == {"80/tcp", "81/udp"}
        assert all(int(bound[0]["HostPort"]) for bound in ports.values())

    def test_in_use_by_a_container(self, each_cli: Cli) -> None:
        web(each_cli, "-p", "8082:80")
        done = each_cli("run", "-d", "--name", "second", "-p", "8082:80", "busybox", "sleep", "9")
        done.failed(125, r"[Bb]ind for 0\.0\.0\.0:8082 failed: port is already allocated")
        assert each_cli.field("second", "{{.State.Status}}") == "created"

    def test_in_use_by_a_process(self, cli: Cli, engine: Engine) -> None:
        with engine.machine.host.socket() as sock:
            sock.bind(("0.0.0.0", 8083))
            sock.listen()
            done = cli("run", "-d", "-p", "8083:80", "busybox", "sleep", "9")
            done.failed(125, r"address already in use|port is already allocated")

    def test_freed_at_the_end(self, cli: Cli, engine: Engine) -> None:
        for _ in range(2):
            created = web(cli, "-p", "8084:80")
            assert fetched(engine.machine.lan, HOST_ADDRESS, 8084) == PAGE
            cli("rm", "-f", created).ok()
            with pytest.raises(OSError, match=r"refused|timed out"):
                engine.machine.lan.fetch(HOST_ADDRESS, 8084)

    def test_kept_over_a_restart(self, cli: Cli, engine: Engine) -> None:
        created = web(cli, "-p", "8085:80")
        cli("restart", "-t", "0", created).ok()
        assert fetched(engine.machine.lan, HOST_ADDRESS, 8085) == PAGE

    def test_sees_the_client_s_address(self, cli: Cli, engine: Engine) -> None:
        program = "nc -l -p 80 -e sh -c 'netstat -tn | grep ESTABLISHED' "
        cli("run", "-d", "-p", "8086:80", "busybox", "sh", "-c", f"while :; do {program}; done")

        def peer() -> str:
            with engine.machine.lan.socket() as sock:
                sock.connect((HOST_ADDRESS, 8086))
                return sock.recv(4096).decode()

        assert LAN_ADDRESS in eventually(peer)

    def test_bad_specs(self, cli: Cli) -> None:
        cli("create", "-p", "99999:80", "busybox").refused("[Ii]nvalid (host)?[pP]ort")
        cli("create", "-p", "80/xyz", "busybox").refused("[Ii]nvalid proto")


class TestBridge:
    def test_addresses(self, each_cli: Cli) -> None:
        one, two = (each_cli("run", "-d", "busybox", "sleep", "600").ok() for _ in range(2))
        (network,) = json.loads(each_cli("network", "inspect", "bridge").ok())
        subnet = ipaddress.ip_network(network["IPAM"]["Config"][0]["Subnet"])
        addresses = {ipaddress.ip_address(address(each_cli, name)) for name in (one, two)}
        assert len(addresses) == 2
        assert all(found in subnet for found in addresses)
        assert set(network["Containers"]) == {one, two}
        shown = each_cli("exec", one, "ip", "-4", "-o", "addr", "show", "eth0").ok()
        assert address(each_cli, one) in shown
        mac = each_cli.field(one, '{{(index .NetworkSettings.Networks "bridge").MacAddress}}')
        assert mac in each_cli("exec", one, "ip", "link", "show", "eth0").ok()

    def test_containers_reach_each_other(self, cli: Cli) -> None:
        server = web(cli)
        url = f"http://{address(cli, server)}/"
        out = cli("run", "--rm", "busybox", "wget", "-qO-", url).ok()
        assert out.encode() == PAGE.rstrip()

    def test_reaches_the_lan_masqueraded(self, cli: Cli, engine: Engine) -> None:
        with engine.machine.lan.socket() as listener:
            listener.bind((LAN_ADDRESS, 9999))
            listener.listen()
            argv = ("run", "--rm", "-i", "busybox", "nc", LAN_ADDRESS, "9999")
            process = cli.start(*argv)
            listener.settimeout(20)
            connection, peer = listener.accept()
            with connection:
                connection.sendall(b"hello\n")
            process.communicate(timeout=20)
        assert peer[0] == HOST_ADDRESS

    def test_loopback_and_routes(self, cli: Cli, engine: Engine) -> None:
        out = cli("run", "--rm", "busybox", "sh", "-c", "ip -4 -o addr show lo; ip route").ok()
        assert "127.0.0.1/8" in out
        (network,) = json.loads(cli("network", "inspect", "bridge").ok())
        bridge = network["Options"]["com.docker.network.bridge.name"]
        shown = engine.machine.host.run("ip", "-4", "-o", "addr", "show", bridge)
        gateway = re.search(r"inet ([\d.]+)/", shown)
        assert gateway is not None
        assert f"default via {gateway[1]} dev eth0" in out

    def test_mac_address(self, each_cli: Cli, is_gantry: bool) -> None:
        if each_cli.major >= 25 and not is_gantry:
            pytest.skip("newer clients want API 1.44 for it")
        words = ("--mac-address", "02:11:22:33:44:55")
        done = each_cli("run", "--rm", *words, "busybox", "cat", "/sys/class/net/eth0/address")
        assert done.ok() == "02:11:22:33:44:55"

    def test_ping(self, cli: Cli) -> None:
        server = cli("run", "-d", "busybox", "sleep", "600").ok()
        cli("run", "--rm", "busybox", "ping", "-c", "1", "-w", "5", address(cli, server)).ok()


class TestModes:
    def test_none(self, each_cli: Cli) -> None:
        out = each_cli("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net").ok()
        assert out == "lo"

    def test_host(self, each_cli: Cli, engine: Engine) -> None:
        argv = ("run", "--rm", "--network", "host", "busybox", "sh", "-c")
        out = each_cli(*argv, "ip -o -4 addr; readlink /proc/self/ns/net").ok()
        assert HOST_ADDRESS in out
        assert out.splitlines()[-1] == engine.machine.host.run("readlink", "/proc/self/ns/net")[:-1]

    def test_another_container_s(self, cli: Cli) -> None:
        server = web(cli, "--name", "server")
        argv = ("run", "--rm", "--network", "container:server", "busybox", "sh", "-c")
        out = cli(*argv, "wget -qO- http://127.0.0.1/; hostname").ok()
        assert out.splitlines() == [PAGE.decode().strip(), server[:12]]

    def test_unknown(self, cli: Cli) -> None:
        done = cli("run", "--network", "nope", "busybox", "true")
        done.failed(125, "network nope not found")

    def test_conflicts(self, cli: Cli) -> None:
        done = cli("create", "--network", "container:nope", "busybox", "true")
        assert done.code == 0 or "No such container: nope" in done.err


class TestNames:
    def test_hosts_file(self, each_cli: Cli) -> None:
        words = ("--hostname", "named", "--add-host", "other:10.1.2.3")
        created = each_cli("run", "-d", *words, "busybox", "sleep", "600").ok()
        lines = each_cli("exec", created, "cat", "/etc/hosts").ok().splitlines()
        pairs = [line.split() for line in lines]
        assert ["127.0.0.1", "localhost"] in pairs
        assert ["10.1.2.3", "other"] in pairs
        assert [address(each_cli, created), "named"] in pairs

    def test_host_gateway(self, cli: Cli) -> None:
        words = ("--add-host", "up:host-gateway")
        out = cli("run", "--rm", *words, "busybox", "grep", "up$", "/etc/hosts").ok()
        gateway = cli("run", "--rm", "busybox", "sh", "-c", "ip route | grep default").ok()
        assert out.split()[0] == gateway.split()[2]

    def test_hosts_file_of_host_network(self, cli: Cli) -> None:
        out = cli("run", "--rm", "--network", "host", "busybox", "cat", "/etc/hosts").ok()
        assert "localhost" in out

    def test_resolver(self, each_cli: Cli) -> None:
        words = ("--dns", "10.9.8.7", "--dns-search", "example.org", "--dns-option", "ndots:3")
        out = each_cli("run", "--rm", *words, "busybox", "cat", "/etc/resolv.conf").ok()
        lines = [line for line in out.splitlines() if line and not line.startswith("#")]
        assert sorted(lines) == ["nameserver 10.9.8.7", "options ndots:3", "search example.org"]

    def test_resolver_of_the_machine(self, cli: Cli) -> None:
        out = cli("run", "--rm", "busybox", "cat", "/etc/resolv.conf").ok()
        own = [
            line
            for line in Path("/etc/resolv.conf").read_text().splitlines()
            if line.startswith("nameserver") and "127." not in line and ":" not in line
        ]
        assert [line for line in out.splitlines() if line.startswith("nameserver")][
            : len(own)
        ] == own

    def test_files_are_writable_and_kept(self, cli: Cli) -> None:
        program = "echo 10.0.0.1 added >> /etc/hosts; grep -c added /etc/hosts"
        created = cli("create", "busybox", "sh", "-c", program).ok()
        assert cli("start", "-a", created).ok() == "1"

    def test_read_only_root_leaves_them_written(self, cli: Cli) -> None:
        words = ("--read-only", "--hostname", "ro")
        assert cli("run", "--rm", *words, "busybox", "cat", "/etc/hostname").ok() == "ro"


def test_network_listing(each_cli: Cli) -> None:
    out = each_cli("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").ok()
    assert {"bridge bridge local", "host host local", "none null local"} <= set(out.splitlines())
    each_cli("network", "inspect", "nope").failed(
        1, "[Nn]o such network:? nope|network nope not found"
    )


def test_no_leftover_after_failed_start(cli: Cli, engine: Engine) -> None:
    before = engine.machine.host.run("ip", "-o", "link").count("veth")
    cli("run", "-p", "8090:80", "busybox", "/no/such").failed(127, "no such file")
    done = subprocess.run(
        [*engine.machine.host.command, "ss", "-tln"], capture_output=True, text=True
    )
    assert ":8090" not in done.stdout

    def settled() -> bool:
        return engine.machine.host.run("ip", "-o", "link").count("veth") <= before + 1

    eventually(settled)
