"""A container by our own runtime, called in this process."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence

from gantry.cgroups import manager, oom
from gantry.cgroups.group import Cgroup
from gantry.cgroups.runc_stats import runc_stats
from gantry.model.errors import GantryError
from gantry.model.resources import Resources
from gantry.model.task import ExecSpec, TaskSpec
from gantry.oci import codec, runtime_spec
from gantry.runtime.container import Container, Stdio
from gantry.runtime.errors import RuntimeFailure
from gantry.shim.backend import (
    Prepared,
    RuntimeFailed,
    Started,
    has_own_pids,
)
from gantry.shim.folder import remove_tree
from gantry.shim.pipes import ChildFds

CLEAN_SECONDS = 5.0


class InProcessContainer:
    """`gantry.shim.backend.Backend` by `gantry.runtime`.

    bundle: the task's folder, <exec-root>/tasks/<id>; the runtime's own state of all
    containers (and its cache) is in <exec-root>/runtime.
    """

    def __init__(self, *, container_id: str, bundle: str, systemd_cgroup: bool) -> None:
        self._id = container_id
        self._bundle = bundle
        self._root = os.path.join(os.path.dirname(os.path.dirname(bundle)), "runtime")
        self._systemd_cgroup = systemd_cgroup
        self._config: runtime_spec.Spec | None = None
        self._container: Container | None = None

    def prepare(self, spec: TaskSpec) -> Prepared:
        """Parse the configuration; a later `clean` needs the cgroup's path of it."""
        try:
            config = runtime_spec.loads(spec.spec)
        except GantryError as error:
            raise _failed("create", error) from None
        linux = config.linux or runtime_spec.Linux()
        own_pids = has_own_pids((n.type, n.path) for n in linux.namespaces)
        box = runtime_spec.Box(height=spec.stdio.rows, width=spec.stdio.columns)
        process = config.process
        if process is not None and process.terminal and box.height and not process.console_size:
            config = config.replace(process=process.replace(console_size=box))
        self._config = config
        return {"cgroup": linux.cgroups_path, "own_pids": own_pids}

    def start(
        self, spec: TaskSpec, netns: int | None, stdio: ChildFds, *, sibling: bool = False
    ) -> Started:
        assert self._config is not None
        config, self._config = self._config, None
        root = config.root.path if config.root is not None else ""
        if spec.rootfs and root:
            # Just the place that the container's own mount namespace mounts it on.
            os.makedirs(os.path.join(self._bundle, root), mode=0o711, exist_ok=True)
        if spec.restore:
            return self._restore(config, spec, netns, stdio)
        try:
            self._container = container = Container.create(
                config,
                container_id=self._id,
                bundle=self._bundle,
                root=self._root,
                rootfs_mounts=spec.rootfs,
                namespace_fds={} if netns is None else {"network": netns},
                stdio=Stdio(stdio.stdin, stdio.stdout, stdio.stderr),
                systemd_cgroup=self._systemd_cgroup,
                start_now=True,
                sibling=sibling,
            )
        except RuntimeFailure as error:
            raise _failed("create", error) from None
        return Started(container.pid, container.console, container.pidfd)

    def oom_files(self, pid: int) -> list[str]:
        return oom.files_in(self._running.state.cgroup_paths)

    def exec(self, spec: ExecSpec, stdio: ChildFds) -> Started:
        try:
            process = runtime_spec.parse_process(runtime_spec.parse_json(spec.process))
            if process.terminal and spec.stdio.rows and not process.console_size:
                box = runtime_spec.Box(height=spec.stdio.rows, width=spec.stdio.columns)
                process = process.replace(console_size=box)
            started = self._running.exec(process, Stdio(stdio.stdin, stdio.stdout, stdio.stderr))
        except GantryError as error:
            raise _failed("exec", error) from None
        return Started(started.pid, started.console)

    def kill_all(self, signal: int) -> None:
        self._running.kill(signal, all=True)

    def pause(self) -> None:
        self._running.pause()

    def resume(self) -> None:
        self._running.resume()

    def update(self, resources: bytes) -> None:
        self._running.update(codec.decode(Resources, json.loads(resources), "resources"))

    def pids(self) -> Sequence[int]:
        return self._running.pids()

    def stats(self) -> bytes:
        return json.dumps(runc_stats(self._running.stats())).encode()

    def checkpoint(self, config: bytes, path: str, *, leave_running: bool) -> None:
        from gantry.runtime import checkpoint

        container = self._running
        spec = _network_at(runtime_spec.loads(config), f"/proc/{container.pid}/ns/net")
        wish = checkpoint.Wish(image_path=path, leave_running=leave_running)
        checkpoint.dump(container, spec, wish)

    def _restore(
        self, config: runtime_spec.Spec, spec: TaskSpec, netns: int | None, stdio: ChildFds
    ) -> Started:
        """`start`, from a checkpoint; in a process that is gone afterwards."""
        from gantry.runtime import checkpoint

        fds = {} if netns is None else {"network": netns}
        try:
            made = checkpoint.restore(
                config if netns is None else _network_at(config, f"/proc/self/fd/{netns}"),
                checkpoint.Wish(image_path=spec.restore),
                container_id=self._id,
                bundle=self._bundle,
                root=self._root,
                rootfs_mounts=spec.rootfs,
                namespace_fds=fds,
                stdio=None if spec.stdio.terminal else (stdio.stdin, stdio.stdout, stdio.stderr),
                systemd_cgroup=self._systemd_cgroup,
            )
        except RuntimeFailure as error:
            raise RuntimeFailed(str(error), error.exit_code, "restore") from None
        self._container = Container(made.state, self._root, made.cgroup, console=made.console)
        return Started(self._container.pid, made.console)

    def delete(self) -> None:
        try:
            self._running.delete(force=True)
        except RuntimeFailure:
            if os.path.exists(f"{self._root}/{self._id}"):
                raise

    def clean(self, prepared: Prepared) -> None:
        try:
            Container.load(self._id, self._root).delete(force=True)
            return
        except RuntimeFailure:
            pass  # its shim died before the runtime had written down what there is
        path = str(prepared.get("cgroup", ""))
        _destroy(manager.plan(path, self._id, Resources(), systemd=self._systemd_cgroup))
        remove_tree(f"{self._root}/{self._id}")

    @property
    def _running(self) -> Container:
        if self._container is None:
            self._container = Container.load(self._id, self._root)
        return self._container


def _network_at(config: runtime_spec.Spec, path: str) -> runtime_spec.Spec:
    """The configuration, with the network that it was given by fd as one that lies outside:
    CRIU is neither to keep it nor to make another."""
    linux = config.linux or runtime_spec.Linux()
    namespaces = tuple(
        n.replace(path=path) if n.type == "network" and not n.path else n for n in linux.namespaces
    )
    return config.replace(linux=linux.replace(namespaces=namespaces))


def _failed(verb: str, error: GantryError) -> RuntimeFailed:
    """With the words that runc has in front: scripts look for them."""
    code = error.exit_code if isinstance(error, RuntimeFailure) else 128
    subject = "runc create" if verb == "create" else "exec"
    return RuntimeFailed(f"{subject} failed: {error}", code)


def _destroy(cgroup: Cgroup) -> None:
    """Kill what is in a cgroup and remove it; who is dying still holds it for a moment."""
    deadline = time.monotonic() + CLEAN_SECONDS
    while True:
        try:
            if not cgroup.kill():
                for pid in cgroup.pids():
                    os.kill(pid, signal.SIGKILL)
            cgroup.destroy()
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
