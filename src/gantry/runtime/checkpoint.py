"""A running container put into files, and made again from them, by CRIU (criu.org).

CRIU keeps processes and what they hold; what comes from outside (the root, binds, masks,
network namespaces by path, pipes at stdio) is named in the image and given again.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from gantry.cgroups import layout
from gantry.ipc.protobuf import Value, encode, pair
from gantry.kernel import mountapi as api
from gantry.kernel import procfs, syscalls
from gantry.model.record import Record
from gantry.mounts import apply, resolve
from gantry.oci import runtime_spec as oci
from gantry.runtime import criu, hooks, launch, state
from gantry.runtime.errors import RuntimeFailure, describe
from gantry.runtime.plan import InitPlan
from gantry.runtime.reap import kill_and_reap
from gantry.runtime.state import State

if TYPE_CHECKING:
    from gantry.cgroups.group import Cgroup
    from gantry.model import mount as neutral
    from gantry.runtime.container import Container

DESCRIPTORS: Final = "descriptors.json"
CGROUP_MODES: Final[Mapping[str, int]] = {
    "ignore": 0, "": 3, "soft": 3, "full": 4, "strict": 5,
}  # fmt: skip
# Namespaces that may lie outside, by the spec's word: CRIU's word.
_EXTERNAL: Final = {"network": "net", "pid": "pid"}
_JOINED: Final = {"ipc": "ipc", "uts": "uts", "user": "user", "mount": "mnt"}


class Wish(Record):
    """What is wished for beyond the container itself; the names are runc's flags."""

    image_path: str
    work_path: str = ""
    parent_path: str = ""
    leave_running: bool = False
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    pre_dump: bool = False
    auto_dedup: bool = False
    lazy_pages: bool = False
    link_remap: bool = False
    empty_network: bool = False
    cgroup_mode: str = ""
    page_server: str = ""
    status_fd: int = -1
    lsm_profile: str = ""
    lsm_mount_context: str = ""


class Restored(NamedTuple):
    """A container that runs again. console: its terminal's other side, the caller's."""

    state: State
    cgroup: Cgroup
    console: int | None


def _common(wish: Wish, log: str, spec: oci.Spec, scope: ExitStack) -> dict[str, Value]:
    mode = CGROUP_MODES.get(wish.cgroup_mode)
    if mode is None:
        raise RuntimeFailure(f"Invalid manage-cgroups-mode value: {wish.cgroup_mode}")
    found: dict[str, Value] = {
        "images_dir_fd": _folder(wish.image_path, scope),
        "log_level": 4,
        "log_file": log,
        "manage_cgroups": True,
        "manage_cgroups_mode": mode,
        "notify_scripts": True,
        "shell_job": wish.shell_job,
        "tcp_established": wish.tcp_established,
        "ext_unix_sk": wish.ext_unix_sk,
        "file_locks": wish.file_locks,
        "empty_ns": syscalls.CLONE_NEWNET if wish.empty_network else 0,
        "orphan_pts_master": True,
        "auto_dedup": wish.auto_dedup,
        "lazy_pages": wish.lazy_pages,
    }
    if wish.work_path:
        os.makedirs(wish.work_path, 0o700, exist_ok=True)
        found["work_dir_fd"] = _folder(wish.work_path, scope)
    configured = spec.annotations.get("org.criu.config", "/etc/criu/runc.conf")
    if configured:
        found["config_file"] = configured
    return found


def _folder(path: str, scope: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)  # CRIU's worker reads it by /proc
    scope.callback(os.close, fd)
    return fd


def _external(spec: oci.Spec) -> Iterator[tuple[str, str, str]]:
    """(CRIU's word, key, path) of the namespaces that are there without the container."""
    for namespace in (spec.linux or oci.Linux()).namespaces:
        word = _EXTERNAL.get(namespace.type)
        if word and namespace.path:
            yield word, f"extRoot{word.capitalize()}NS", namespace.path


def _binds(spec: oci.Spec, cgroup_paths: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(destination, source) of each mount that shows something of the host."""
    linux = spec.linux or oci.Linux()
    private = any(n.type == "cgroup" for n in linux.namespaces)
    machine = layout.detect()
    for mount in spec.mounts:
        if mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options:
            yield mount.destination, mount.source
        elif mount.type == "cgroup" and not machine.pure and not private:
            for controller, folder in cgroup_paths.items():
                if controller:
                    name = os.path.basename(machine.controllers[controller])
                    yield f"{mount.destination}/{name}", folder


def dump(container: Container, spec: oci.Spec, wish: Wish) -> None:
    """Write a container's image. Without `leave_running` its processes are gone afterwards."""
    kept = container.state
    if wish.pre_dump:
        criu.require(criu.MEM_TRACK)
    if wish.lazy_pages:
        criu.require(criu.LAZY_PAGES)
    try:
        os.makedirs(wish.image_path, 0o700, exist_ok=True)
        with ExitStack() as scope:
            options = _common(wish, "dump.log", spec, scope)
            options |= {
                "root": kept.rootfs,
                "pid": container.pid,
                "leave_running": wish.leave_running,
                "tcp_skip_in_flight": wish.tcp_skip_in_flight,
                "link_remap": wish.link_remap,
                "external": [
                    f"{word}[{os.stat(path).st_ino}]:{key}" for word, key, path in _external(spec)
                ],
            }
            freezer = kept.cgroup_paths.get("" if layout.detect().pure else "freezer")
            if freezer:
                options["freeze_cgroup"] = freezer
            if wish.parent_path:
                options |= {"parent_img": wish.parent_path, "track_mem": True}
            if wish.page_server:
                address, _, port = wish.page_server.rpartition(":")
                options["ps"] = encode([(1, address), (2, int(port))])
            if wish.status_fd >= 0:
                options["status_fd"] = wish.status_fd
            if not wish.pre_dump:
                options["ext_mnt"] = [
                    *(pair(to, to) for to, _ in _binds(spec, kept.cgroup_paths)),
                    *(pair(path, "/dev/null") for path in _masked(spec, container.pid)),
                ]
                _write_descriptors(wish.image_path, container.pid)
            criu.run(criu.PRE_DUMP if wish.pre_dump else criu.DUMP, options)
    except RuntimeFailure as error:
        raise RuntimeFailure(f"{error}\nlog file: {_log_of(wish, 'dump.log')}")
    except (OSError, ValueError) as error:
        raise RuntimeFailure(describe(error) if isinstance(error, OSError) else str(error))


def _log_of(wish: Wish, name: str) -> str:
    return os.path.join(wish.work_path or wish.image_path, name)


def _masked(spec: oci.Spec, pid: int) -> Iterator[str]:
    """Masked files: /dev/null is bound over them (over folders lies a tmpfs of its own)."""
    for path in (spec.linux or oci.Linux()).masked_paths:
        try:
            found = os.stat(f"/proc/{pid}/root/{path.lstrip('/')}")
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(found.st_mode):
            yield path


def _write_descriptors(folder: str, pid: int) -> None:
    """What init's first three fds are: pipes among them end outside."""
    names = []
    for number in range(3):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            names.append("")
    fd = os.open(
        f"{folder}/{DESCRIPTORS}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
    )
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(names, file)


def _read_descriptors(folder: str) -> list[str]:
    try:
        with open(f"{folder}/{DESCRIPTORS}", encoding="utf-8") as file:
            names = json.load(file)
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"{folder}/{DESCRIPTORS}: {error}")
    return [str(name) for name in names] if isinstance(names, list) else []


def restore(
    spec: oci.Spec,
    wish: Wish,
    *,
    container_id: str,
    bundle: str,
    root: str,
    rootfs_mounts: tuple[neutral.Mount, ...] = (),
    namespace_fds: Mapping[str, int] | None = None,
    stdio: tuple[int, int, int] | None = None,
    systemd_cgroup: bool = False,
    hybrid_cgroup: bool = False,
) -> Restored:
    """Make a container of an image; its init is the caller's child.

    The caller's mount namespace becomes one of its own. RuntimeFailure: nothing is left.
    """
    if not os.path.isdir(wish.image_path):
        raise RuntimeFailure(f"open {wish.image_path}: no such file or directory")
    try:
        with ExitStack() as always, ExitStack() as undo:
            folder = state.reserve(root, container_id)
            undo.callback(state.remove, folder)
            thought = launch.think(
                spec, always, container_id=container_id, bundle=bundle,
                rootfs_mounts=rootfs_mounts, namespace_fds=namespace_fds or {}, stdio=stdio,
                systemd_cgroup=systemd_cgroup, hybrid_cgroup=hybrid_cgroup,
                seccomp_cache=f"{root}/.seccomp",
            )  # fmt: skip
            place = _make_root(f"{root}/.criu-{container_id}", thought.plan, always)
            worker = _Restoring(spec, thought, undo)
            options = _common(wish, "restore.log", spec, always) | worker.options(wish)
            options |= {"root": place, "evasive_devices": True, "rst_sibling": True}
            passed = worker.namespaces(options, namespace_fds or {}, always)
            criu.run(
                criu.RESTORE, options, stdio=stdio, passed=passed,
                before=worker.enter_cgroup, notified=worker.notified,
            )  # fmt: skip
            kept = worker.kept()
            state.save(folder, kept)
            undo.pop_all()
            return Restored(kept, thought.cgroup, worker.console)
    except RuntimeFailure as error:
        if str(error).startswith("criu"):
            raise RuntimeFailure(f"{error}\nlog file: {_log_of(wish, 'restore.log')}")
        raise
    except OSError as error:
        raise RuntimeFailure(describe(error))


def _make_root(place: str, plan: InitPlan, always: ExitStack) -> str:
    """The root file system at a mount point that nobody else sees, with places to mount on."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", None, api.MS_SLAVE | api.MS_REC)
    if plan.rootfs_mounts:
        apply.apply(plan.rootfs_mounts, plan.rootfs)
    os.mkdir(place, 0o755)
    always.callback(os.rmdir, place)
    syscalls.mount(plan.rootfs, place, None, api.MS_BIND | api.MS_REC)
    always.callback(syscalls.umount2, place, 2)  # MNT_DETACH
    fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        above: list[str] = []  # CRIU brings back what lies on these
        for mount in plan.mounts:
            to = mount.mount.destination
            if not any(to.startswith(f"{path}/") for path in above):
                is_file = mount.is_bind and not os.path.isdir(mount.source)
                ensure = resolve.ensure_file if is_file else resolve.ensure_directory
                os.close(ensure(fd, to))
            if not mount.is_bind:
                above.append(to)
    finally:
        os.close(fd)
    return place


class _Restoring:
    """What CRIU is told, asks and says while it restores."""

    def __init__(self, spec: oci.Spec, thought: launch.Thought, undo: ExitStack) -> None:
        self._spec = spec
        self._thought = thought
        self._undo = undo
        self._pid = 0
        self.console: int | None = None

    def options(self, wish: Wish) -> dict[str, Value]:
        """What comes from outside, and where it is now."""
        spec = self._spec
        outside = [
            pair(to, source)
            for to, source in _binds(
                spec.replace(mounts=tuple(m.mount.replace(source=m.source) if m.is_bind else m.mount
                                          for m in self._thought.plan.mounts)),
                self._thought.cgroup.paths(),
            )
        ]  # fmt: skip
        if self._thought.linux.masked_paths:
            outside.append(pair("/dev/null", "/dev/null"))
        found: dict[str, Value] = {"ext_mnt": outside}
        if wish.lsm_profile:
            found["lsm_profile"] = wish.lsm_profile
        if wish.lsm_mount_context:
            found["lsm_mount_context"] = wish.lsm_mount_context
        pipes = enumerate(_read_descriptors(wish.image_path)[:3])
        found["inherit_fd"] = [pair(name, n) for n, name in pipes if name.startswith("pipe:")]
        return found

    def namespaces(
        self, options: dict[str, Value], fds: Mapping[str, int], always: ExitStack
    ) -> list[int]:
        """Namespaces by path: CRIU gets them as fds, from 4 on."""
        passed: list[int] = []
        inherited = options["inherit_fd"]
        assert isinstance(inherited, list)
        options["join_ns"] = [
            pair(_JOINED[namespace.type], namespace.path)
            for namespace in self._thought.linux.namespaces
            if namespace.path and namespace.type in _JOINED
        ]
        for word, key, path in _external(self._spec):
            kind = next(kind for kind, name in _EXTERNAL.items() if name == word)
            fd = fds.get(kind, -1)
            if fd < 0:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                always.callback(os.close, fd)
            inherited.append(pair(key, 4 + len(passed)))
            passed.append(fd)
        return passed

    def enter_cgroup(self, pid: int) -> Mapping[str, Value]:
        """CRIU itself goes into the new cgroup: what it forks is born there."""
        cgroup = self._thought.cgroup
        self._undo.callback(_destroy, cgroup)
        cgroup.create(self._thought.resources)
        cgroup.attach(pid)
        roots = [pair(name, path) for name, path in procfs.cgroups(pid).items()]
        return {"cg_root": roots}

    def notified(self, notice: criu.Notice) -> None:
        """CRIU waits for the return."""
        if notice.script == "setup-namespaces":
            self._hooks(notice.pid)
        elif notice.script == "post-restore":
            self._pid = notice.pid
            self._undo.callback(kill_and_reap, notice.pid)
        elif notice.script == "orphan-pts-master" and notice.fd >= 0:
            self.console = os.dup(notice.fd)
            self._undo.callback(os.close, self.console)

    def _hooks(self, pid: int) -> None:
        found = self._spec.hooks
        if found is None:
            return
        document = json.dumps(state.oci_state(self._thought.kept, "creating", pid)).encode()
        hooks.run("prestart", found.prestart, document)
        hooks.run("createRuntime", found.create_runtime, document)

    def kept(self) -> State:
        """The state of what runs now."""
        return self._thought.kept.replace(
            init_pid=self._pid,
            init_start_time=state.start_time_of(self._pid),
            created=time.time_ns(),
            cgroup_paths=self._thought.cgroup.paths(),
        )


def _destroy(cgroup: Cgroup) -> None:
    for _ in range(20):
        try:
            cgroup.destroy()
            return
        except OSError:
            time.sleep(0.002)  # the killed still leave it
