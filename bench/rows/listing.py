"""/containers/json with 40 running containers."""

from tests.support.engine import Engine

from bench.row import Row
from bench.work import client, config, create, remove, seconds, start

COUNT = 40


def measure(engine: Engine, quick: bool) -> float:
    """Return requests a second, one after another over one connection."""
    with client(engine) as api:
        names = [create(api, config("sleep", "600")) for _ in range(10 if quick else COUNT)]
        for name in names:
            start(api, name)

        def ask() -> None:
            answer = api.get("/containers/json").expect(200)
            assert answer.body.count(b'"Image":"busybox"') == len(names)

        ask()
        took = seconds(ask, 50 if quick else 300)
        for name in names:
            remove(api, name)
        return 1 / took


ROW = Row(
    "/containers/json with 40 running containers", "/s", 4, measure, more_is_better=True, rounds=3
)
