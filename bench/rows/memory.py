"""Memory of the engine for one more idle container: PSS of all its processes."""

from tests.support.engine import Engine

from bench.row import Row
from bench.work import client, config, create, remove, start


def measure(engine: Engine, quick: bool) -> float:
    """Return MiB for one more container, over `count` of them."""
    count = 8 if quick else 20
    with client(engine) as api:
        first = create(api, config("sleep", "600"))
        start(api, first)
        before = engine.pss()
        names = [create(api, config("sleep", "600")) for _ in range(count)]
        for name in names:
            start(api, name)
        after = engine.pss()
        for name in [first, *names]:
            remove(api, name)
    return (after - before) / count / 2**20


ROW = Row("memory for one more idle container (PSS)", "MiB", 4, measure, rounds=3)
