"""Update: new limits and restart policy, of a running container too; and, what Docker has
not, its labels, published ports and networks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from msgspec.structs import replace

from gantry.containers import limits, validate
from gantry.containers.core import Core, encode_record
from gantry.containers.networking import Attachments
from gantry.containers.record import Container, Record
from gantry.containers.spec import resources
from gantry.model.container import EndpointSettings, HostConfig, PortMap, UpdateRequest
from gantry.model.errors import Conflict, GantryError, InvalidParameter, System

Json = dict[str, Any]

_FIELDS = {
    field.encode_name: field.name
    for field in msgspec.structs.fields(HostConfig)
    if field.encode_name
    in (
        *("CpuShares", "Memory", "NanoCpus", "BlkioWeight", "BlkioWeightDevice"),
        *("BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps"),
        *("BlkioDeviceWriteIOps", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod"),
        *("CpuRealtimeRuntime", "CpusetCpus", "CpusetMems", "MemoryReservation"),
        *("MemorySwap", "PidsLimit"),
    )
}


class Updater:
    """POST /containers/{id}/update."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._attachments = Attachments(core)

    async def update(self, name: str, request: UpdateRequest) -> list[str]:
        """Warnings. What is absent (or zero) stays as it is; when a part of it fails, all
        networks and ports are as before."""
        core = self._core
        container = core.table.get(name)
        if request.port_bindings is not None:
            validate.ports(request.port_bindings)
        async with container.lock:
            if container.state.removing or container.state.dead:
                raise Conflict(
                    f"Cannot update container {container.id}: container is marked for removal"
                    ' and cannot be "update"'
                )
            host, asked, warnings = self._merged(container, request)
            warnings += validate.resources(asked, update=True)
            if request.port_bindings is not None:
                host = replace(host, port_bindings=request.port_bindings)
            async with AsyncExitStack() as undo:
                await self._attach(container, request.networks or {}, undo)
                if request.port_bindings is not None:
                    before = container.record.host_config.port_bindings or {}
                    undo.push_async_callback(self._publish, container, before)
                    await self._publish(container, request.port_bindings)
                task = container.live.task
                if task is not None and container.state.running and request.resources:
                    try:
                        await task.update(msgspec.json.encode(resources.of(host, None)))
                    except GantryError as error:
                        raise System(f"Cannot update container {container.id}: {error}") from error
                record = replace(container.record, host_config=host)
                if request.labels:
                    record = _labelled(record, request.labels)
                await core.store.replace(container.id, container.name, encode_record(record))
                undo.pop_all()
            container.record = record
        core.event(container, "update")
        return warnings

    async def _attach(
        self,
        container: Container,
        networks: Mapping[str, EndpointSettings | None],
        undo: AsyncExitStack,
    ) -> None:
        """Leave some networks, join others."""
        before = container.record.networks
        for network, settings in networks.items():
            if settings is None:
                name, _ = self._core.networks.resolve(network)
                await self._attachments.take(container, network)
                old = before.get(name) or EndpointSettings()
                undo.push_async_callback(self._attachments.add, container, network, old)
        for network, settings in networks.items():
            if settings is not None:
                await self._attachments.add(container, network, settings)
                undo.push_async_callback(self._attachments.take, container, network)

    async def _publish(self, container: Container, bindings: PortMap) -> None:
        """Other published ports of a running container; what stays is not interrupted."""
        if container.live.task is None or container.live.sandbox is None:
            return
        container.live.sandbox = await self._core.networks.update_ports(
            container.id,
            {
                port: [(pair.host_ip, pair.host_port) for pair in pairs or ()]
                for port, pairs in bindings.items()
            },
        )
        container.change(network=container.live.sandbox.state)
        self._core.note(container)

    def _merged(
        self, container: Container, request: UpdateRequest
    ) -> tuple[HostConfig, HostConfig, list[str]]:
        """(the new configuration, what was asked for alone, warnings)."""
        present = container.record.host_config
        given = {
            key: value
            for key, value in request.resources.items()
            if key in _FIELDS and (value not in (0, "", None) or (key, value) == ("PidsLimit", 0))
        }
        try:
            asked = msgspec.convert(given, HostConfig, strict=True)
        except msgspec.ValidationError as error:
            raise InvalidParameter(str(error)) from None
        known, warnings = limits.supported(asked, self._core.settings.abilities)
        changes: dict[str, Any] = {
            _FIELDS[key]: getattr(asked, _FIELDS[key])
            for key in given
            if getattr(known, _FIELDS[key]) == getattr(asked, _FIELDS[key])
        }
        _check_cpus(present, changes, container)
        _swap(present, changes, container)
        policy = request.restart_policy
        if policy is not None and policy.name:
            if present.auto_remove and policy.name != "no":
                raise Conflict(
                    f"Cannot update container {container.id}: Restart policy cannot be updated"
                    " because AutoRemove is enabled for the container"
                )
            validate.restart_policy(policy)
            changes["restart_policy"] = policy
        return replace(present, **changes) if changes else present, known, warnings


def _check_cpus(present: HostConfig, changes: dict[str, Any], container: Container) -> None:
    """NanoCpus and quota or period exclude each other over time, too."""
    prefix = f"Cannot update container {container.id}: Conflicting options:"
    if "nano_cpus" in changes:
        if present.cpu_period:
            raise Conflict(
                f"{prefix} Nano CPUs cannot be updated as CPU Period has already been set"
            )
        if present.cpu_quota:
            raise Conflict(
                f"{prefix} Nano CPUs cannot be updated as CPU Quota has already been set"
            )
    for field, label in (("cpu_period", "CPU Period"), ("cpu_quota", "CPU Quota")):
        if field in changes and present.nano_cpus:
            raise Conflict(f"{prefix} {label} cannot be updated as NanoCPUs has already been set")


def _swap(present: HostConfig, changes: dict[str, Any], container: Container) -> None:
    memory = changes.get("memory", 0)
    if not memory or "memory_swap" in changes:
        return
    if present.memory_swap not in (0, -1) and memory > present.memory_swap:
        raise Conflict(
            f"Cannot update container {container.id}: Memory limit should be smaller than already"
            " set memoryswap limit, update the memoryswap at the same time"
        )


def _labelled(record: Record, labels: dict[str, str | None]) -> Record:
    """None takes a label away."""
    found = dict(record.config.labels)
    for key, value in labels.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = value
    return replace(record, config=replace(record.config, labels=found))
