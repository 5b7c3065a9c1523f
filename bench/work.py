"""The pieces of work that rows are made of, by the raw API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.support.api import Api, Json
from tests.support.engine import Engine

VERSION = "1.41"  # the newest that Debian's dockerd has


def client(engine: Engine) -> Api:
    """Return a client that both engines understand."""
    return engine.api(VERSION)


def config(*command: str, **more: Json) -> dict[str, Json]:
    """Return a container's config."""
    return {"Image": "busybox", "Cmd": list(command), **more}


def create(api: Api, body: dict[str, Json]) -> str:
    """Create a container and return its id."""
    return api.post("/containers/create", body=body).expect(201).text("Id")


def start(api: Api, name: str) -> None:
    """Start a container."""
    api.post(f"/containers/{name}/start").expect(204)


def wait(api: Api, name: str) -> None:
    """Wait for a container's end; it has to be a good one."""
    answer = api.post(f"/containers/{name}/wait").expect(200)
    assert answer.obj()["StatusCode"] == 0, answer.body


def remove(api: Api, name: str) -> None:
    """Remove a container, running or not."""
    api.delete(f"/containers/{name}", {"force": 1, "v": 1}).expect(204)


def whole_life(api: Api) -> None:
    """Create, start, wait, remove: on the bridge network."""
    name = create(api, config("true"))
    start(api, name)
    wait(api, name)
    remove(api, name)


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Return the seconds that one of `times` calls takes."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Call `work` with 0 … count-1 at the same time; raise the first error there was."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
