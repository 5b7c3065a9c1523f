"""Go through the start of a container a few times, without one, in a process that will fork.

CPython specialises a function's bytecode in place while it runs, and fills caches in the
types and keys that it looks at. A process that was forked before this happened does it all
by itself, each time: the same work then takes up to ten times as long, and writes to twice
the pages. So whoever forks a process for each container rehearses first.

It is the real thing, up to execve: the root is an empty tmpfs, and there is no program in
it. Init shares this process's memory (kernel/vfork.py), so its side is rehearsed as well.
"""

from __future__ import annotations

import json
import os
from typing import Final

from gantry.cgroups import manager
from gantry.model.mount import Mount
from gantry.model.resources import Resources
from gantry.oci import runtime_spec as oci
from gantry.runtime import executor, launch, state
from gantry.runtime.errors import NOT_FOUND, RuntimeFailure
from gantry.runtime.state import State

ROUNDS: Final = 10
"""CPython 3.11 specialises a function at its eighth call."""

_CAPABILITIES: Final = [f"CAP_{name}" for name in (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
    "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)]  # fmt: skip
_PROGRAM: Final = "gantry-rehearsal"  # found nowhere
_MOUNTS: Final = (
    ("/proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")),
    ("/sys", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", ("ro", "nosuid", "noexec", "nodev")),
    ("/dev/mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/dev/shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/etc/hosts", "bind", ("rbind", "rprivate")),
)


def rehearse(folder: str) -> None:
    """Leaves nothing but warm code, and an empty `folder` for the state meanwhile. Where this
    process may not do it (it is not root, say), the code stays cold, and works as well."""
    text = json.dumps(_config(folder)).encode()
    network = -1
    try:
        os.mkdir(folder, 0o700)
        network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        for _ in range(ROUNDS):
            _start(folder, text, network)
            _exec(folder)
    except (OSError, RuntimeFailure):
        return
    finally:
        if network >= 0:
            os.close(network)
        state.remove(folder)


def _start(folder: str, text: bytes, network: int) -> None:
    try:
        launch.launch(
            oci.loads(text),
            container_id=f"rehearsal-{os.getpid()}",
            bundle=folder,
            root=folder,
            rootfs_mounts=(Mount("tmpfs", "tmpfs"),),
            namespace_fds={"network": network},
            stdio=(0, 1, 2),
            preserve_fds=0,
            systemd_cgroup=False,
            start_now=True,
            no_pivot=False,
            keyring=True,
            seccomp_cache="",
        )
    except RuntimeFailure as failure:
        _expect(failure)


def _exec(folder: str) -> None:
    """Another process in a container that is this process, and had no init but it."""
    pid = os.getpid()
    cgroup = manager.plan(".", _PROGRAM, Resources())  # this process's own
    kept = State(
        id=f"rehearsal-{pid}",
        bundle=folder,
        rootfs=folder,
        init_pid=pid,
        init_start_time=state.start_time_of(pid),
        created=0,
        namespaces=0x0C020000,  # mount, uts, ipc
        cgroup_paths=cgroup.paths(),
    )
    made = state.reserve(folder, kept.id)
    try:
        state.save(made, kept)
        state.load(folder, kept.id)
    finally:
        state.remove(made)
    process = oci.parse_process(
        {"args": [_PROGRAM], "cwd": "/", "env": ["PATH=/nonexistent"], **_user()}
    )
    try:
        executor.run(kept, cgroup, process, (0, 1, 2), cgroups={})
    except RuntimeFailure as failure:
        _expect(failure)


def _expect(failure: RuntimeFailure) -> None:
    if failure.exit_code != NOT_FOUND:
        raise failure


def _user() -> dict[str, object]:
    return {
        "user": {"uid": os.getuid(), "gid": os.getgid()},
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
    }


def _config(folder: str) -> dict[str, object]:
    """A configuration as the engine makes it."""
    devices: list[dict[str, object]] = [{"allow": False, "access": "rwm"}]
    for major, minor in ((1, 3), (1, 5), (1, 8), (1, 9), (5, 0), (5, 1)):
        rule = {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        devices.append(rule)
    return {
        "ociVersion": "1.2.0",
        "root": {"path": folder},
        "hostname": "rehearsal",
        "process": {
            "args": [_PROGRAM],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOSTNAME=rehearsal"],
            "cwd": "/",
            **_user(),
        },
        "mounts": [
            {"destination": to, "type": kind, "source": "/dev/null", "options": words}
            for to, kind, words in _MOUNTS
        ],
        "linux": {
            "cgroupsPath": f"/gantry-rehearsal-{os.getpid()}",
            "resources": {"devices": devices},
            "namespaces": [{"type": kind} for kind in ("mount", "network", "uts", "pid", "ipc")],
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/sys"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
                "syscalls": [
                    {"names": ["kexec_load", "reboot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
                ],
            },
        },
    }
