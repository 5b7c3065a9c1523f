"""A start, thought through before the fork: after it, nothing is parsed or looked up."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from gantry.model.record import Record
from gantry.model.resources import DeviceRule, Resources
from gantry.mounts.options import Options, parse
from gantry.oci import runtime_spec as oci
from gantry.runtime import identity
from gantry.runtime.errors import RuntimeFailure
from gantry.runtime.identity import Identity
from gantry.runtime.namespaces import Namespaces

if TYPE_CHECKING:
    from gantry.model import mount as neutral
    from gantry.runtime.seccomp import Program


class MountPlan(Record):
    """One mount of the spec with its options read; `source` is absolute for binds.

    tree: a detached bind that the caller has made, with all its attributes. late: one that
    it makes when init asks, because its source is in what was mounted before.
    """

    mount: oci.Mount
    options: Options
    source: str
    is_bind: bool
    tree: int | None = None
    late: bool = False


class DevicePlan(Record):
    """A device node: mode holds the type bits as well."""

    path: str
    mode: int
    device: int
    uid: int
    gid: int


class ProcessPlan(Record):
    """What execve will be given, and by whom it is called."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    identity: Identity
    terminal: bool
    console_size: tuple[int, int] | None
    stdio: tuple[int, int, int] | None
    preserve_fds: int
    seccomp: Program | None
    apparmor: str
    selinux: str
    oom_score_adj: int | None
    scheduler: oci.Scheduler | None
    io_priority: oci.IOPriority | None
    personality: int | None
    memory_policy: oci.MemoryPolicy | None
    affinity: tuple[str, str] = ("", "")
    keyring: str = ""
    plain_lines: bool = False


class InitPlan(Record):
    """Everything init does, in the order of `init.py`."""

    container_id: str
    rootfs: str
    readonly: bool
    propagation: int
    rootfs_mounts: tuple[neutral.Mount, ...]
    namespaces: Namespaces
    mounts: tuple[MountPlan, ...]
    devices: tuple[DevicePlan, ...]
    setup_dev: bool
    masked: tuple[str, ...]
    readonly_paths: tuple[str, ...]
    sysctl: Mapping[str, str]
    hostname: str
    domainname: str
    time_offsets: Mapping[str, oci.TimeOffset]
    cgroup_folders: Mapping[str, str]
    cgroup_entrances: tuple[str, ...]
    loopback: bool
    process: ProcessPlan
    hooks: oci.Hooks
    state: bytes
    fifo: int | None
    no_pivot: bool = False
    mount_label: str = ""
    net_devices: bool = False


_PROPAGATION: Final[Mapping[str, int]] = {
    "": 0,
    "private": 1 << 18,
    "rprivate": 1 << 18 | 0x4000,
    "slave": 1 << 19,
    "rslave": 1 << 19 | 0x4000,
    "shared": 1 << 20,
    "rshared": 1 << 20 | 0x4000,
    "unbindable": 1 << 17,
    "runbindable": 1 << 17 | 0x4000,
}
_DEFAULT_DEVICES: Final = (
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/zero", 1, 5),
    ("/dev/urandom", 1, 9),
)
_DEVICE_TYPES: Final[Mapping[str, int]] = {
    "c": stat.S_IFCHR,
    "u": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "p": stat.S_IFIFO,
}
_PERSONALITIES: Final[Mapping[str, int]] = {"LINUX": 0x0000, "LINUX32": 0x0008}


def propagation_of(word: str) -> int:
    """MS_* bits of a rootfsPropagation word; 0 for none."""
    if word not in _PROPAGATION:
        raise RuntimeFailure(f"rootfsPropagation={word} is not supported")
    return _PROPAGATION[word]


def plan_mounts(
    mounts: Sequence[oci.Mount], bundle: str, rootfs: str = ""
) -> tuple[MountPlan, ...]:
    """Read the options of the spec's mounts.

    A destination that names a place in `rootfs` by the host's path means that place.
    """
    found = []
    for mount in mounts:
        options = parse(mount.options)
        is_bind = mount.type == "bind" or options.bind
        source = mount.source
        if is_bind and not source.startswith("/"):
            source = os.path.join(bundle, source)
        destination = mount.destination
        if rootfs and destination.startswith(rootfs + "/"):
            destination = destination[len(rootfs) :]
        if not destination.startswith("/"):
            destination = "/" + destination  # runc takes it from the root, with a warning
        found.append(
            MountPlan(
                mount=mount.replace(destination=os.path.normpath(destination).replace("//", "/")),
                options=options,
                source=source,
                is_bind=is_bind,
            )
        )
    return tuple(found)


def plan_devices(devices: Sequence[oci.Device]) -> tuple[DevicePlan, ...]:
    """The spec's device nodes and the six that every container has."""
    found: dict[str, DevicePlan] = {
        path: DevicePlan(
            path=path, mode=stat.S_IFCHR | 0o666, device=os.makedev(major, minor), uid=0, gid=0
        )
        for path, major, minor in _DEFAULT_DEVICES
    }
    for device in devices:
        kind = _DEVICE_TYPES.get(device.type)
        if kind is None:
            raise RuntimeFailure(f"linux.devices: {device.path}: invalid type {device.type!r}")
        if not device.path.startswith("/"):
            raise RuntimeFailure(f"linux.devices: {device.path!r} is not an absolute path")
        if kind != stat.S_IFIFO and not (0 <= device.major < 4096 and 0 <= device.minor < 1 << 20):
            raise RuntimeFailure(f"linux.devices: {device.path}: invalid device number")
        mode = 0o666 if device.file_mode is None else device.file_mode & 0o7777
        path = os.path.normpath(device.path)
        found[path] = DevicePlan(
            path=path,
            mode=kind | mode,
            device=0 if kind == stat.S_IFIFO else os.makedev(device.major, device.minor),
            uid=device.uid or 0,
            gid=device.gid or 0,
        )
    return tuple(found.values())


# What every container may do with devices, after the spec's own rules (runc's list): make
# any node, and use the usual ones, terminals among them.
_DEFAULT_RULES: Final = (
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(
        DeviceRule(allow=True, type="c", major=major, minor=minor, access="rwm")
        for major, minor in (
            (1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (136, None), (5, 2),
        )
    ),
)  # fmt: skip


def plan_resources(resources: Resources | None) -> Resources:
    """The spec's resources with the device rules that every container gets.

    A spec without device rules leaves devices as its parent cgroup has them.
    """
    if resources is None:
        return Resources()
    pids = resources.pids
    if pids is not None and pids.limit == 0:
        # systemd cannot have none, so runc reads it as one; less than none is no limit.
        resources = resources.replace(pids=pids.replace(limit=1))
    if not resources.devices:
        return resources
    devices = []
    for index, rule in enumerate(resources.devices):
        if not rule.access:
            raise RuntimeFailure(f"device access at {index} field cannot be empty")
        access = "".join(letter for letter in "rwm" if letter in rule.access)
        devices.append(rule if access == rule.access else rule.replace(access=access))
    resources = resources.replace(devices=tuple(rule for rule in devices if rule.access))
    have = set(resources.devices)
    more = tuple(rule for rule in _DEFAULT_RULES if rule not in have)
    return resources.replace(devices=resources.devices + more)


def plan_process(
    process: oci.Process,
    linux: oci.Linux,
    *,
    stdio: tuple[int, int, int] | None,
    preserve_fds: int,
    seccomp: Program | None,
    keyring: str,
    set_groups: bool = True,
    plain_lines: bool = False,
) -> ProcessPlan:
    """Translate a spec's process."""
    if not process.args:
        raise RuntimeFailure("process.args: must not be empty")
    if not process.cwd:
        raise RuntimeFailure("process.cwd: Cwd property must not be empty")
    if not process.cwd.startswith("/"):
        raise RuntimeFailure("process.cwd: Cwd must be an absolute path")
    size = process.console_size
    persona = None
    if linux.personality is not None:
        persona = _PERSONALITIES.get(linux.personality.domain)
        if persona is None:
            domain = linux.personality.domain
            raise RuntimeFailure(f"linux.personality.domain: unknown domain {domain!r}")
        if linux.personality.flags:
            raise RuntimeFailure("linux.personality.flags: are not supported")
    affinity = process.exec_cpu_affinity
    return ProcessPlan(
        args=process.args,
        env=process.env,
        cwd=process.cwd,
        identity=identity.of_process(process, set_groups=set_groups),
        terminal=process.terminal,
        console_size=None if size is None else (size.height, size.width),
        stdio=stdio,
        preserve_fds=preserve_fds,
        seccomp=seccomp,
        apparmor=process.apparmor_profile,
        selinux=process.selinux_label,
        oom_score_adj=process.oom_score_adj,
        scheduler=process.scheduler,
        io_priority=process.io_priority,
        personality=persona,
        memory_policy=linux.memory_policy,
        affinity=("", "") if affinity is None else (affinity.initial, affinity.final),
        keyring=keyring,
        plain_lines=plain_lines,
    )


def needs_dev(mounts: Sequence[MountPlan]) -> bool:
    """Whether /dev is ours to fill: not when it is somebody's bind mount."""
    return not any(m.is_bind and m.mount.destination == "/dev" for m in mounts)
