"""Throughput by iperf3: between containers, and through a published port.

With reno, which every kernel has and lets everybody use: with bbr its timers would be measured.
"""

import json
from subprocess import run

from tests.support.api import Json
from tests.support.engine import Engine
from tests.support.machine import HOST_ADDRESS
from tests.support.wait import eventually

from bench.row import Row
from bench.work import client, config, create, remove, start

PORT = 5201
BINDS: list[Json] = ["/:/machine:ro", "/tmp:/machine/tmp"]  # iperf3 makes temporary files
IPERF = ("chroot", "/machine", "iperf3")
RENO = ("-C", "reno")


def _served(engine: Engine, more: dict[str, Json]) -> tuple[str, str]:
    """Start a server: its id and address."""
    host: dict[str, Json] = {"Binds": BINDS, **more}
    with client(engine) as api:
        exposed: Json = {f"{PORT}/tcp": {}}
        server = create(api, config(*IPERF, "-s", HostConfig=host, ExposedPorts=exposed))
        start(api, server)
        shown = api.get(f"/containers/{server}/json").expect(200).obj()["NetworkSettings"]
        assert isinstance(shown, dict)
        address = str(shown["IPAddress"])
    return server, address


def _rate(said: str) -> float:
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _succeeded(argv: list[str]) -> str:
    done = run(argv, check=False, capture_output=True, text=True)
    return done.stdout if "sum_received" in done.stdout else ""


def between(engine: Engine, quick: bool) -> float:
    """Return Gbit/s from a container to another one in the same network."""
    server, address = _served(engine, {})
    with client(engine) as api:
        command = (
            f"{' '.join(IPERF)} -c {address} {' '.join(RENO)} -J -t {1 if quick else 2} > /said"
        )
        # Until the server has come up.
        script = f"until {command}; grep -q sum_received /said; do sleep 0.1; done; cat /said"
        other = create(api, config("sh", "-c", script, HostConfig={"Binds": BINDS}))
        try:
            start(api, other)
            api.post(f"/containers/{other}/wait").expect(200)
            return _rate(engine.cli()("logs", other).ok())
        finally:
            remove(api, other)
            remove(api, server)


def published(engine: Engine, quick: bool) -> float:
    """Return Gbit/s from another host to a published port."""
    bindings: Json = {f"{PORT}/tcp": [{"HostPort": str(PORT)}]}
    server, _ = _served(engine, {"PortBindings": bindings})
    try:
        words = ("iperf3", "-c", HOST_ADDRESS, *RENO, "-J", "-t", "1" if quick else "2")
        argv = [*engine.machine.lan.command, *words]
        done = eventually(lambda: _succeeded(argv), "iperf3")
        return _rate(done)
    finally:
        with client(engine) as api:
            remove(api, server)


ROWS = (
    Row("throughput, container to container", "Gbit/s", 1, between, more_is_better=True, rounds=7),
    Row("throughput, published port", "Gbit/s", 1, published, more_is_better=True, rounds=7),
)
