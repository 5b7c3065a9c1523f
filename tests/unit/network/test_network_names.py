"""Names of endpoints, questions and answers on the wire."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantry.network import dnswire
from gantry.network.dns import Server, View
from gantry.network.names import Names, pointed_at
from gantry.network.resolution import Upstream
from gantry.network.upstream import Forwarder


def table() -> Names:
    names = Names("back")
    names.add("e1", ["web", "www", "aaaaaaaaaaaa"], "10.0.0.2", "fd00::2")
    names.add("e2", ["db", "www"], "10.0.0.3", "")
    return names


def server(view: View) -> Server:
    udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
    udp.bind(("127.0.0.1", 0))
    found = Server(view, udp, tcp)
    udp.close()
    tcp.close()
    return found


def ask(view: View, name: str, kind: str = "A") -> tuple[str, list[str]] | None:
    """(rcode, answers) as an independent library reads them; None: to be forwarded."""
    answer = server(view).answer(bytes(dnslib.DNSRecord.question(name, kind).pack()))
    if answer is None:
        return None
    parsed = dnslib.DNSRecord.parse(answer)
    assert parsed.header.qr and parsed.header.ra
    rcode = cast(str, dnslib.RCODE[parsed.header.rcode])
    return rcode, sorted(str(record.rdata) for record in parsed.rr)


def test_names_and_aliases_in_any_case() -> None:
    view = View([table()])
    assert ask(view, "web") == ("NOERROR", ["10.0.0.2"])
    assert ask(view, "WeB.") == ("NOERROR", ["10.0.0.2"])
    assert ask(view, "web.back") == ("NOERROR", ["10.0.0.2"])
    assert ask(view, "www") == ("NOERROR", ["10.0.0.2", "10.0.0.3"])
    assert ask(view, "www", "AAAA") == ("NOERROR", ["fd00::2"])
    assert ask(view, "db", "AAAA") == ("NOERROR", [])
    assert ask(view, "db", "MX") == ("NOERROR", [])


def test_others_names_are_for_others_servers() -> None:
    view = View([table()])
    for name in ("nobody", "web.other", "example.org", "web.back.example"):
        assert ask(view, name) is None
    assert ask(View([table()], ndots=True), "nobody") == ("NOERROR", [])
    assert ask(View([table()], ndots=True), "example.org") is None


def test_the_way_back() -> None:
    view = View([table()])
    assert ask(view, "2.0.0.10.in-addr.arpa", "PTR") == ("NOERROR", ["web.back."])
    assert ask(view, dnslib_reverse("fd00::2"), "PTR") == ("NOERROR", ["web.back."])
    assert ask(view, "9.0.0.10.in-addr.arpa", "PTR") is None


def dnslib_reverse(address: str) -> str:
    digits = socket.inet_pton(socket.AF_INET6, address).hex()
    return ".".join(reversed(digits)) + ".ip6.arpa"


def test_links_come_first_and_hide_the_name() -> None:
    view = View([table()], links={("back", "web"): "db", ("back", "al"): "web", ("x", "no"): "db"})
    assert ask(view, "al") == ("NOERROR", ["10.0.0.2"])
    assert ask(view, "web") == ("NOERROR", ["10.0.0.3"])
    assert ask(view, "no") is None  # a link of another network


def test_dots_in_names_and_networks() -> None:
    names = Names("net.work")
    names.add("e", ["a.b"], "10.0.0.9", "")
    assert ask(View([names]), "a.b.net.work") == ("NOERROR", ["10.0.0.9"])
    assert ask(View([names]), "a.b") == ("NOERROR", ["10.0.0.9"])


def test_changes_are_seen_at_once() -> None:
    names = table()
    one = server(View([names]))
    query = bytes(dnslib.DNSRecord.question("web", "A").pack())
    first = one.answer(query)
    assert first is not None and one.answer(query) == first
    names.remove("e1")
    assert one.answer(query) is None
    names.add("e9", ["web"], "10.0.0.7", "")
    again = one.answer(query)
    assert again is not None and "10.0.0.7" in str(dnslib.DNSRecord.parse(again))


def test_shared_aliases_take_turns() -> None:
    one = server(View([table()]))
    query = bytes(dnslib.DNSRecord.question("www", "A").pack())
    firsts = set()
    for _ in range(64):
        answer = one.answer(query)
        assert answer is not None
        firsts.add(str(dnslib.DNSRecord.parse(answer).rr[0].rdata))
    assert firsts == {"10.0.0.2", "10.0.0.3"}


def test_answers_fit_what_the_client_takes() -> None:
    names = Names("big")
    for number in range(100):
        names.add(f"e{number}", ["all"], f"10.0.1.{number}", "")
    one = server(View([names]))
    plain = one.answer(bytes(dnslib.DNSRecord.question("all", "A").pack()))
    assert plain is not None and len(plain) <= 512
    assert dnslib.DNSRecord.parse(plain).header.tc == 1
    asked = dnslib.DNSRecord.question("all", "A")
    asked.add_ar(dnslib.EDNS0(udp_len=4096))
    large = one.answer(bytes(asked.pack()))
    assert large is not None
    parsed = dnslib.DNSRecord.parse(large)
    assert (parsed.header.tc, len(parsed.rr)) == (0, 100)


@given(st.binary(max_size=80))
def test_no_message_upsets_the_server(message: bytes) -> None:
    if len(message) >= 12:
        server(View([table()])).answer(message)
        assert len(dnswire.failure(message, dnswire.SERVFAIL)) >= 12
    dnswire.records(message)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("1.2.3.4.in-addr.arpa", "4.3.2.1"),
        ("1.2.3.in-addr.arpa", ""),
        ("x.ip6.arpa", ""),
        ("example.org", ""),
    ],
)
def test_reverse_names(name: str, address: str) -> None:
    assert pointed_at(name) == address


class Upstreams:
    """DNS servers on addresses of 127.0.0.0/8, one behaviour each."""

    def __init__(self, *behaviours: str) -> None:
        self.asked: list[str] = []
        self.sockets: list[socket.socket] = []
        self.port = 0
        for number, behaviour in enumerate(behaviours):
            sock = socket.socket(type=socket.SOCK_DGRAM)
            sock.bind((f"127.0.0.{20 + number}", self.port))
            self.port = sock.getsockname()[1]
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            loop.add_reader(sock.fileno(), self.serve, sock, behaviour)
            self.sockets.append(sock)

    def serve(self, sock: socket.socket, behaviour: str) -> None:
        data, peer = sock.recvfrom(4096)
        self.asked.append(behaviour)
        parsed = dnslib.DNSRecord.parse(data)
        reply = parsed.reply()
        if behaviour == "silent":
            return
        if behaviour == "liar":
            wrong = dnslib.DNSRecord.question("other.example").reply()
            wrong.header.id = parsed.header.id
            sock.sendto(wrong.pack(), peer)
            reply.header.id ^= 1
        elif behaviour.isupper():
            reply.header.rcode = getattr(dnslib.RCODE, behaviour)
        else:
            reply.add_answer(*dnslib.RR.fromZone(f"{parsed.q.qname} 60 A {behaviour}"))
        sock.sendto(reply.pack(), peer)

    def close(self) -> None:
        for sock in self.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()


@pytest.mark.parametrize(
    ("behaviours", "expected", "asked"),
    [
        (("1.1.1.1",), "1.1.1.1", 1),
        (("SERVFAIL", "REFUSED", "2.2.2.2"), "2.2.2.2", 3),
        (("silent", "3.3.3.3"), "3.3.3.3", 2),
        (("liar", "4.4.4.4"), "4.4.4.4", 2),
        (("NXDOMAIN", "5.5.5.5"), "NXDOMAIN", 1),
        (("silent", "silent", "silent", "6.6.6.6"), "SERVFAIL", 3),
    ],
)
def test_forwarding_and_failing_over(
    behaviours: tuple[str, ...], expected: str, asked: int
) -> None:
    async def make(server: Upstream, kind: socket.SocketKind) -> socket.socket:
        return socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)

    async def main() -> None:
        others = Upstreams(*behaviours)
        forwarder = Forwarder(timeout=0.2, port=others.port)
        servers = [Upstream(f"127.0.0.{20 + n}", True) for n in range(len(behaviours))]
        query = bytes(dnslib.DNSRecord.question("example.org", "A").pack())
        answer = await forwarder.forward(query, servers, make, tcp=False)
        assert answer[:2] == query[:2]
        parsed = dnslib.DNSRecord.parse(answer)
        found = [str(rr.rdata) for rr in parsed.rr] or [dnslib.RCODE[parsed.header.rcode]]
        assert found == [expected]
        assert len(others.asked) == asked
        others.close()

    asyncio.run(main())


def test_a_link_names_a_container_by_its_id() -> None:
    names = Names("net")
    names.add("e1", ["web", "0123456789ab"], "10.0.0.2", "")
    names.add("e2", ["db", "0123456789cd"], "10.0.0.3", "")
    for term in ("web", "0123456789ab", "0123456789ab" + "0" * 52, "0123456789a"):
        assert names.linked(term, 4) == ["10.0.0.2"]
    for term in ("0123", "nobody", "fade"):
        assert names.linked(term, 4) is None
