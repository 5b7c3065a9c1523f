"""The OCI runtime specification's config.json (1.2 and the additions of 1.3) as values.

Names are the specification's in snake_case; what each field means is said there
(https://github.com/opencontainers/runtime-spec, config.md and config-linux.md).
`parse` checks types and ranges; what values make sense together is the runtime's to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from gantry.model.record import EMPTY, Record
from gantry.model.resources import Resources
from gantry.oci.codec import SpecError, decode, encode

U8 = int
U16 = int
U32 = int
U64 = int
I32 = int
I64 = int

LinuxResources = Resources
VERSION: Final = "1.3.0"


class Scheduler(Record):
    policy: str
    nice: I32 = 0
    priority: I32 = 0
    flags: tuple[str, ...] = ()
    runtime: U64 = 0
    deadline: U64 = 0
    period: U64 = 0


class Box(Record):
    height: U16
    width: U16


class User(Record):
    uid: U32 = 0
    gid: U32 = 0
    umask: U32 | None = None
    additional_gids: tuple[U32, ...] = ()
    username: str = ""


class Capabilities(Record):
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Record):
    type: str
    hard: U64
    soft: U64


class IOPriority(Record):
    class_: str = "IOPRIO_CLASS_BE"
    priority: I32 = 0


class CPUAffinity(Record):
    initial: str = ""
    final: str = ""


class Process(Record):
    cwd: str
    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: I32 | None = None
    scheduler: Scheduler | None = None
    selinux_label: str = ""
    io_priority: IOPriority | None = None
    exec_cpu_affinity: CPUAffinity | None = None


class Root(Record):
    path: str
    readonly: bool = False


class IDMapping(Record):
    container_id: U32
    host_id: U32
    size: U32


class Mount(Record):
    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


class Hook(Record):
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: I64 | None = None


class Hooks(Record):
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(Record):
    type: str
    path: str = ""


class TimeOffset(Record):
    secs: I64 = 0
    nanosecs: U32 = 0


class Device(Record):
    path: str
    type: str
    major: I64 = 0
    minor: I64 = 0
    file_mode: U32 | None = None
    uid: U32 | None = None
    gid: U32 | None = None


class NetDevice(Record):
    name: str = ""


class SeccompArg(Record):
    index: U32
    value: U64 = 0
    value_two: U64 = 0
    op: str = ""


class SeccompSyscall(Record):
    names: tuple[str, ...]
    action: str
    errno_ret: U32 | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(Record):
    default_action: str
    default_errno_ret: U32 | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompSyscall, ...] = ()


class IntelRdt(Record):
    clos_id: str = ""
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_monitoring: bool = False


class MemoryPolicy(Record):
    mode: str = ""
    nodes: str = ""
    flags: tuple[str, ...] = ()


class Personality(Record):
    domain: str
    flags: tuple[str, ...] = ()


class Linux(Record):
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    sysctl: Mapping[str, str] = EMPTY
    resources: LinuxResources | None = None
    cgroups_path: str = ""
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    net_devices: Mapping[str, NetDevice] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    personality: Personality | None = None
    time_offsets: Mapping[str, TimeOffset] = {}


class Spec(Record):
    """config.json, the parts that are Linux's."""

    oci_version: str
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: Mapping[str, str] = EMPTY
    linux: Linux | None = None


def parse(document: object) -> Spec:
    """A Spec from parsed JSON. Raises SpecError, one line, naming the field."""
    return decode(Spec, document)


def parse_process(document: object) -> Process:
    """A Process (the file of `exec --process`) from parsed JSON."""
    return decode(Process, document)


def parse_resources(document: object) -> Resources:
    """linux.resources alone (the file of `update`) from parsed JSON."""
    return decode(Resources, document)


def loads(text: str | bytes) -> Spec:
    """A Spec from a JSON text. Raises SpecError for bad JSON as well."""
    return parse(parse_json(text))


def parse_json(text: str | bytes) -> object:
    """json.loads whose errors are SpecErrors of one line."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"invalid JSON: {error}")


def dump(spec: Record) -> dict[str, object]:
    """Parsed JSON of a spec or of a part of one."""
    return encode(spec)
