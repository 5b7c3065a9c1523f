"""`docker pull` of the same image from a registry on this machine."""

from tests.support.engine import Engine

from bench.bigimage import pull, registry, variant
from bench.disk import settle
from bench.row import Row

PORT = 5050


def measure(engine: Engine, quick: bool) -> float:
    """Return seconds for one pull."""
    image = variant(quick)
    with registry(engine, PORT, image) as address:
        settle()
        return pull(engine, address, image)


ROW = Row("pull it from a local registry, gzip layers", "s", 3, measure, rounds=3)
