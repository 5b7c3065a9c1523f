"""Which host ports are asked for, taken, refused and given back."""

from __future__ import annotations

import pytest

from gantry.model.errors import InvalidParameter, System
from gantry.model.network import PublishedPort
from gantry.network.publish import HostPorts, PortRequest, merge_ranges, port_requests
from gantry.network.publishing import again


def asked(bindings: dict[str, list[tuple[str, str]]], **options: object) -> list[PortRequest]:
    arguments = {"publish_all": False, "default_ip": "0.0.0.0", "ipv6": True} | options
    exposed = arguments.pop("exposed", ())
    return port_requests(bindings, exposed, **arguments)  # type: ignore[arg-type]


def test_a_binding_without_address_is_for_both_families() -> None:
    assert asked({"80/tcp": [("", "8080")]}) == [
        PortRequest("tcp", 80, ("0.0.0.0", "::"), 8080, 8080)
    ]
    assert asked({"80": [("", "8080")]}, ipv6=False) == [
        PortRequest("tcp", 80, ("0.0.0.0",), 8080, 8080)
    ]
    assert asked({"80/udp": [("", "8000-8010")]}, default_ip="10.0.0.1") == [
        PortRequest("udp", 80, ("10.0.0.1",), 8000, 8010)
    ]


def test_several_addresses_get_the_same_port() -> None:
    bindings = {"80/tcp": [("10.0.0.1", ""), ("::1", ""), ("::ffff:10.0.0.2", "")]}
    assert asked(bindings) == [PortRequest("tcp", 80, ("10.0.0.1", "::1", "10.0.0.2"))]


def test_an_address_and_all_addresses_get_ports_of_their_own() -> None:
    bindings = {"80/tcp": [("127.0.0.1", ""), ("", ""), ("127.0.0.2", "")]}
    requests = port_requests(bindings, (), publish_all=False, default_ip="0.0.0.0", ipv6=True)
    assert [r.hosts for r in requests] == [("127.0.0.1", "127.0.0.2"), ("0.0.0.0", "::")]


def test_publish_all_takes_what_is_exposed() -> None:
    found = asked({"80/tcp": [("", "8080")]}, exposed=["80/tcp", "53/udp"], publish_all=True)
    assert [(r.proto, r.port, r.first) for r in found] == [("tcp", 80, 8080), ("udp", 53, 0)]
    assert asked({}, exposed=["80/tcp"]) == []


@pytest.mark.parametrize("binding", ["x", "70000", "9-8", "-1", "1-"])
def test_bad_host_ports(binding: str) -> None:
    with pytest.raises(InvalidParameter, match=f'invalid port specification: "{binding}"'):
        asked({"80/tcp": [("", binding)]})


@pytest.mark.parametrize("port", ["x/tcp", "80/icmp", "70000"])
def test_bad_container_ports(port: str) -> None:
    with pytest.raises(InvalidParameter, match=f'invalid port specification: "{port}"'):
        asked({port: [("", "80")]})


def one(port: int, *hosts: str, proto: str = "tcp", last: int = 0) -> PortRequest:
    return PortRequest(proto, 80, hosts, port, last or port)


def test_a_port_is_given_once_an_address_and_protocol() -> None:
    ports = HostPorts(hold=False)
    held = ports.acquire([one(8080, "127.0.0.1"), one(8080, "127.0.0.2")])
    ports.acquire([one(8080, "0.0.0.0", proto="udp"), one(8080, "::")])
    with pytest.raises(System, match=r"^Bind for 127.0.0.1:8080 failed: port is already allocated"):
        ports.acquire([one(8080, "0.0.0.0")])
    ports.release(held)
    ports.acquire([one(8080, "0.0.0.0")])
    with pytest.raises(System, match=r"^Bind for \[::\]:8080 failed"):
        ports.acquire([one(8080, "::1")])


def test_all_or_nothing() -> None:
    ports = HostPorts(hold=False)
    ports.acquire([one(2, "0.0.0.0")])
    with pytest.raises(System):
        ports.acquire([one(1, "0.0.0.0"), one(2, "0.0.0.0")])
    ports.acquire([one(1, "0.0.0.0")])


def test_a_range_gives_its_first_free_port_until_it_is_used_up() -> None:
    ports = HostPorts(hold=False)
    wanted = one(8000, "0.0.0.0", last=8002)
    assert [ports.acquire([wanted])[0].host_port for _ in range(3)] == [8000, 8001, 8002]
    with pytest.raises(System, match=r"^all ports are allocated"):
        ports.acquire([wanted])


def test_ephemeral_ports_differ_and_are_not_used_again_at_once() -> None:
    ports = HostPorts(hold=False)
    request = PortRequest("tcp", 80, ("0.0.0.0",))
    first = ports.acquire([request])
    ports.release(first)
    assert ports.acquire([request])[0].host_port == first[0].host_port + 1


def test_neighbours_are_one_range() -> None:
    ports = HostPorts(hold=False)
    requests = [PortRequest("tcp", n, ("0.0.0.0", "::"), n + 1, n + 1) for n in range(100, 200)]
    merged = merge_ranges(ports.acquire(requests))
    assert merged == (
        PublishedPort("tcp", "0.0.0.0", 101, 100, 100),
        PublishedPort("tcp", "::", 101, 100, 100),
    )
    assert merge_ranges(HostPorts(hold=False).acquire(again(merged))) == merged
