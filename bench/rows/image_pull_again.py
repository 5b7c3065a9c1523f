"""`docker pull` of an image that is here already."""

from tests.support.engine import Engine

from bench.bigimage import pull, registry, variant
from bench.row import Row
from bench.work import seconds

PORT = 5051


def measure(engine: Engine, quick: bool) -> float:
    """Return milliseconds for one pull that has nothing to do."""
    image = variant(quick)
    with registry(engine, PORT, image) as address:
        pull(engine, address, image)
        return seconds(lambda: pull(engine, address, image), 5 if quick else 30) * 1000


ROW = Row("pull it again, nothing to do", "ms", 3, measure, rounds=3)
