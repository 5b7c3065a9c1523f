"""Inspect and list: a container as the Engine API shows it.

List rows are kept as encoded bytes, a container and a wording of its status at a time: a
row is encoded again only when something happened, or when "Up 5 seconds" became 6.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from gantry.containers import links, listfilter
from gantry.containers.clock import human, rfc3339
from gantry.containers.core import Core
from gantry.containers.record import Container, MountRecord, Record
from gantry.containers.spec.security import apparmor_profile
from gantry.model.container import EndpointSettings, MountPoint
from gantry.model.errors import GantryError
from gantry.model.network import EndpointState

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_FRESH: Final = 4
"""How often a second a list's wording of times is looked at again."""


class Views:
    """GET /containers/json and /containers/{id}/json."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._running: tuple[object, Sequence[bytes]] | None = None
        self._own: dict[str, int] = {}

    # ---- inspect

    def inspect(self, name: str, *, size: bool) -> Json:
        core = self._core
        container = core.table.get(name)
        record, state = container.record, container.state
        folder = core.folder(record.id)
        network_of = folder
        if record.host_config.network_mode.startswith("container:"):
            other = core.table.find(record.host_config.network_mode.partition(":")[2])
            network_of = core.folder(other.id) if other else folder
        touched = bool(state.started_at)
        result: Json = {
            "Id": record.id,
            "Created": rfc3339(record.created),
            "Path": record.path,
            "Args": record.args,
            "State": msgspec.to_builtins(state.view()),
            "Image": record.image,
            "ResolvConfPath": f"{network_of}/resolv.conf" if touched else "",
            "HostnamePath": f"{network_of}/hostname" if touched else "",
            "HostsPath": f"{network_of}/hosts" if touched else "",
            "LogPath": core.log_path(container),
            "Name": f"/{record.name}",
            "RestartCount": state.restart_count,
            "Driver": record.driver,
            "Platform": record.platform,
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": apparmor_profile(record.host_config, core.settings),
            "ExecIDs": list(container.live.execs) or None,
            "HostConfig": {
                **msgspec.to_builtins(record.host_config),
                "Links": links.shown(core, record),
            },
            "GraphDriver": self._graph_driver(container),
            "Mounts": self.mounts(container),
            "Config": {**msgspec.to_builtins(record.config), **_wanted_mac(record)},
            "NetworkSettings": self._network_settings(container),
        }
        if size:
            result["SizeRw"], result["SizeRootFs"] = self.sizes(container)
        return result

    async def measure(self, name: str = "") -> None:
        """Count the files of one container, or of all, in a thread: what `sizes` tells next."""
        chosen = [self._core.table.get(name)] if name else list(self._core.table)
        found = await asyncio.to_thread(self._count, [container.id for container in chosen])
        self._own = self._own | found if name else found

    def _count(self, ids: Sequence[str]) -> dict[str, int]:
        found = {}
        for identity in ids:
            with contextlib.suppress(GantryError):
                found[identity] = self._core.snapshots.usage(identity).bytes
        return found

    def sizes(self, container: Container) -> tuple[int, int]:
        """(bytes of the writable layer as last measured, bytes of the whole)."""
        core = self._core
        own = self._own.get(container.id, 0)
        try:
            below = core.images.resolve(container.record.image).size
        except GantryError:
            below = 0
        return own, own + below

    def _graph_driver(self, container: Container) -> Json:
        try:
            data = self._core.snapshots.graph_driver_data(container.id)
        except GantryError:
            data = {}
        return {"Name": container.record.driver, "Data": data or None}

    def mounts(self, container: Container) -> list[Json]:
        """`Mounts`: binds, volumes and those tmpfs that came by HostConfig.Mounts."""
        found = []
        for mount in container.record.mounts:
            if mount.kind == "tmpfs" and not mount.configured:
                continue
            found.append(msgspec.to_builtins(self._mount_point(mount)))
        return found

    def _mount_point(self, mount: MountRecord) -> MountPoint:
        volume = mount.kind == "volume"
        return MountPoint(
            type=mount.kind,
            name=mount.name if volume else UNSET,
            source=self._core.volumes.path(mount.name) if volume else mount.source,
            destination=mount.destination,
            driver=mount.driver if volume else UNSET,
            mode=mount.mode,
            rw=mount.writable,
            propagation=mount.propagation,
        )

    # ---- networks

    def _network_settings(self, container: Container) -> Json:
        networks = self.networks(container)
        primary = networks.get(container.record.host_config.network_mode, EndpointSettings())
        on_bridge = container.record.host_config.network_mode == "bridge"
        flat = primary if on_bridge else EndpointSettings()
        sandbox = container.live.sandbox
        running = sandbox is not None and bool(networks)
        return {
            "Bridge": "",
            "SandboxID": container.id if running else "",
            "SandboxKey": f"/proc/{container.state.pid}/ns/net" if running else "",
            "Ports": self._ports(container),
            "HairpinMode": False,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None,
            "EndpointID": flat.endpoint_id,
            "Gateway": flat.gateway,
            "GlobalIPv6Address": flat.global_ipv6_address,
            "GlobalIPv6PrefixLen": flat.global_ipv6_prefix_len,
            "IPAddress": flat.ip_address,
            "IPPrefixLen": flat.ip_prefix_len,
            "IPv6Gateway": flat.ipv6_gateway,
            "MacAddress": flat.mac_address,
            "Networks": {name: msgspec.to_builtins(e) for name, e in networks.items()},
        }

    def networks(self, container: Container) -> dict[str, EndpointSettings]:
        """Endpoints as asked for, with what they got while the container runs."""
        sandbox = container.live.sandbox
        result = dict(container.record.networks)
        if sandbox is not None:
            for name, endpoint in sandbox.endpoints.items():
                asked = result.get(name, EndpointSettings())
                result[name] = _endpoint(asked, endpoint)
        elif container.state.started_at:
            for name, asked in result.items():
                result[name] = msgspec.structs.replace(asked, network_id=self._network_id(name))
        return result

    def _network_id(self, name: str) -> str:
        try:
            return self._core.networks.resolve(name)[1]
        except GantryError:
            return ""  # it is gone

    def _ports(self, container: Container) -> Json:
        sandbox = container.live.sandbox
        if sandbox is None:
            return {}
        return {
            port: [{"HostIp": ip, "HostPort": number} for ip, number in pairs]
            if pairs is not None
            else None
            for port, pairs in sandbox.ports.items()
        }

    # ---- list

    def rows(
        self, *, everything: bool, limit: int, size: bool, filters: listfilter.Filters
    ) -> Sequence[bytes]:
        core = self._core
        now = time.time()
        plain = not (filters or limit > 0 or everything or size)
        # Nothing happened to containers or images, and no "Up 5 seconds" grew old meanwhile.
        key = (Container.changes, core.table.version, core.events.last, int(now * _FRESH))
        if plain and self._running is not None and self._running[0] == key:
            return self._running[1]
        containers = sorted(core.table, key=lambda c: c.record.created, reverse=True)
        if filters or limit > 0 or everything:
            chosen = listfilter.select(
                core, containers, everything=everything, limit=limit, filters=filters, views=self
            )
        else:
            chosen = [c for c in containers if c.state.running]
        linked = links.names(core)
        if size:
            return [self._sized(c, now, linked.get(c.id, ())) for c in chosen]
        rows = [self.row(c, now, linked.get(c.id, ())) for c in chosen]
        if plain:
            self._running = (key, rows)
        return rows

    def row(self, container: Container, now: float, linked: Sequence[str] = ()) -> bytes:
        """One encoded row. linked: its further names."""
        status = status_text(container, now)
        if linked:
            return _encode(self.summary(container, status, linked))
        key = (container.state, container.record, container.live.sandbox, self._name_of(container))
        cached = container.live.row
        if cached is not None and cached[1] == status and _same(cached[0], key):
            return cached[2]
        head = container.live.row_head
        if head is None or not _same(head[0], key):
            template = _encode(self.summary(container, "\x00status"))
            head = (key, template)
            container.live.row_head = head
        row = head[1].replace(b'"\\u0000status"', _encode(status), 1)
        container.live.row = (key, status, row)
        return row

    def _sized(self, container: Container, now: float, linked: Sequence[str]) -> bytes:
        summary = self.summary(container, status_text(container, now), linked)
        own, whole = self.sizes(container)
        if own:
            summary["SizeRw"] = own
        summary["SizeRootFs"] = whole
        return _encode(summary)

    def _name_of(self, container: Container) -> str:
        """What to call its image: what the user said, or the id once that means another."""
        record = container.record
        if not record.image:
            return record.config.image
        try:
            found = self._core.images.resolve(record.config.image)
        except GantryError:
            return record.image
        return record.config.image if found.id == record.image else record.image

    def summary(self, container: Container, status: str, linked: Sequence[str] = ()) -> Json:
        """One row as a dict."""
        record, state = container.record, container.state
        command = " ".join([record.path, *(_quoted(arg) for arg in record.args)])
        networks = {
            name: msgspec.to_builtins(endpoint)
            for name, endpoint in self.networks(container).items()
        }
        host: Json = {"NetworkMode": record.host_config.network_mode}
        if record.host_config.annotations:
            host["Annotations"] = record.host_config.annotations
        return {
            "Id": record.id,
            "Names": [f"/{record.name}", *linked],
            "Image": self._name_of(container),
            "ImageID": record.image,
            "Command": command,
            "Created": record.created // 1_000_000_000,
            "Ports": self.ports_list(container),
            "Labels": record.config.labels,
            "State": state.status,
            "Status": status,
            "HostConfig": host,
            "Health": _health(container),
            "NetworkSettings": {"Networks": networks},
            "Mounts": self.mounts(container),
        }

    def ports_list(self, container: Container) -> list[Json]:
        """`Ports` of a row, in Docker's order."""
        sandbox = container.live.sandbox
        rows: list[Json] = []
        if sandbox is None:
            return rows
        for port, pairs in sandbox.ports.items():
            number, _, proto = port.partition("/")
            base = {"PrivatePort": int(number), "Type": proto}
            if not pairs:
                rows.append(base)
            for ip, public in pairs or ():
                rows.append({"IP": ip, **base, **({"PublicPort": int(public)} if public else {})})
        return rows


def _same(old: object, new: tuple[object, ...]) -> bool:
    """Whether all parts are the very same objects (records and states are replaced whole)."""
    assert isinstance(old, tuple)
    return old[3] == new[3] and all(a is b for a, b in zip(old[:3], new[:3], strict=True))


def _wanted_mac(record: Record) -> Json:
    """Config.MacAddress, which `api` shows to clients before 1.52: what was asked for."""
    mode = record.host_config.network_mode
    names = (mode, "bridge") if mode in ("", "default") else (mode,)
    found = next(
        (record.networks[name].mac_address for name in names if name in record.networks), ""
    )
    return {"MacAddress": found} if found else {}


def _quoted(arg: str) -> str:
    """moby: arguments with a space are shown in single quotes."""
    return f"'{arg}'" if " " in arg else arg


def _health(container: Container) -> Json:
    health = container.state.health
    if health is None:
        return {"Status": "none", "FailingStreak": 0}
    return {"Status": health.status, "FailingStreak": health.failing_streak}


def _endpoint(asked: EndpointSettings, got: EndpointState) -> EndpointSettings:
    return msgspec.structs.replace(
        asked,
        network_id=got.network_id,
        endpoint_id=got.endpoint_id,
        gateway=got.gateway,
        ip_address=got.ip,
        ip_prefix_len=got.prefix,
        ipv6_gateway=got.ipv6_gateway,
        global_ipv6_address=got.ipv6,
        global_ipv6_prefix_len=got.ipv6_prefix,
        mac_address=got.mac,
        dns_names=list(got.dns_names) or None,
        aliases=list(got.aliases) or asked.aliases,
    )


def status_text(container: Container, now: float) -> str:
    """`Status` of docker ps (moby daemon/container/state.go String)."""
    state = container.state
    if state.running:
        up = human(now - state.started_at / 1e9)
        if state.paused:
            return f"Up {up} (Paused)"
        if state.restarting:
            since = human(now - state.finished_at / 1e9)
            return f"Restarting ({state.exit_code}) {since} ago"
        if state.health is not None and state.health.status != "none":
            word = state.health.status
            return f"Up {up} ({'health: starting' if word == 'starting' else word})"
        return f"Up {up}"
    if state.removing:
        return "Removal In Progress"
    if state.dead:
        return "Dead"
    if not state.started_at and not state.finished_at:
        return "Created"
    if not state.finished_at:
        return "Created"
    return f"Exited ({state.exit_code}) {human(now - state.finished_at / 1e9)} ago"
