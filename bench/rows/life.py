"""create + start + wait + remove over the API, bridge network."""

from tests.support.engine import Engine

from bench.row import Row
from bench.work import client, seconds, whole_life


def measure(engine: Engine, quick: bool) -> float:
    """Return milliseconds for one."""
    with client(engine) as api:
        whole_life(api)
        return seconds(lambda: whole_life(api), 3 if quick else 10) * 1000


ROW = Row("create + start + wait + remove, API, bridge", "ms", 15, measure)
