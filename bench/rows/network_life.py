"""Networks made and removed; a thousand containers in one."""

from tests.support.api import Json
from tests.support.engine import Engine

from bench.row import Row
from bench.work import client, config, create, in_threads, remove, seconds, start

CLIENTS = 4


def made_and_removed(engine: Engine, quick: bool) -> float:
    """Return milliseconds for a user-defined network's create and remove."""
    with client(engine) as api:

        def work() -> None:
            api.post("/networks/create", body={"Name": "bench"}).expect(201)
            api.delete("/networks/bench").expect(204)

        work()
        return seconds(work, 3 if quick else 10) * 1000


def thousand(engine: Engine, quick: bool) -> float:
    """Return milliseconds for each of a thousand containers that start in one network; the
    last of them finds all others by name."""
    total = 50 if quick else 1000
    names = [f"c{number}" for number in range(total)]
    with client(engine) as api:
        body: Json = {"Name": "thousand", "IPAM": {"Config": [{"Subnet": "10.200.0.0/16"}]}}
        api.post("/networks/create", body=body).expect(201)

    def work(number: int) -> None:
        with client(engine) as api:
            for name in names[number::CLIENTS]:
                body = config("sleep", "3600", HostConfig={"NetworkMode": "thousand"})
                start(api, api.post("/containers/create", {"name": name}, body).text("Id"))

    try:
        took = seconds(lambda: in_threads(CLIENTS, work))
        check(engine, names)
        return took / total * 1000
    finally:

        def end(number: int) -> None:
            with client(engine) as api:
                for name in names[number::CLIENTS]:
                    api.delete(f"/containers/{name}", {"force": 1})

        in_threads(CLIENTS, end)
        with client(engine) as api:
            api.delete("/networks/thousand")


def check(engine: Engine, names: list[str]) -> None:
    """All names are resolved in a container of the network, and some of their owners answer
    (not all: the kernel's table of neighbours has 1,024 entries, for all namespaces)."""
    with client(engine) as own:
        asked = " ".join(names)
        script = f"for n in {asked}; do nslookup $n. 127.0.0.11 >/dev/null || exit 1; done"
        script += (
            f"; for n in {' '.join(names[::20])}; do ping -c1 -W5 $n >/dev/null || exit 1; done"
        )
        host: Json = {"NetworkMode": "thousand"}
        asker = create(own, config("sh", "-c", script, HostConfig=host))
        start(own, asker)
        code = own.post(f"/containers/{asker}/wait").expect(200).obj()["StatusCode"]
        remove(own, asker)
        assert code == 0, "a neighbour was not found, or did not answer"


ROWS = (
    Row("create + remove of a network, API", "ms", 5, made_and_removed),
    Row(
        "1,000 containers start in one network, each (all found by name)",
        "ms",
        1,
        thousand,
        rounds=1,
        limit=100,
    ),
)
