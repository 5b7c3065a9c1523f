"""Nothing is left: what the engine holds before and after many containers is the same."""

from __future__ import annotations

import threading
from collections import Counter

from tests.support.api import Api, ApiError, Json, Params
from tests.support.engine import Engine, Usage
from tests.support.parts import kill, launcher, shim
from tests.support.wait import eventually

CYCLES = 200
CLIENTS = 4


def cycle(api: Api, number: int, ids: set[str]) -> None:
    """One container's life, of a kind that depends on `number`."""
    host: dict[str, Json] = {}
    if number % 4 == 1:
        host["PortBindings"] = {"80/tcp": [{"HostPort": ""}], "81/udp": [{"HostPort": ""}]}
    if number % 5 == 2:
        host["Binds"] = ["/anonymous", "/tmp:/mnt:ro"]
    if number % 7 == 3:
        host["NetworkMode"] = "none"
    body: Json = {
        "Image": "busybox",
        "Cmd": ["sleep", "600"] if number % 3 == 0 else ["sh", "-c", "echo x"],
        "Tty": number % 6 == 0,
        "ExposedPorts": {"80/tcp": {}, "81/udp": {}},
        "HostConfig": host,
    }
    name = api.post("/containers/create", body=body).expect(201).text("Id")
    ids.add(name)
    if number % 10 == 9:  # one that does not start
        bad: Json = {"Image": "busybox", "Cmd": ["/no/such"], "HostConfig": host}
        other = api.post("/containers/create", body=bad).expect(201).text("Id")
        ids.add(other)
        assert api.post(f"/containers/{other}/start").status == 400
        api.delete(f"/containers/{other}", {"v": 1}).expect(204)
    api.post(f"/containers/{name}/start").expect(204)
    if number % 3 == 0:
        run: Json = {"Cmd": ["true"], "AttachStdout": True}
        made = api.post(f"/containers/{name}/exec", body=run).expect(201).text("Id")
        with api.hijack(f"/exec/{made}/start", body={}) as answer:
            answer.wire.rest()
    else:
        api.post(f"/containers/{name}/wait").expect(200)
    api.delete(f"/containers/{name}", {"force": 1, "v": 1}).expect(204)


def cycles(engine: Engine, count: int, ids: set[str]) -> None:
    """Run `count` lives by several clients at a time."""
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            with engine.api() as api:
                for number in range(first, count, CLIENTS):
                    cycle(api, number, ids)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def settled(engine: Engine, before: Usage, ids: set[str]) -> None:
    """Wait until everything is as it was; the pool of ready sandboxes fills by itself."""

    def same() -> bool:
        now = engine.usage(ids)
        assert now.cgroups == frozenset()
        assert now.mounts == before.mounts
        # Fewer is fine: one that was dying when "before" was taken.
        assert len(now.links) <= len(before.links), (now.links, before.links)
        assert now.nft == before.nft
        assert now.processes <= before.processes  # idle helpers may have gone home
        assert now.files == before.files, now.files ^ before.files
        more = Counter(now.fds) - Counter(before.fds)
        assert len(now.fds) <= len(before.fds), more
        assert now.namespaces <= before.namespaces
        return True

    eventually(same, "what there was before", timeout=30, interval=0.2)


def resting(engine: Engine) -> Usage:
    """Return what the engine holds once that no longer changes."""
    last = engine.usage(set())

    def still() -> bool:
        nonlocal last
        was, last = last, engine.usage(set())
        return was == last

    eventually(still, "an engine at rest", timeout=30, interval=0.3)
    return last


def test_200_cycles(own_engine: Engine) -> None:
    ids: set[str] = set()
    cycles(own_engine, 20, ids)  # what is made once, lazily, is made now
    before = resting(own_engine)
    cycles(own_engine, CYCLES, ids)
    settled(own_engine, before, ids)


def test_crashes_included(own_engine: Engine) -> None:
    ids: set[str] = set()
    cycles(own_engine, 20, ids)
    own_engine.kill()
    own_engine.start()
    cycles(own_engine, 20, ids)
    before = resting(own_engine)
    for number in range(12):
        with own_engine.api() as api:
            names = [_running(api) for _ in range(2)]
            ids.update(names)
            if number % 3 == 0:
                pid = api.get(f"/containers/{names[0]}/json").obj()["State"]
                assert isinstance(pid, dict)
                kill(shim(own_engine, int(str(pid["Pid"]))))
            elif number % 3 == 1:
                kill(launcher(own_engine))
            cut = threading.Thread(target=_interrupted, args=(own_engine, ids))
            cut.start()
            threading.Event().wait(0.005 * number)  # at another moment each time
        own_engine.kill()
        cut.join()
        own_engine.start()
        own_engine.clean()
    cycles(own_engine, 20, ids)
    settled(own_engine, before, ids)


def _running(api: Api) -> str:
    body: Json = {"Image": "busybox", "Cmd": ["sleep", "600"]}
    name = api.post("/containers/create", body=body).expect(201).text("Id")
    api.post(f"/containers/{name}/start").expect(204)
    return name


def _interrupted(engine: Engine, ids: set[str]) -> None:
    try:
        with engine.api() as api:
            for number in range(50):
                cycle(api, number, ids)
    except (OSError, ApiError, AssertionError, ValueError):
        pass  # the engine was killed under it


def test_clients_that_go_away(own_engine: Engine) -> None:
    """Streams whose clients vanish leave no descriptor and no task behind."""
    with own_engine.api() as api:
        name = _running(api)
        follow: Params = {"stdout": 1, "follow": 1}
        attach: Params = {"stream": 1, "stdin": 1, "stdout": 1}

        def come_and_go(times: int) -> None:
            for _ in range(times):
                api.stream(f"/containers/{name}/logs", follow).wire.close()
                api.stream("/events").wire.close()
                api.stream(f"/containers/{name}/stats").wire.close()
                api.hijack(f"/containers/{name}/attach", attach).wire.close()
                api.hijack(f"/containers/{name}/wait", upgrade=False).wire.close()

        come_and_go(2)  # what is made once, as the log file, is made now
        before = resting(own_engine)
        come_and_go(30)
        settled(own_engine, before, set())
