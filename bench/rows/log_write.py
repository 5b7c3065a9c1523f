"""A container writing 500,000 log lines until it is done."""

from tests.support.engine import Engine

from bench.row import Row
from bench.work import client, config, create, remove, seconds, start, wait

LINES = 500_000


def measure(engine: Engine, quick: bool) -> float:
    """Return seconds from its start to its end."""
    with client(engine) as api:
        name = create(api, config("seq", "1", str(LINES // 10 if quick else LINES)))

        def work() -> None:
            start(api, name)
            wait(api, name)

        took = seconds(work)
        remove(api, name)
        return took


ROW = Row("500,000 log lines written", "s", 3, measure, rounds=3)
