"""Containers with many published ports, and beside many published ports."""

from tests.support.api import Api
from tests.support.engine import Engine

from bench.row import Row
from bench.work import client, config, create, remove, seconds, start

FIRST = 20000


def published(count: int, first: int = FIRST) -> dict[str, object]:
    """Return HostConfig and ExposedPorts of a range of ports."""
    ports = [f"{first + n}/tcp" for n in range(count)]
    bindings = {port: [{"HostPort": port.partition("/")[0]}] for port in ports}
    return {"ExposedPorts": {port: {} for port in ports}, "HostConfig": {"PortBindings": bindings}}


def started(api: Api, more: dict[str, object]) -> float:
    """Return milliseconds that a container's start takes."""
    name = create(api, config("sleep", "600", **more))  # type: ignore[arg-type]  # it is JSON
    try:
        return seconds(lambda: start(api, name)) * 1000
    finally:
        remove(api, name)


def least(api: Api, more: dict[str, object], quick: bool) -> float:
    """Return the median of some starts."""
    return sorted(started(api, more) for _ in range(3 if quick else 7))[1 if quick else 3]


def thirty_two(engine: Engine, quick: bool) -> float:
    """Return milliseconds."""
    with client(engine) as api:
        return least(api, published(32), quick)


def a_range(engine: Engine, quick: bool) -> float:
    """Return how many times longer than without ports."""
    with client(engine) as api:
        none = least(api, {}, quick)
        return least(api, published(1000), quick) / none


def beside(engine: Engine, quick: bool) -> float:
    """Return how many times longer a start takes when 1,000 ports are published already."""
    with client(engine) as api:
        one = published(1, 30000)
        before = least(api, one, quick)
        # Not one range: a thousand elements.
        other = create(api, config("sleep", "600", **_scattered(1000)))  # type: ignore[arg-type]
        start(api, other)
        try:
            return least(api, one, quick) / before
        finally:
            remove(api, other)


def _scattered(count: int) -> dict[str, object]:
    ports = [f"{FIRST + n}/tcp" for n in range(count)]
    bindings = {port: [{"HostPort": str(FIRST + 2 * n)}] for n, port in enumerate(ports)}
    return {"ExposedPorts": {port: {} for port in ports}, "HostConfig": {"PortBindings": bindings}}


ROWS = (
    Row("start with 32 published ports, API", "ms", 10, thirty_two),
    Row("start with a range of 1,000 ports, against none", "×", 1, a_range, rounds=3, limit=2),
    Row("start beside 1,000 published ports, against none", "×", 1, beside, rounds=3, limit=1.2),
)
