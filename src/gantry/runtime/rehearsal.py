"""What a process that is going to be forked for containers goes through before: rehearsals.

CPython specialises a function's bytecode in place while it runs, and fills caches in the
types and keys that it looks at. A process that was forked before this happened does it all
by itself, each time: the same work then takes up to ten times as long, and writes to twice
the pages.

A rehearsal is the real thing, up to execve: the root is an empty tmpfs, and there is no
program in it. Init shares the memory of its caller (kernel/vfork.py), so its side is
rehearsed as well.
"""

from __future__ import annotations

import json
import os
from typing import Final

from gantry.cgroups import manager
from gantry.kernel import syscalls
from gantry.model.resources import Resources
from gantry.oci import runtime_spec as oci
from gantry.runtime import state
from gantry.runtime.container import Container, Stdio
from gantry.runtime.errors import NOT_FOUND, RuntimeFailure
from gantry.runtime.state import State

_CAPABILITIES: Final = [f"CAP_{name}" for name in (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
    "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)]  # fmt: skip
PROGRAM: Final = "gantry-rehearsal"  # found nowhere
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


def exec_and_delete(folder: str) -> None:
    """Another process in a container that is this process; the end of one that is nothing.

    folder: where state is kept; nothing stays in it. Raises OSError and RuntimeFailure
    where this process may not do it.
    """
    pid = os.getpid()
    cgroup = manager.plan(".", PROGRAM, Resources())  # this process's own
    kept = State(
        id=f"{PROGRAM}-{pid}",
        bundle=folder,
        rootfs=folder,
        init_pid=pid,
        init_start_time=state.start_time_of(pid),
        created=0,
        namespaces=syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC,
        cgroup_paths=cgroup.paths(),
    )
    made = state.reserve(folder, kept.id)
    try:
        state.save(made, kept)
        process = oci.parse_process(
            {"args": [PROGRAM], "cwd": "/", "env": ["PATH=/nonexistent"], **_user()}
        )
        try:
            Container.load(kept.id, folder).exec(process, Stdio(0, 1, 2))
        except RuntimeFailure as failure:
            if failure.exit_code != NOT_FOUND:
                raise
        # Deleting kills what is in its cgroup: it must not be this process's.
        nowhere = {key: f"{path}/{kept.id}" for key, path in kept.cgroup_paths.items()}
        state.save(made, kept.replace(init_pid=0, cgroup_paths=nowhere))
        Container.load(kept.id, folder).delete(force=True)
    finally:
        state.remove(made)


def _user() -> dict[str, object]:
    return {
        "user": {"uid": os.getuid(), "gid": os.getgid()},
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
    }


def configuration(rootfs: str) -> bytes:
    """A config.json as the engine makes it, but for a program that is nowhere."""
    devices: list[dict[str, object]] = [{"allow": False, "access": "rwm"}]
    for major, minor in ((1, 3), (1, 5), (1, 8), (1, 9), (5, 0), (5, 1)):
        rule = {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        devices.append(rule)
    document = {
        "ociVersion": "1.2.0",
        "root": {"path": rootfs},
        "hostname": "rehearsal",
        "process": {
            "args": [PROGRAM],
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
    return json.dumps(document).encode()
