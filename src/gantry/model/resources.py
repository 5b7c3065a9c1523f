"""What a container may use, as neutral values after the runtime-spec's `linux.resources`.

The spec's decoder makes them, a cgroup applies them. `None` means: say nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping

from gantry.model.record import EMPTY, Record

# Ranges that a decoder checks; for everybody else they are integers.
U16 = int
U32 = int
U64 = int
I64 = int


class DeviceRule(Record):
    """One line of the device list: `type` a, b or c; `access` of the letters r, w, m.

    major, minor: None or -1 stand for every number.
    """

    allow: bool = False
    type: str = ""
    major: I64 | None = None
    minor: I64 | None = None
    access: str = ""


class Memory(Record):
    """Bytes; -1 is unlimited. `swap` is memory plus swap, as cgroup v1 counts."""

    limit: I64 | None = None
    reservation: I64 | None = None
    swap: I64 | None = None
    kernel: I64 | None = None
    kernel_tcp: I64 | None = None
    swappiness: U64 | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(Record):
    """`shares` are cgroup v1's (2..262144); quota, burst, period and runtimes microseconds."""

    shares: U64 | None = None
    quota: I64 | None = None
    burst: U64 | None = None
    period: U64 | None = None
    realtime_runtime: I64 | None = None
    realtime_period: U64 | None = None
    cpus: str = ""
    mems: str = ""
    idle: I64 | None = None


class Pids(Record):
    """`limit`: tasks; 0 or less is unlimited."""

    limit: I64 | None = None


class WeightDevice(Record):
    """A block device's share of I/O (10..1000)."""

    major: I64
    minor: I64
    weight: U16 | None = None
    leaf_weight: U16 | None = None


class ThrottleDevice(Record):
    """A block device's limit: bytes or operations a second."""

    major: I64
    minor: I64
    rate: U64


class BlockIO(Record):
    """I/O weights and limits."""

    weight: U16 | None = None
    leaf_weight: U16 | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()


class HugepageLimit(Record):
    """`page_size` as the kernel writes it ("2MB", "1GB"); `limit` in bytes."""

    page_size: str
    limit: U64


class InterfacePriority(Record):
    """net_prio: an interface's traffic priority."""

    name: str
    priority: U32


class Network(Record):
    """net_cls and net_prio (cgroup v1 only)."""

    class_id: U32 | None = None
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(Record):
    """Limits of one RDMA device."""

    hca_handles: U32 | None = None
    hca_objects: U32 | None = None


class Resources(Record):
    """All of linux.resources; `unified` are raw cgroup v2 files."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = None
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: Network | None = None
    rdma: Mapping[str, Rdma] = {}
    unified: Mapping[str, str] = EMPTY
