"""Memory of the idle engine: PSS of all its processes."""

from tests.support.engine import Engine

from bench.row import Row
from bench.work import client, whole_life


def measure(engine: Engine, quick: bool) -> float:
    """Return MiB of an engine that has run one container and holds none."""
    del quick
    with client(engine) as api:
        whole_life(api)
    return engine.pss() / 2**20


ROW = Row("memory of the idle engine (PSS)", "MiB", 2, measure, rounds=3, fresh=True)
