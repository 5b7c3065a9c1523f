"""exec over the API: create, start, read to the end, inspect."""

from tests.support.api import Api, Json, stream_of
from tests.support.engine import Engine

from bench.row import Row
from bench.work import client, config, create, remove, seconds, start


def one(api: Api, name: str) -> None:
    """Run one command and check what it said."""
    body: dict[str, Json] = {"Cmd": ["echo", "x"], "AttachStdout": True, "AttachStderr": True}
    made = api.post(f"/containers/{name}/exec", body=body).expect(201).text("Id")
    with api.hijack(f"/exec/{made}/start", body={"Detach": False, "Tty": False}) as answer:
        assert stream_of(answer.wire.rest(), 1) == b"x\n"
    assert api.get(f"/exec/{made}/json").obj()["ExitCode"] == 0


def measure(engine: Engine, quick: bool) -> float:
    """Return milliseconds for one."""
    with client(engine) as api:
        name = create(api, config("sleep", "600"))
        start(api, name)
        one(api, name)
        took = seconds(lambda: one(api, name), 5 if quick else 20) * 1000
        remove(api, name)
        return took


ROW = Row("exec, API: create, start, read, inspect", "ms", 6, measure)
