"""What is kept of a container between two calls: state.json in a folder of its own.

The keys are those of runc's state.json, as far as there is something to say.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

from gantry.kernel import procfs
from gantry.model.record import EMPTY, Record
from gantry.oci import codec
from gantry.oci.runtime_spec import Hook, MemoryPolicy, Personality
from gantry.runtime.errors import RuntimeFailure

FIFO: Final = "exec.fifo"
FILE: Final = "state.json"


class State(Record):
    """One container, at rest.

    seccomp: cache folder and key of init's filter, exec'ed processes get it too ("": none).
    start_time: of init, in clock ticks since boot; with the pid it is init and no other.
    listener_path, listener_metadata, personality, memory_policy: the spec's, for exec.
    created: nanoseconds since the epoch. namespaces: CLONE_NEW* bits of all it has.
    """

    id: str
    bundle: str
    rootfs: str
    init_pid: int
    init_start_time: int
    created: int
    namespaces: int
    cgroup_paths: Mapping[str, str]
    cgroup_path: str = ""
    systemd_unit: str = ""
    seccomp: str = ""
    annotations: Mapping[str, str] = EMPTY
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()
    rootless: bool = False
    no_new_keyring: bool = False
    user_namespace: bool = False
    oci_version: str = "1.2.1"
    config: Mapping[str, object] = {}
    listener_path: str = ""
    listener_metadata: str = ""
    personality: Personality | None = None
    memory_policy: MemoryPolicy | None = None


def check_id(container_id: str) -> str:
    """The id itself. RuntimeFailure: it could not be a folder's name."""
    if not container_id:
        raise RuntimeFailure("container id cannot be empty")
    fits = container_id.isascii() and all(c.isalnum() or c in "_+.-" for c in container_id)
    if (
        not fits
        or len(container_id) > 1024
        or container_id[0] == "-"
        or container_id in (".", "..")
    ):
        raise RuntimeFailure(f'invalid container ID format: "{container_id}"')
    return container_id


def folder_of(root: str, container_id: str) -> str:
    """Where a container's state is."""
    return f"{root}/{check_id(container_id)}"


def reserve(root: str, container_id: str) -> str:
    """Make the folder; whoever makes it owns the name."""
    folder = folder_of(root, container_id)
    try:
        os.makedirs(root, 0o700, exist_ok=True)
        os.mkdir(folder, 0o711)
    except FileExistsError:
        raise RuntimeFailure("container with given ID already exists")
    except OSError as error:
        raise RuntimeFailure(f"mkdir {folder}: {os.strerror(error.errno or 0).lower()}")
    return folder


def remove(folder: str) -> None:
    """Remove a container's folder and the files in it."""
    try:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
    except FileNotFoundError:
        return


def start_time_of(pid: int) -> int:
    """Start time of a living process, 0 when there is none."""
    try:
        return procfs.stat(pid).start_time
    except (FileNotFoundError, ProcessLookupError):
        return 0


_NAMESPACE_FILES: Final = {
    0x08000000: ("NEWIPC", "ipc"),
    0x00020000: ("NEWNS", "mnt"),
    0x40000000: ("NEWNET", "net"),
    0x20000000: ("NEWPID", "pid"),
    0x10000000: ("NEWUSER", "user"),
    0x04000000: ("NEWUTS", "uts"),
    0x02000000: ("NEWCGROUP", "cgroup"),
    0x00000080: ("NEWTIME", "time"),
}


def save(folder: str, state: State) -> None:
    """Write state.json, whole or not at all."""
    document = {
        "id": state.id,
        "init_process_pid": state.init_pid,
        "init_process_start": state.init_start_time,
        "created": rfc3339(state.created),
        "config": {
            "rootfs": state.rootfs,
            "labels": [
                *(f"{key}={value}" for key, value in state.annotations.items()),
                f"bundle={state.bundle}",
            ],
            "version": state.oci_version,
            "rootless_euid": state.rootless,
            "no_new_keyring": state.no_new_keyring,
            "cgroups": {"path": state.cgroup_path, "name": os.path.basename(state.cgroup_path)},
            **state.config,
        },
        "rootless": state.rootless,
        "cgroup_paths": dict(state.cgroup_paths),
        "namespace_paths": {
            name: f"/proc/{state.init_pid}/ns/{file}" for name, file in _NAMESPACE_FILES.values()
        },
        "external_descriptors": [],
        "intel_rdt_path": "",
        "gantry": {
            "bundle": state.bundle,
            "created": state.created,
            "namespaces": state.namespaces,
            "systemd_unit": state.systemd_unit,
            "seccomp": state.seccomp,
            "annotations": dict(state.annotations),
            "poststart": [codec.encode(hook) for hook in state.poststart],
            "poststop": [codec.encode(hook) for hook in state.poststop],
            "user_namespace": state.user_namespace,
            "listener_path": state.listener_path,
            "listener_metadata": state.listener_metadata,
            "personality": _optional(state.personality),
            "memory_policy": _optional(state.memory_policy),
        },
    }
    temporary = f"{folder}/.{FILE}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps(document).encode())
    finally:
        os.close(fd)
    os.rename(temporary, f"{folder}/{FILE}")


def _optional(value: Record | None) -> dict[str, object] | None:
    return None if value is None else codec.encode(value)


def load(root: str, container_id: str) -> State:
    """Read state.json. RuntimeFailure "container does not exist" when there is none."""
    folder = folder_of(root, container_id)
    try:
        fd = os.open(f"{folder}/{FILE}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise RuntimeFailure("container does not exist")
    except OSError as error:
        raise RuntimeFailure(f"open {folder}/{FILE}: {os.strerror(error.errno or 0).lower()}")
    try:
        data = os.read(fd, os.fstat(fd).st_size + 1)
    finally:
        os.close(fd)
    try:
        return _decode(json.loads(data))
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeFailure(f"{folder}/{FILE} cannot be read: {error}")


def _decode(document: object) -> State:
    if not isinstance(document, dict):
        raise ValueError("not an object")
    ours, config = document["gantry"], document["config"]
    cgroup_paths = document["cgroup_paths"]
    if not (isinstance(ours, dict) and isinstance(config, dict) and isinstance(cgroup_paths, dict)):
        raise ValueError("not a state of this runtime")
    cgroups = config["cgroups"]
    known = {"rootfs", "labels", "version", "rootless_euid", "no_new_keyring", "cgroups"}
    return State(
        id=document["id"],
        bundle=ours["bundle"],
        rootfs=config["rootfs"],
        init_pid=document["init_process_pid"],
        init_start_time=document["init_process_start"],
        created=ours["created"],
        namespaces=ours["namespaces"],
        cgroup_paths=cgroup_paths,
        cgroup_path=cgroups["path"],
        systemd_unit=ours["systemd_unit"],
        seccomp=ours["seccomp"],
        annotations=ours["annotations"],
        poststart=tuple(codec.decode(Hook, hook) for hook in ours["poststart"]),
        poststop=tuple(codec.decode(Hook, hook) for hook in ours["poststop"]),
        rootless=bool(document["rootless"]),
        no_new_keyring=bool(config["no_new_keyring"]),
        user_namespace=bool(ours["user_namespace"]),
        oci_version=config["version"],
        listener_path=ours.get("listener_path", ""),
        listener_metadata=ours.get("listener_metadata", ""),
        personality=_given(Personality, ours.get("personality")),
        memory_policy=_given(MemoryPolicy, ours.get("memory_policy")),
        config={key: value for key, value in config.items() if key not in known},
    )


_R = TypeVar("_R", bound=Record)


def _given(kind: type[_R], value: object) -> _R | None:
    return None if value is None else codec.decode(kind, value)


def rfc3339(nanoseconds: int) -> str:
    """Go's RFC3339Nano in UTC: fraction without zeros at its end."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def oci_state(state: State, status: str, pid: int) -> dict[str, object]:
    """The state that hooks read (runtime-spec, "State")."""
    document: dict[str, object] = {
        "ociVersion": state.oci_version,
        "id": state.id,
        "status": status,
        "pid": pid,
        "bundle": state.bundle,
    }
    if state.annotations:
        document["annotations"] = dict(state.annotations)
    return document


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """One caller at a time for what changes a container (start, delete)."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise RuntimeFailure("container does not exist")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise RuntimeFailure("container does not exist")
        raise
    finally:
        os.close(fd)
