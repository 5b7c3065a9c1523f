"""Run the benchmark: bench/run.py [--quick] [--rows NAME …] [--engines dockerd] [--no-write]."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.engine import Engine, program  # noqa: E402

from bench import disk  # noqa: E402 - the path comes first
from bench.report import Result, markdown, number, svg  # noqa: E402 - the path comes first
from bench.row import Row  # noqa: E402

MODULES = (
    "life",
    "cli_run",
    "exec",
    "many",
    "memory",
    "idle",
    "listing",
    "log_write",
    "log_read",
    "image_load",
    "image_save",
    "image_pull",
    "image_pull_again",
    "image_push",
    "image_listing",
    "image_memory",
    "network_life",
    "network_ports",
    "network_names",
    "network_throughput",
)
KINDS = ("dockerd", "gantry")


def once(row: Row, engine: Engine, quick: bool) -> float:
    """Measure one row of one engine."""
    if row.fresh:
        engine.restart()
    return row.measure(engine, quick)


def measured(row: Row, engines: dict[str, Engine], quick: bool) -> dict[str, float]:
    """Measure a row, the engines in turn, and return each one's median."""
    values: dict[str, list[float]] = {kind: [] for kind in engines}
    for number_of_round in range(2 if quick else row.rounds):
        # Who goes first changes, so that neither always has the warmer machine.
        order = list(engines) if number_of_round % 2 else list(reversed(engines))
        for kind in order:
            values[kind].append(once(row, engines[kind], quick))
    return {kind: statistics.median(found) for kind, found in values.items()}


def rows_of(name: str) -> list[Row]:
    """The rows of one module: its ROW, or its ROWS."""
    module = importlib.import_module(f"bench.rows.{name}")
    return list(module.ROWS) if hasattr(module, "ROWS") else [module.ROW]


def competing(row: Row, engines: dict[str, Engine]) -> dict[str, Engine]:
    """Who takes part in a row."""
    if row.limit is None:
        return engines
    return {kind: engine for kind, engine in engines.items() if kind == "gantry"}


def about(quick: bool) -> str:
    """Return what was measured where."""
    version = subprocess.run(
        [program("dockerd"), "--version"], capture_output=True, text=True, check=True
    )
    words = version.stdout.strip().rstrip(",").replace("Docker version ", "dockerd ")
    kind = "a quick run, only to see whether it works; " if quick else ""
    return (
        f"By `make bench`: {kind}medians, the engines alternating on one machine "
        f"({os.cpu_count()} cores, Linux {platform.release()}, Python "
        f"{platform.python_version()}; {words}). Each engine has a network namespace, scratch "
        "roots, and for images a file system of its own; the client is the same small program "
        "over a unix socket. "
        "Memory is the PSS of all the engine's processes: dockerd, containerd and shims; "
        "gantryd, launcher and shims."
    )


def compare(names: list[str], kinds: list[str], quick: bool, *, own_disk: bool) -> list[Result]:
    """Measure the rows of some modules, each engine with a file system of its own or not."""
    results: list[Result] = []
    engines = {kind: Engine(kind) for kind in kinds}
    try:
        for engine in engines.values():
            engine.create()
            if own_disk:
                disk.give(engine)
            engine.start()
            engine.add_image()
        for row in [row for name in names for row in rows_of(name)]:
            medians = measured(row, competing(row, engines), quick)
            shown = ", ".join(f"{kind} {number(value)}" for kind, value in medians.items())
            if row.limit is not None and "gantry" in medians:
                results.append(Result(row, medians["gantry"], 0.0))
                shown += f": at most {row.limit:g}"
            elif len(medians) == len(KINDS):
                result = Result(row, medians["gantry"], medians["dockerd"])
                results.append(result)
                shown += f": {result.ratio:.1f}×, goal {row.goal:g}×"
            print(f"{row.name} ({row.unit}): {shown}", flush=True)
    finally:
        for engine in engines.values():
            engine.destroy()
    return results


def main() -> int:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and small rounds")
    parser.add_argument("--rows", nargs="*", default=list(MODULES), choices=MODULES)
    parser.add_argument("--engines", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--no-write", action="store_true", help="leave docs/bench.* alone")
    options = parser.parse_args()
    results: list[Result] = []
    for own_disk in (False, True):
        names = [name for name in options.rows if name.startswith("image_") == own_disk]
        if names:
            results += compare(names, options.engines, options.quick, own_disk=own_disk)
    if len(options.engines) < len(KINDS):
        return 0
    text = markdown(results, about(options.quick))
    print("\n" + text)
    if not options.quick and not options.no_write and len(options.rows) == len(MODULES):
        (ROOT / "docs").mkdir(exist_ok=True)
        (ROOT / "docs/bench.md").write_text(text)
        (ROOT / "docs/bench.svg").write_text(svg(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
