"""`docker load` of a 300 MB image with 20,000 files."""

from tests.support.engine import Engine

from bench.bigimage import load, variant
from bench.disk import settle
from bench.row import Row


def measure(engine: Engine, quick: bool) -> float:
    """Return seconds for one load."""
    image = variant(quick)
    settle()
    return load(engine, image)


ROW = Row("load a 300 MB image of 20,000 files", "s", 3, measure, rounds=3)
