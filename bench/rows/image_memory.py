"""The engine's peak memory during a pull."""

import threading

from tests.support.engine import Engine

from bench.bigimage import pull, registry, variant
from bench.row import Row

PORT = 5054


def measure(engine: Engine, quick: bool) -> float:
    """Return MiB, all processes of the engine and what they have when idle included."""
    done = threading.Event()
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, engine.pss(others))

    image = variant(quick)
    ours = engine.processes()
    with registry(engine, PORT, image) as address:
        others = set(engine.processes()).difference(ours)  # the registry is there, too
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            pull(engine, address, image)
        finally:
            done.set()
            watcher.join()
    return peak / (1 << 20)


ROW = Row("peak memory of a pull (PSS, under 100 MiB)", "MiB", 1, measure, rounds=3, fresh=True)
