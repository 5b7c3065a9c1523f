"""`update`: limits and restart policy of containers that exist."""

from __future__ import annotations

from gantry.cli.command import App, Command
from gantry.cli.create_request import restart_policy
from gantry.cli.flags import Flag, Options
from gantry.client.engine import segment
from gantry.model.errors import GantryError

_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
}
_TEXTS = {"cpuset-cpus": "CpusetCpus", "cpuset-mems": "CpusetMems"}


def _update(app: App, options: Options, names: list[str]) -> int:
    flags = [*_NUMBERS, *_TEXTS, "pids-limit", "restart"]
    if not any(options.changed(flag) for flag in flags):
        raise GantryError("you must provide one or more flags when using this command")
    body: dict[str, object] = {key: options.number(flag) for flag, key in _NUMBERS.items()}
    body |= {key: options.text(flag) for flag, key in _TEXTS.items()}
    if options.number("pids-limit"):
        body["PidsLimit"] = options.number("pids-limit")
    try:
        body["RestartPolicy"] = (
            restart_policy(options.text("restart")) if options.text("restart") else {"Name": ""}
        )
    except ValueError as error:
        raise GantryError(str(error)) from error
    warnings: list[str] = []

    def update(name: str) -> None:
        answer = app.engine.post(f"/containers/{segment(name)}/update", body=body) or {}
        warnings.extend(answer.get("Warnings") or [])

    status = app.each(names, update)
    for warning in warnings:
        app.out(warning)
    return status


UPDATE = Command(
    "Update configuration of one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    _update,
    (
        Flag("blkio-weight", "Share of disk time, 10 to 1000", "int", default=0),
        Flag("cpu-period", "Length of a CFS period in microseconds", "int", default=0),
        Flag("cpu-quota", "CPU time per period in microseconds", "int", default=0),
        Flag("cpu-rt-period", "Real-time period in microseconds", "int", default=0),
        Flag("cpu-rt-runtime", "Real-time budget in microseconds", "int", default=0),
        Flag("cpu-shares", "Relative CPU weight", "int", "c", 0),
        Flag("cpus", "How many CPUs' worth of time: 0.5, 2", "decimal"),
        Flag("cpuset-cpus", "Only these CPUs: 0-2,5", "string"),
        Flag("cpuset-mems", "Only these NUMA nodes", "string"),
        Flag("kernel-memory", "No effect", "bytes", hidden=True),
        Flag("memory", "Most memory it may use: 512m", "bytes", "m"),
        Flag("memory-reservation", "Memory it is held to when memory is short", "bytes"),
        Flag("memory-swap", "Memory and swap together; -1 for any amount of swap", "bytes"),
        Flag("pids-limit", "Most processes it may have; -1 for any number", "int", default=0),
        Flag("restart", "When to start again: no, on-failure[:N], always …", "string"),
    ),
    1,
    None,
    examples=(("gantry update -m 1g --memory-swap 1g web", "More memory, at once"),),
)
