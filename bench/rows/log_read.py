"""Reading 500,000 log lines back."""

from tests.support.engine import Engine

from bench.row import Row
from bench.rows.log_write import LINES
from bench.work import client, config, create, remove, seconds, start, wait


def measure(engine: Engine, quick: bool) -> float:
    """Return seconds for `logs` of both streams from beginning to end."""
    lines = LINES // 10 if quick else LINES
    with client(engine) as api:
        name = create(api, config("seq", "1", str(lines)))
        start(api, name)
        wait(api, name)
        size = sum(len(str(n)) + 1 for n in range(1, lines + 1)) + 8 * lines
        received = 0

        def work() -> None:
            nonlocal received
            with api.stream(f"/containers/{name}/logs", {"stdout": 1, "stderr": 1}) as answer:
                received = sum(len(chunk) for chunk in answer.chunks())

        took = seconds(work)
        # A frame may carry several lines, so the headers' number is the engine's choice.
        assert size - 8 * lines <= received <= size, (received, size)
        remove(api, name)
        return took


ROW = Row("500,000 log lines read back", "s", 4, measure, rounds=3)
