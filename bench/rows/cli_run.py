"""`docker run --rm busybox true` by the stock CLI."""

import subprocess

from tests.support.engine import Engine

from bench.row import Row
from bench.work import seconds


def measure(engine: Engine, quick: bool) -> float:
    """Return milliseconds for one, the client's own start included."""
    cli = engine.cli()
    argv, env = cli.argv("run", "--rm", "busybox", "true"), cli.env()

    def run() -> None:
        subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL)

    run()
    return seconds(run, 2 if quick else 6) * 1000


ROW = Row("docker run --rm busybox true, stock CLI", "ms", 8, measure)
