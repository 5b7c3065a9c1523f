"""spec, features, version: what this runtime is and can do."""

from __future__ import annotations

import json
import os
import sys

from gantry import __version__
from gantry.cgroups import layout
from gantry.kernel import capabilities
from gantry.mounts import options
from gantry.oci.runtime_spec import VERSION
from gantry.runtime import namespaces, schedule, seccomp
from gantry.runtime.commands.context import Context, exactly
from gantry.runtime.commands.flags import Arguments
from gantry.runtime.errors import RuntimeFailure

_CAPS = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_NODES = ["nosuid", "noexec", "nodev"]


def version() -> str:
    """What --version prints."""
    return (
        f"gantry-runc version {__version__}\ncommit: v{__version__}\nspec: {VERSION}\n"
        f"python: {sys.version.split()[0]}\nlibseccomp: {seccomp.library_version()}"
    )


def example() -> dict[str, object]:
    """runc's example config.json."""
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": list(_CAPS),
                "effective": list(_CAPS),
                "permitted": list(_CAPS),
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "gantry-runc",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in _kinds()],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ],
        },
    }


def _kinds() -> list[str]:
    """A cgroup namespace only where it is of use: on pure cgroup v2, as runc has it."""
    kinds = ["pid", "network", "ipc", "uts", "mount"]
    return [*kinds, "cgroup"] if layout.detect().pure else kinds


def _mount(destination: str, kind: str, source: str, words: list[str]) -> dict[str, object]:
    return {"destination": destination, "type": kind, "source": source, "options": words}


def _mounts() -> list[dict[str, object]]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        _mount("/dev/shm", "tmpfs", "shm", [*_NODES, "mode=1777", "size=65536k"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", list(_NODES)),
        _mount("/sys", "sysfs", "sysfs", [*_NODES, "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*_NODES, "relatime", "ro"]),
    ]


def rootless(document: dict[str, object], uid: int, gid: int) -> dict[str, object]:
    """The same for a plain user: its own user namespace, no network one, the host's /sys."""
    linux = document["linux"]
    mounts = document["mounts"]
    assert isinstance(linux, dict) and isinstance(mounts, list)
    linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != "network"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    del linux["resources"]
    kept = []
    for mount in mounts:
        if mount["destination"] == "/sys":
            mount = _mount("/sys", "none", "/sys", ["rbind", "nosuid", "noexec", "nodev", "ro"])
        elif mount["destination"] == "/dev/pts":
            mount["options"] = [word for word in mount["options"] if not word.startswith("gid=")]
        kept.append(mount)
    document["mounts"] = kept
    return document


def spec(context: Context, arguments: Arguments) -> int:
    """Write an example config.json into the bundle."""
    exactly("spec", arguments, 0)
    document = example()
    if arguments.flag("rootless"):
        document = rootless(document, os.geteuid(), os.getegid())
    folder = arguments.string("bundle")
    path = os.path.join(folder, "config.json") if folder else "config.json"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise RuntimeFailure("File config.json exists. Remove it first")
    except OSError as error:
        raise RuntimeFailure(f"open {path}: {os.strerror(error.errno or 0).lower()}")
    try:
        os.write(fd, json.dumps(document, indent="\t").encode())
    finally:
        os.close(fd)
    return 0


def features(context: Context, arguments: Arguments) -> int:
    """Print what is supported (runtime-spec, features.md)."""
    exactly("features", arguments, 0)
    document = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ],
        "mountOptions": list(options.KNOWN),
        "linux": {
            "namespaces": sorted(namespaces.FLAGS),
            "capabilities": list(capabilities.NAMES[: capabilities.last() + 1]),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": True,
                "systemdUser": True,
                "rdma": True,
            },
            "seccomp": {
                "enabled": True,
                "actions": sorted(seccomp.ACTIONS),
                "operators": sorted(seccomp.OPERATORS),
                "archs": sorted(seccomp.ARCHITECTURES),
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "memoryPolicy": {
                "modes": sorted(schedule.MEMORY_MODES),
                "flags": sorted(schedule.MEMORY_FLAGS),
            },
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {
            "io.github.seccomp.libseccomp.version": seccomp.library_version(),
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "org.opencontainers.runc.version": __version__,
        },
        "potentiallyUnsafeConfigAnnotations": [
            "bundle",
            "org.systemd.property.",
            "org.criu.config",
        ],
    }
    print(json.dumps(document, indent=4))
    return 0
