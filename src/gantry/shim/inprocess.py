"""A container by our own runtime, called in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gantry.model.errors import GantryError
from gantry.model.task import ExecSpec, TaskSpec
from gantry.oci import runtime_spec
from gantry.runtime.container import Container, Stdio
from gantry.runtime.errors import RuntimeFailure
from gantry.shim.backend import RuntimeFailed, Started, count_oom_kills, has_own_pids, oom_kills_of
from gantry.shim.stdio import ChildFds


class InProcessContainer:
    """`gantry.shim.backend.Backend` by `gantry.runtime`. bundle: the task's folder."""

    def __init__(self, *, container_id: str, bundle: str, systemd_cgroup: bool) -> None:
        self._id = container_id
        self._bundle = bundle
        self._systemd_cgroup = systemd_cgroup
        self._container: Container | None = None
        self._oom_files: list[str] = []
        self.own_pids = True

    def start(self, spec: TaskSpec, netns: int | None, stdio: ChildFds) -> Started:
        try:
            config = runtime_spec.loads(spec.spec)
            if config.linux is not None:
                self.own_pids = has_own_pids((n.type, n.path) for n in config.linux.namespaces)
            self._container = container = Container.create(
                config,
                container_id=self._id,
                bundle=self._bundle,
                root=f"{self._bundle}/runtime",
                rootfs_mounts=spec.rootfs,
                namespace_fds={} if netns is None else {"network": netns},
                stdio=Stdio(stdio.stdin, stdio.stdout, stdio.stderr),
                systemd_cgroup=self._systemd_cgroup,
            )
        except RuntimeFailure as error:
            raise RuntimeFailed(str(error), error.exit_code) from None
        except GantryError as error:
            raise RuntimeFailed(str(error), 128) from None
        self._oom_files = oom_kills_of(container.pid)
        return Started(container.pid, container.console)

    def exec(self, spec: ExecSpec, stdio: ChildFds) -> Started:
        process = runtime_spec.parse_process(runtime_spec.parse_json(spec.process))
        try:
            started = self._running.exec(process, Stdio(stdio.stdin, stdio.stdout, stdio.stderr))
        except RuntimeFailure as error:
            raise RuntimeFailed(str(error), error.exit_code) from None
        return Started(started.pid, started.console)

    def kill_all(self, signal: int) -> None:
        self._running.kill(signal, all=True)

    def pause(self) -> None:
        self._running.pause()

    def resume(self) -> None:
        self._running.resume()

    def update(self, resources: bytes) -> None:
        self._running.update(json.loads(resources))

    def pids(self) -> Sequence[int]:
        return self._running.pids()

    def stats(self) -> bytes:
        return json.dumps(self._running.stats()).encode()

    def oom_kills(self) -> int:
        return count_oom_kills(self._oom_files)

    def delete(self) -> None:
        if self._container is not None:
            self._container.delete(force=True)

    @property
    def _running(self) -> Container:
        if self._container is None:
            raise RuntimeFailed("container is not running", 128)
        return self._container
