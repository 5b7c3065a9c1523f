"""Start: surroundings, spec, and the task driver's call; or nothing, and Docker's words."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from gantry.containers import checkpoints, logconfig, netfiles
from gantry.containers import sandbox as surroundings
from gantry.containers.core import Core
from gantry.containers.identity import Identities
from gantry.containers.record import Container, PendingAttach
from gantry.containers.spec.build import Start, build
from gantry.containers.tasks import Task
from gantry.model.errors import (
    Conflict,
    Forbidden,
    GantryError,
    NotModified,
    StartFailed,
    System,
)
from gantry.model.task import StdioSpec, TaskSpec

_log = logging.getLogger(__name__)

Started = Callable[[Container, Task], None]
Failed = Callable[[Container], None]


class Starter:
    """POST /containers/{id}/start, and every other reason to start one.

    on_start is called at each start with the new task, on_failure after a start that failed
    (the lock is held both times).
    """

    def __init__(self, core: Core, identities: Identities) -> None:
        self._core = core
        self._identities = identities
        self.on_start: Started = lambda container, task: None
        self.on_failure: Failed = lambda container: None

    async def start(self, name: str, *, checkpoint: str = "", checkpoint_dir: str = "") -> None:
        """NotModified when it runs already; StartFailed; Conflict.

        checkpoint: where to go on from, beside the container; elsewhere is Forbidden.
        """
        container = self._core.table.get(name)
        async with container.lock:
            state = container.state
            if state.paused:
                raise Conflict("cannot start a paused container, try unpause instead")
            if state.running:
                raise NotModified("container is already running")
            if state.removing or state.dead:
                raise Conflict("container is marked for removal and cannot be started")
            if checkpoint_dir:
                raise Forbidden("custom checkpointdir is not supported")
            container.live.backoff = 0.0
            container.change(restart_count=0, stopped_by_user=False)
            await self.start_locked(container, checkpoint)

    async def start_locked(self, container: Container, checkpoint: str = "") -> None:
        """Start; the caller has the lock and knows that it does not run."""
        if self._core.closing:
            raise Conflict("the daemon is shutting down")
        live = container.live
        waiting, live.attaching = live.attaching, []
        try:
            await self._start(container, waiting, checkpoint)
        except (GantryError, OSError) as error:
            for each in waiting:
                if not each.future.done():
                    each.future.set_result(None)
            self._note_failure(container, error)
            self.on_failure(container)
            if isinstance(error, OSError):
                raise System(str(error)) from error
            raise

    async def _start(
        self, container: Container, waiting: Sequence[PendingAttach], checkpoint: str
    ) -> None:
        core, record, live = self._core, container.record, container.live
        restore = ""
        if checkpoint:
            restore = checkpoints.find(core, container, f"/{container.name}", checkpoint)
        async with AsyncExitStack() as undo, AsyncExitStack() as during:
            found = await surroundings.arrange(core, container, undo, during)
            # Written while the container is made: what a daemon after us needs to find it again.
            container.change(network=found.sandbox.state)
            core.note(container)
            mounts = core.snapshots.mounts(record.id)
            identity = await self._identities.of(container, record.config.user, mounts)
            start = Start(
                hostname=found.hostname,
                identity=identity,
                binds=found.binds,
                files=found.files,
                namespaces=found.namespaces,
                env=found.sandbox.env,
                shm=found.shm,
            )
            runtime = core.settings.runtime(record.runtime)
            log = logconfig.log_spec(core, container)
            if log.driver == "local":
                os.makedirs(os.path.dirname(log.path), 0o710, exist_ok=True)
            config = build(record, core.settings, start)
            if core.settings.experimental:
                checkpoints.keep_config(core, container, config)
            spec = TaskSpec(
                container_id=record.id,
                spec=config,
                rootfs=mounts,
                stdio=_stdio(container),
                log=log,
                runtime=runtime.path,
                runtime_args=runtime.args,
                systemd_cgroup=core.settings.systemd_cgroup,
                runtime_type=runtime.type,
                runtime_options=runtime.options,
                restore=restore,
            )
            task, streams = await core.tasks.start(
                spec, found.sandbox.netns_fd, [each.streams for each in waiting]
            )
            undo.pop_all()
        for each, stream in zip(waiting, streams, strict=True):
            if each.future.done():
                core.owner.spawn(stream.close(), "detach one who left")
            else:
                each.future.set_result(stream)
        live.task, live.sandbox = task, found.sandbox
        container.change(
            running=True,
            restarting=False,
            paused=False,
            pid=task.pid,
            exit_code=0,
            error="",
            oom_killed=False,
            started_at=int(task.started_at * 1e9),
            ended_at_shutdown=False,
        )
        core.note(container)
        core.event(container, "start")
        self.on_start(container, task)
        await self._tell_linked(container)

    async def _tell_linked(self, container: Container) -> None:
        """Containers with legacy links to this one find it where it is now."""
        if container.record.host_config.network_mode not in ("", "default", "bridge"):
            return
        for other, sandbox in (await self._core.networks.linking(container.id)).items():
            netfiles.refresh(self._core.folder(other), sandbox)

    def _note_failure(self, container: Container, error: Exception) -> None:
        code = error.exit_code if isinstance(error, StartFailed) else 128
        container.change(
            running=False,
            restarting=False,
            pid=0,
            exit_code=code,
            error=str(error),
            finished_at=container.state.finished_at,
            network=None,
        )
        self._core.note(container)
        container.resolve(container.live.next_exit, str(error))
        container.resolve(container.live.not_running, str(error))


def _stdio(container: Container) -> StdioSpec:
    config, host = container.record.config, container.record.host_config
    rows, columns = host.console_size if len(host.console_size) == 2 else (0, 0)
    return StdioSpec(
        terminal=config.tty,
        open_stdin=config.open_stdin,
        stdin_once=config.stdin_once,
        rows=rows,
        columns=columns,
    )
