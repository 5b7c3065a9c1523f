"""40 containers created and started by 8 clients."""

from tests.support.engine import Engine

from bench.row import Row
from bench.work import client, config, create, in_threads, remove, seconds, start

CLIENTS = 8


def measure(engine: Engine, quick: bool) -> float:
    """Return containers a second."""
    total = 16 if quick else 40
    names: list[str] = []

    def work(number: int) -> None:
        with client(engine) as api:
            for _ in range(number, total, CLIENTS):
                name = create(api, config("sleep", "600"))
                start(api, name)
                names.append(name)

    took = seconds(lambda: in_threads(CLIENTS, work))
    with client(engine) as api:
        for name in names:
            remove(api, name)
    assert len(names) == total
    return total / took


ROW = Row("40 containers by 8 clients", "/s", 12, measure, more_is_better=True, rounds=3)
