"""The embedded DNS server as containers see it, and legacy links."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace

import dnslib
import pytest
from tests.integration.network.netlab import (
    SETTINGS,
    inside,
    on_host,
    process_in,
    request,
    with_networks,
)
from tests.support.machine import HOST_ADDRESS, LAN_ADDRESS, Machine

from gantry.model.errors import System
from gantry.model.network import EndpointConfig, Sandbox
from gantry.network.service import Networks
from gantry.testing.network import MemoryNetworkStore

pytestmark = pytest.mark.integration

NOBODY = replace(SETTINGS, dns=("192.0.2.99",), timeout_dns=0.1)
"""The servers to forward to do not answer."""


def lookup(sandbox: Sandbox | int, name: str, kind: str = "A", *, tcp: bool = False) -> list[str]:
    """What 127.0.0.11:53 answers in the sandbox; the rcode's name when it is an error."""
    fd = sandbox if isinstance(sandbox, int) else sandbox.netns_fd
    query = dnslib.DNSRecord.question(name, kind)

    def ask() -> list[str]:
        answer = query.send("127.0.0.11", 53, tcp=tcp, timeout=2)
        parsed = dnslib.DNSRecord.parse(answer)
        if parsed.header.rcode:
            return [str(dnslib.RCODE[parsed.header.rcode])]
        return sorted(str(record.rdata) for record in parsed.rr)

    return inside(fd, ask)


async def resolve(
    sandbox: Sandbox | int, name: str, kind: str = "A", *, tcp: bool = False
) -> list[str]:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: lookup(sandbox, name, kind, tcp=tcp))


class LanServer:
    """A DNS server on the LAN host that knows example.org, over UDP and TCP. zone: names, with
    their last dot, and their records; none for a name that it does not answer to at all."""

    def __init__(self, machine: Machine, zone: Mapping[str, str] | None = None) -> None:
        self.machine = machine
        self.zone = {"example.org.": "example.org 60 A 203.0.113.5", **(zone or {})}
        self.asked: list[tuple[str, str]] = []
        self.udp = machine.lan.call(lambda: socket.socket(type=socket.SOCK_DGRAM))
        self.tcp = machine.lan.call(lambda: socket.socket(type=socket.SOCK_STREAM))
        for sock in (self.udp, self.tcp):
            sock.bind((LAN_ADDRESS, 53))
        self.tcp.listen()

    def __enter__(self) -> LanServer:
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self._udp, self._tcp)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self.udp, self.tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        self.udp.close()
        self.tcp.close()

    def _answer(self, data: bytes, peer: str) -> bytes:
        query = dnslib.DNSRecord.parse(data)
        self.asked.append((str(query.q.qname), peer))
        reply = query.reply()
        known = self.zone.get(str(query.q.qname))
        if known == "":
            return b""
        if known is not None:
            reply.add_answer(*dnslib.RR.fromZone(known))
        else:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        return bytes(reply.pack())

    def _udp(self) -> None:
        while True:
            data, peer = self.udp.recvfrom(4096)
            if not data:
                return
            answer = self._answer(data, peer[0])
            if answer:
                self.udp.sendto(answer, peer)

    def _tcp(self) -> None:
        while True:
            try:
                client, peer = self.tcp.accept()
            except OSError:
                return
            with client:
                data = client.recv(4096)
                answer = self._answer(data[2:], peer[0])
                client.sendall(len(answer).to_bytes(2, "big") + answer)


def test_containers_find_each_other(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "back", "EnableIPv6": True})
        ends = {"back": EndpointConfig(aliases=("www",), links=("db:database",))}
        web = await networks.allocate(request("web", mode="back", endpoints=ends))
        db = await networks.allocate(request("db", mode="back"))
        for tcp in (False, True):
            assert await resolve(web, "db", tcp=tcp) == [db.endpoints["back"].ip]
            assert await resolve(db, "www", tcp=tcp) == [web.endpoints["back"].ip]
        assert await resolve(web, "database") == [db.endpoints["back"].ip]
        assert await resolve(web, "db.back", "AAAA") == [db.endpoints["back"].ipv6]
        reverse = ".".join(reversed(db.endpoints["back"].ip.split("."))) + ".in-addr.arpa"
        assert await resolve(web, reverse, "PTR") == ["db.back."]
        await networks.release("db" * 8)
        assert await resolve(web, "db") == ["SERVFAIL"]

    with_networks(machine, body, NOBODY)


def test_names_end_at_the_networks_border(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "a"})
        await networks.create({"Name": "b"})
        one = await networks.allocate(request("one", mode="a"))
        two = await networks.allocate(request("two", mode="b"))
        assert await resolve(one, "two") == ["SERVFAIL"]
        one = await networks.join("one" * 8, "b", EndpointConfig(aliases=("uno",)))
        assert await resolve(one, "two") == [two.endpoints["b"].ip]
        assert await resolve(two, "uno") == [one.endpoints["b"].ip]
        await networks.leave("one" * 8, "b")
        assert await resolve(two, "uno") == ["SERVFAIL"]

    with_networks(machine, body, NOBODY)


def test_what_it_does_not_know_is_asked_of_others(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "back"})
        with LanServer(machine) as other:
            one = await networks.allocate(request("one", mode="back", dns=(LAN_ADDRESS,)))
            for tcp in (False, True):
                assert await resolve(one, "example.org", tcp=tcp) == ["203.0.113.5"]
            assert await resolve(one, "nosuch.example") == ["NXDOMAIN"]
            # A server of --dns is asked from the container's own namespace.
            assert {peer for _, peer in other.asked} == {HOST_ADDRESS}

    with_networks(machine, body)


def test_internal_networks_ask_nobody_outside(machine: Machine, tmp_path: object) -> None:
    conf = f"{tmp_path}/resolv.conf"
    with open(conf, "w") as file:
        file.write(f"nameserver {LAN_ADDRESS}\n")

    async def body(networks: Networks) -> None:
        await networks.create({"Name": "inner", "Internal": True})
        await networks.create({"Name": "outer"})
        with LanServer(machine) as other:
            one = await networks.allocate(request("one", mode="inner"))
            assert await resolve(one, "one") == [one.endpoints["inner"].ip]
            assert await resolve(one, "example.org") == ["SERVFAIL"]
            assert other.asked == []
            one = await networks.join("one" * 8, "outer", EndpointConfig())
            assert await resolve(one, "example.org") == ["203.0.113.5"]
            await networks.leave("one" * 8, "outer")
            assert await resolve(one, "example.org") == ["SERVFAIL"]

    with_networks(machine, body, replace(SETTINGS, resolv_conf=conf))


@pytest.mark.usefixtures("needs_nftables")
def test_a_container_may_serve_dns_itself(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        await networks.create({"Name": "back"})
        one = await networks.allocate(request("one", mode="back"))

        def bind() -> None:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with socket.socket(type=kind) as sock:
                    sock.bind(("0.0.0.0", 53))

        inside(one.netns_fd, bind)
        assert await resolve(one, "one") == [one.endpoints["back"].ip]

    with_networks(machine, body)


@pytest.mark.usefixtures("needs_nftables")
def test_names_are_back_after_a_restart(machine: Machine) -> None:
    store = MemoryNetworkStore()

    async def main() -> None:
        networks = Networks(SETTINGS, store)
        await networks.start()
        await networks.settle()
        await networks.create({"Name": "back"})
        one = await networks.allocate(request("one", mode="back"))
        assert one.netns_fd is not None and one.state.dns_port
        with process_in(one.netns_fd) as pid:
            fd = os.dup(one.netns_fd)
            await networks.aclose()
            # What is asked while nobody is there gets no error: resolvers ask again.
            again = Networks(SETTINGS, store)
            with pytest.raises(TimeoutError):
                inside(fd, lambda: _ask_briefly("one"))
            await again.start()
            taken = await again.adopt(request("one", mode="back"), pid, one.state)
            assert taken.state.dns_port == one.state.dns_port
            assert await resolve(fd, "one") == [one.endpoints["back"].ip]
            await again.release("one" * 8)
            await again.aclose()
            os.close(fd)

    on_host(machine, main)


def _ask_briefly(name: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        sock.connect(("127.0.0.11", 53))
        sock.send(dnslib.DNSRecord.question(name).pack())
        sock.recv(512)


def test_legacy_links(machine: Machine) -> None:
    async def body(networks: Networks) -> None:
        db = await networks.allocate(
            request("db", exposed=("5432/tcp",), environment=("PASSWORD=x", "PATH=/bin"))
        )
        ends = {"bridge": EndpointConfig(links=("db:store",))}
        web = await networks.allocate(request("web", endpoints=ends))
        ip = db.endpoints["bridge"].ip
        assert f"{ip}\tstore db db\n".encode() in web.hosts or f"{ip}\tstore db\n".encode() in (
            web.hosts
        )
        assert set(web.env) >= {
            f"STORE_PORT=tcp://{ip}:5432",
            f"STORE_PORT_5432_TCP_ADDR={ip}",
            "STORE_NAME=/web/store",
            "STORE_ENV_PASSWORD=x",
        }
        assert not any("PATH" in variable for variable in web.env)
        with pytest.raises(System, match="Cannot link to a non running container: /no AS /x/no"):
            await networks.allocate(
                request("x", endpoints={"bridge": EndpointConfig(links=("no",))})
            )

    with_networks(machine, body)
