"""Lists and their filters, look-ups, the shape of inspect."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gantry.model.errors import InvalidParameter, NotFound
from gantry.model.network import EndpointState, IpamPool
from gantry.network import views
from gantry.network.catalog import Catalog
from gantry.testing.network import record

NOW = datetime(2024, 6, 1, tzinfo=UTC)


def catalog() -> Catalog:
    found = Catalog()
    for one in (
        record("bridge", id="b" * 64),
        record("host", id="a1" * 32, driver="host"),
        record("web", id="a2" * 32, labels={"x": "y", "z": ""}),
        record("webby", id="a3" * 32, driver="macvlan", created="2024-05-01T00:00:00.000000000Z"),
    ):
        found.put(one)
    return found


def names(filters: dict[str, list[str]], *, prune: bool = False, used: str = "") -> list[str]:
    wanted = views.Filter(filters, prune=prune, now=NOW)
    return [one.name for one in catalog() if wanted.matches(one, one.name == used)]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["bridge", "host", "web", "webby"]),
        ({"name": ["web"]}, ["web", "webby"]),
        ({"name": ["^web$", "host"]}, ["host", "web"]),
        ({"id": ["^a2"]}, ["web"]),
        ({"driver": ["macvlan", "host"]}, ["host", "webby"]),
        ({"driver": ["mac"]}, []),
        ({"label": ["x"]}, ["web"]),
        ({"label": ["x=y", "z"]}, ["web"]),
        ({"label": ["x=n"]}, []),
        ({"type": ["custom"]}, ["web", "webby"]),
        ({"type": ["builtin"]}, ["bridge", "host"]),
        ({"scope": ["swarm"]}, []),
        ({"dangling": ["true"]}, ["webby"]),
        ({"dangling": ["0"]}, ["bridge", "host", "web"]),
        ({"name": ["("]}, []),
    ],
)
def test_filters(filters: dict[str, list[str]], expected: list[str]) -> None:
    assert names(filters, used="web") == expected


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"nope": ["x"]}, "invalid filter 'nope'"),
        ({"type": ["x"]}, "invalid filter: 'type'='x'"),
        ({"dangling": ["maybe"]}, "invalid value for filter 'dangling', must be"),
        ({"dangling": ["1", "0"]}, 'got more than one value for filter key "dangling"'),
    ],
)
def test_bad_filters(filters: dict[str, list[str]], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        views.Filter(filters)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["web", "webby"]),
        ({"label!": ["x"]}, ["webby"]),
        ({"until": ["2024-02-01T00:00:00Z"]}, ["web"]),
        ({"until": ["24h"]}, ["web", "webby"]),
        ({"until": ["1704067199"]}, []),
        ({"until": ["100d"]}, InvalidParameter),
    ],
)
def test_prune_filters(filters: dict[str, list[str]], expected: Any) -> None:
    if expected is InvalidParameter:
        with pytest.raises(InvalidParameter):
            names(filters, prune=True)
    else:
        assert names(filters, prune=True) == expected


def test_looking_up() -> None:
    found = catalog()
    assert found.find("web").name == "web"
    assert found.find("a2" * 32).name == "web"
    assert found.find("a3").name == "webby"
    with pytest.raises(
        InvalidParameter, match=r"network a is ambiguous \(3 matches found based on ID prefix\)"
    ):
        found.find("a")
    for term in ("nope", ""):
        with pytest.raises(NotFound, match=f"network {term} not found"):
            found.find(term)


def test_inspect() -> None:
    one = record(
        "web",
        ipam=(IpamPool("10.0.0.0/24", "10.0.0.0/25", "10.0.0.1", {"a": "10.0.0.9"}, "p"),),
        enable_ipv4=True,
    )
    state = EndpointState(
        "web", one.id, "e" * 64, ip="10.0.0.2", prefix=24, mac="02:42:0a:00:00:02"
    )
    shown = views.detail(one, [("c" * 64, "name", state)], {"10.0.0.0/24": (4, 120)}, verbose=True)
    assert shown["IPAM"]["Config"] == [
        {
            "Subnet": "10.0.0.0/24",
            "IPRange": "10.0.0.0/25",
            "Gateway": "10.0.0.1",
            "AuxiliaryAddresses": {"a": "10.0.0.9"},
        }
    ]
    assert shown["Containers"]["c" * 64]["IPv4Address"] == "10.0.0.2/24"
    assert shown["Services"] == {}
    assert shown["Status"]["IPAM"]["Subnets"] == {
        "10.0.0.0/24": {"IPsInUse": 4, "DynamicIPsAvailable": 120}
    }
    assert views.summary(record("host", driver="host"))["IPAM"]["Config"] is None


def test_numbers_that_clients_can_read() -> None:
    status = {"2001:db8::/56": (2, 1 << 72)}
    shown = views.detail(record("six"), [], status, verbose=False)
    subnet = shown["Status"]["IPAM"]["Subnets"]["2001:db8::/56"]
    assert subnet == {"IPsInUse": 2, "DynamicIPsAvailable": (1 << 64) - 1}
