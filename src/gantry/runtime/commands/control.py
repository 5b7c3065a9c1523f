"""kill, delete, pause, resume, update: what is done to a container that is there."""

from __future__ import annotations

import os
import signal
import sys

from gantry.model.resources import CPU, BlockIO, Memory, Pids, Resources
from gantry.oci import runtime_spec as oci
from gantry.oci.codec import SpecError
from gantry.runtime import plan, state
from gantry.runtime.commands.context import Context, at_least, at_most, exactly
from gantry.runtime.commands.flags import Arguments
from gantry.runtime.errors import RuntimeFailure


def kill(context: Context, arguments: Arguments) -> int:
    """Send a signal, SIGTERM unless said otherwise."""
    at_least("kill", arguments, 1)
    at_most("kill", arguments, 2)
    container = context.container(arguments)
    number = signal_number(arguments.rest[1] if len(arguments.rest) > 1 else "SIGTERM")
    try:
        container.kill(number, all=arguments.flag("all"))
    except RuntimeFailure as error:
        if arguments.flag("all") and str(error) == "container not running":
            return 0
        raise
    return 0


def signal_number(text: str) -> int:
    """A signal by number or name, with or without SIG, in any case."""
    if text.removeprefix("-").isdecimal() and text.isascii():
        return int(text)
    name = text.upper()
    # Not by signal.Signals: it takes as long to make as the rest of the command.
    number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(number, int) or name.startswith("SIG_"):
        raise RuntimeFailure(f'unknown signal "{text}"')
    return int(number)


def delete(context: Context, arguments: Arguments) -> int:
    """Remove what is left of a container; --force ends it first."""
    exactly("delete", arguments, 1)
    force = arguments.flag("force")
    try:
        container = context.container(arguments)
    except RuntimeFailure as error:
        if str(error) != "container does not exist":
            raise
        # A create that was killed half way leaves a folder without a state.
        state.remove(state.folder_of(context.root, arguments.rest[0]))
        if force:
            return 0
        raise
    container.delete(force=force, logger=context.log.write)
    return 0


def pause(context: Context, arguments: Arguments) -> int:
    """Freeze every process."""
    exactly("pause", arguments, 1)
    context.container(arguments).pause()
    return 0


def resume(context: Context, arguments: Arguments) -> int:
    """Let the frozen go on."""
    exactly("resume", arguments, 1)
    context.container(arguments).resume()
    return 0


def update(context: Context, arguments: Arguments) -> int:
    """Change limits, from a file of linux.resources or from flags."""
    exactly("update", arguments, 1)
    container = context.container(arguments)
    if arguments.given("l3-cache-schema"):
        raise RuntimeFailure("Intel RDT/CAT: l3 cache schema is not enabled")
    if arguments.given("mem-bw-schema"):
        raise RuntimeFailure("Intel RDT/MBA: memory bandwidth schema is not enabled")
    path = arguments.string("resources")
    resources = _from_file(path) if path else _from_flags(arguments)
    if arguments.string("kernel-memory") or arguments.string("kernel-memory-tcp"):
        context.log.warning("Kernel memory settings are ignored and will be removed")
    container.update(_settle(resources))
    return 0


def _settle(resources: Resources) -> Resources:
    """Devices are never changed by an update; kernel memory is gone from the kernel."""
    memory = resources.memory
    if memory is not None:
        resources = resources.replace(memory=memory.replace(kernel=None, kernel_tcp=None))
    return plan.plan_resources(resources.replace(devices=()))


def _from_file(path: str) -> Resources:
    try:
        if path == "-":
            text = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                text = file.read()
        return oci.parse_resources(oci.parse_json(text))
    except OSError as error:
        raise RuntimeFailure(f"open {path}: {os.strerror(error.errno or 0).lower()}")
    except SpecError as error:
        raise RuntimeFailure(f"{path}: {error}")


_UNITS = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def ram_in_bytes(text: str) -> int:
    """Docker's units.RAMInBytes: "512m", "1.5GiB", powers of 1024. ValueError: it is none."""
    word = text.strip().lower()
    for suffix in ("ib", "b"):
        if word.endswith(suffix) and len(word) > len(suffix) and word[-len(suffix) - 1] in _UNITS:
            word = word[: -len(suffix)]
            break
    factor = 0
    if word and word[-1] in _UNITS:
        factor, word = _UNITS[word[-1]], word[:-1].rstrip()
    number = float(word)
    if number < 0:
        raise ValueError(text)
    return int(number * (1 << factor))


def _bytes(arguments: Arguments, name: str) -> int | None:
    text = arguments.string(name)
    if not text:
        return None
    if text == "-1":
        return -1
    try:
        return ram_in_bytes(text)
    except ValueError:
        raise RuntimeFailure(f"invalid value for {name}: invalid size: '{text}'")


def _integer(arguments: Arguments, name: str) -> int | None:
    text = arguments.string(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise RuntimeFailure(
            f'invalid value for {name}: strconv.ParseInt: parsing "{text}": invalid syntax'
        )


def _from_flags(arguments: Arguments) -> Resources:
    weight = arguments.number("blkio-weight")
    return Resources(
        memory=Memory(
            limit=_bytes(arguments, "memory"),
            swap=_bytes(arguments, "memory-swap"),
            reservation=_bytes(arguments, "memory-reservation"),
        ),
        cpu=CPU(
            shares=_integer(arguments, "cpu-share"),
            quota=_integer(arguments, "cpu-quota"),
            burst=_integer(arguments, "cpu-burst"),
            period=_integer(arguments, "cpu-period"),
            realtime_runtime=_integer(arguments, "cpu-rt-runtime"),
            realtime_period=_integer(arguments, "cpu-rt-period"),
            cpus=arguments.string("cpuset-cpus"),
            mems=arguments.string("cpuset-mems"),
            idle=_integer(arguments, "cpu-idle"),
        ),
        block_io=BlockIO(weight=weight) if weight else None,
        pids=Pids(limit=arguments.number("pids-limit")) if arguments.given("pids-limit") else None,
    )
