"""The embedded DNS server: answers a second for a container's name."""

import sys
from pathlib import Path

from tests.support.api import Json
from tests.support.engine import Engine

from bench import dnsload
from bench.row import Row
from bench.work import client, config, create, remove, start


def measure(engine: Engine, quick: bool) -> float:
    """Return answers a second, with 64 questions under way."""
    host: dict[str, Json] = {"NetworkMode": "names"}
    with client(engine) as api:
        api.post("/networks/create", body={"Name": "names"}).expect(201)
        body = config("sleep", "600", HostConfig={**host})
        target = api.post("/containers/create", {"name": "target"}, body).expect(201).text("Id")
        try:
            start(api, target)
            program = str(Path(dnsload.__file__).resolve())
            python = str(Path(sys.executable).resolve())
            command = ("chroot", "/machine", python, program, "1" if quick else "3")
            binds: list[Json] = ["/:/machine:ro"]
            asker = create(api, config(*command, HostConfig={**host, "Binds": binds}))
            start(api, asker)
            api.post(f"/containers/{asker}/wait").expect(200)
            done = engine.cli()("logs", asker)
            assert done.out, done.err
            said = done.out
            remove(api, asker)
            return float(said)
        finally:
            remove(api, target)
            api.delete("/networks/names")


ROW = Row("DNS: answers for a container's name", "/s", 2, measure, more_is_better=True, rounds=3)
