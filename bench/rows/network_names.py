"""The embedded DNS server: answers a second for a container's name, by dnsperf."""

import re

from tests.support.api import Json
from tests.support.engine import Engine

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
            words = f"-s 127.0.0.11 -d /asked -l {1 if quick else 3} -c 4 -q 64"
            script = f"echo target A > /asked; chroot /machine dnsperf {words}"
            script = script.replace("/asked", "/tmp/gantry-bench-asked")
            binds: list[Json] = ["/:/machine:ro", "/tmp:/tmp"]
            asker = create(api, config("sh", "-c", script, HostConfig={**host, "Binds": binds}))
            start(api, asker)
            api.post(f"/containers/{asker}/wait").expect(200)
            said = engine.cli()("logs", asker).ok()
            remove(api, asker)
            found = re.search(r"Queries per second: +([0-9.]+)", said)
            assert found and "Queries lost:         0" in said, said
            return float(found[1])
        finally:
            remove(api, target)
            api.delete("/networks/names")


ROW = Row("DNS: answers for a container's name", "/s", 2, measure, more_is_better=True, rounds=3)
