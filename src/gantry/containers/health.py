"""Health checks: a command in the container, again and again (moby daemon/health.go)."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from msgspec import UNSET

from gantry.containers.clock import rfc3339
from gantry.containers.core import Core
from gantry.containers.execs import Execs
from gantry.containers.record import Container
from gantry.model import container as model
from gantry.model.container import ExecCreate, HealthConfig, HealthLog
from gantry.model.errors import GantryError

_NS: Final = 1_000_000_000
_INTERVAL: Final = 30.0
_TIMEOUT: Final = 30.0
_START_INTERVAL: Final = 5.0
_RETRIES: Final = 3
_KEEP: Final = 5
_OUTPUT: Final = 4096


class Health:
    """One task a running container that has a check."""

    def __init__(self, core: Core, execs: Execs) -> None:
        self._core = core
        self._execs = execs

    def begin(self, container: Container) -> None:
        """At a start, and for what is found running."""
        config = probe_of(container)
        if config is None:
            return
        self.stop(container)
        if container.state.health is None or container.state.health.status != "healthy":
            container.change(health=model.Health(status="starting"))
        container.live.health = self._core.owner.spawn(
            self._monitor(container, config), f"health of {container.id[:12]}"
        )

    def restart(self, container: Container) -> None:
        """At a start, and when found running: what was before says nothing about now."""
        if probe_of(container) is not None:
            container.change(health=model.Health(status="starting"))
        self.begin(container)

    def stop(self, container: Container) -> None:
        """At an end."""
        if container.live.health is not None:
            container.live.health.cancel()
            container.live.health = None

    async def _monitor(self, container: Container, config: HealthConfig) -> None:
        while True:
            await asyncio.sleep(_pause(container, config))
            if container.state.paused:
                continue
            began = time.time_ns()
            code, output = await self._probe(container, config)
            entry = HealthLog(
                start=rfc3339(began), end=rfc3339(time.time_ns()), exit_code=code, output=output
            )
            if not container.state.running or container.live.task is None:
                return
            self._note(container, config, began, entry)

    async def _probe(self, container: Container, config: HealthConfig) -> tuple[int, str]:
        """(exit code, output), -1 for what could not be run or took too long."""
        test = config.test or []
        argv = test[1:]
        if test[0] == "CMD-SHELL":
            shell = container.record.config.shell
            argv = [*(["/bin/sh", "-c"] if shell is UNSET or not shell else shell), *argv]
        request = ExecCreate(
            cmd=argv,
            attach_stdout=True,
            attach_stderr=True,
            user=container.record.config.user,
            working_dir=container.record.config.working_dir,
        )
        limit = config.timeout / _NS or _TIMEOUT
        output = bytearray()
        try:
            running, stream = await self._execs.run(container, request)
        except GantryError as error:
            return -1, str(error)
        try:
            async with asyncio.timeout(limit):
                while stream is not None and (data := await stream.read()):
                    output += data
                    del output[_OUTPUT * 4 :]
                await running.done.wait()
        except TimeoutError:
            if running.process is not None:
                try:
                    await running.process.kill(9)
                    await running.done.wait()
                except GantryError:
                    pass
            text = f"Health check exceeded timeout ({_go(limit)})"
            said = _plain(bytes(output))
            return -1, f"{text}: {said}" if said else text
        finally:
            if stream is not None:
                await stream.close()
        return running.exit_code or 0, _plain(bytes(output))

    def _note(
        self, container: Container, config: HealthConfig, began: int, entry: HealthLog
    ) -> None:
        before = container.state.health or model.Health(status="starting")
        status, streak = before.status, before.failing_streak
        if entry.exit_code == 0:
            status, streak = "healthy", 0
        else:
            grace = container.state.started_at + config.start_period
            if not (status == "starting" and began < grace):
                streak += 1
                if streak >= (config.retries or _RETRIES):
                    status = "unhealthy"
        log = [*before.log[-(_KEEP - 1) :], entry]
        container.change(health=model.Health(status=status, failing_streak=streak, log=log))
        self._core.note(container)
        if status != before.status:
            self._core.event(container, f"health_status: {status}")


def probe_of(container: Container) -> HealthConfig | None:
    """The container's check, None when it has none."""
    config = container.record.config.healthcheck
    if config is UNSET or config is None or not config.test:
        return None
    return config if config.test[0] in ("CMD", "CMD-SHELL") else None


def _pause(container: Container, config: HealthConfig) -> float:
    interval = config.interval / _NS or _INTERVAL
    health = container.state.health
    if health is not None and health.status == "starting":
        early = container.state.started_at + config.start_period
        if time.time_ns() < early:
            return config.start_interval / _NS or _START_INTERVAL
    return interval


def _plain(frames: bytes) -> str:
    """The text in multiplexed frames."""
    text = bytearray()
    at = 0
    while at + 8 <= len(frames):
        size = int.from_bytes(frames[at + 4 : at + 8], "big")
        text += frames[at + 8 : at + 8 + size]
        at += 8 + size
    return bytes(text[:_OUTPUT]).decode(errors="replace")


def _go(seconds: float) -> str:
    """A duration as Go prints it, roughly."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
