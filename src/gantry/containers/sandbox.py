"""What surrounds a container's processes at a start: its network, shared namespaces, files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from msgspec import UNSET

from gantry.containers import netfiles
from gantry.containers.core import Core
from gantry.containers.record import Container, MountRecord
from gantry.containers.spec.build import Bind
from gantry.kernel.mountapi import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_REC,
)
from gantry.kernel.syscalls import RESOLVE_BENEATH, mount, openat2, umount2
from gantry.model.container import ContainerConfig, EndpointSettings, HostConfig
from gantry.model.errors import (
    Conflict,
    GantryError,
    InvalidParameter,
    NotFound,
    System,
)
from gantry.model.mount import Mount
from gantry.model.network import EndpointConfig, Sandbox, SandboxRequest
from gantry.mounts.apply import apply

EGRESS: Final = "gantry.egress.allow"


@dataclass(slots=True)
class Surroundings:
    """All that `spec.build` and `Tasks.start` need beside the configuration."""

    sandbox: Sandbox
    hostname: str
    namespaces: dict[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    binds: list[Bind] = field(default_factory=list)
    shm: str = ""


def network_request(core: Core, container: Container, netns_pid: int = 0) -> SandboxRequest:
    """What a container asks of the network service."""
    record = container.record
    config, host = record.config, record.host_config
    exposed = config.exposed_ports if config.exposed_ports else {}
    return SandboxRequest(
        container_id=record.id,
        name=record.name,
        hostname=config.hostname,
        domainname=config.domainname,
        mode="none" if config.network_disabled else host.network_mode,
        netns_pid=netns_pid,
        endpoints={name: endpoint_config(e) for name, e in record.networks.items()},
        port_bindings={
            port: [(pair.host_ip, pair.host_port) for pair in pairs or ()]
            for port, pairs in (host.port_bindings or {}).items()
        },
        exposed=tuple(exposed),
        publish_all=host.publish_all_ports,
        dns=tuple(host.dns or ()),
        dns_search=tuple(host.dns_search or ()),
        dns_options=tuple(host.dns_options or ()),
        extra_hosts=tuple(host.extra_hosts or ()),
        mac_address=(config.mac_address or "") if config.mac_address is not UNSET else "",
        links=tuple(host.links or ()),
        environment=tuple(config.env or ()),
        egress=_egress(host, config),
        ipv6=(host.sysctls or {}).get("net.ipv6.conf.all.disable_ipv6") != "1",
    )


def _egress(host: HostConfig, config: ContainerConfig) -> tuple[str, ...] | None:
    """The allow-list of `gantry.egress.allow`, an annotation or a label."""
    annotations = host.annotations if host.annotations else {}
    allowed = annotations.get(EGRESS, config.labels.get(EGRESS))
    if allowed is None:
        return None
    return tuple(word.strip() for word in allowed.split(",") if word.strip())


def endpoint_config(settings: EndpointSettings) -> EndpointConfig:
    """The asked-for part of an endpoint's settings."""
    ipam = settings.ipam_config
    return EndpointConfig(
        aliases=tuple(settings.aliases or ()),
        links=tuple(settings.links or ()),
        ipv4=ipam.ipv4_address if ipam else "",
        ipv6=ipam.ipv6_address if ipam else "",
        link_local=tuple((ipam.link_local_i_ps if ipam else None) or ()),
        mac=settings.mac_address,
        driver_opts=settings.driver_opts or {},
        gw_priority=settings.gw_priority,
    )


async def arrange(
    core: Core, container: Container, undo: AsyncExitStack, during: AsyncExitStack
) -> Surroundings:
    """Make them. undo: what to take back when the start fails; during: what to hold meanwhile."""
    record = container.record
    host = record.host_config
    netns_pid, network_of = 0, container
    if host.network_mode.startswith("container:"):
        if core.table.find(host.network_mode.partition(":")[2]) is container:
            raise System("cannot join own network namespace")
        network_of = running(core, host.network_mode, "network")
        netns_pid = network_of.state.pid
    request = network_request(core, container, netns_pid)
    sandbox = await core.networks.allocate(request)
    undo.push_async_callback(core.networks.release, record.id)
    hostname = network_of.record.config.hostname if netns_pid else record.config.hostname
    found = Surroundings(sandbox, hostname or sandbox.hostname)
    if netns_pid:
        found.namespaces["network"] = f"/proc/{netns_pid}/ns/net"
    elif sandbox.netns_fd is None and request.mode == "host":
        found.namespaces["network"] = ""
    _shared_namespaces(core, host, found.namespaces)
    found.files = _files(core, container, network_of, found, sandbox)
    found.shm = _shm(core, container, undo)
    found.binds = await _binds(core, container, undo, during)
    return found


def running(core: Core, mode: str, what: str) -> Container:
    """The container that a `container:ID` mode names. NotFound, Conflict."""
    name = mode.partition(":")[2]
    found = core.table.find(name)
    if found is None:
        raise NotFound(f"No such container: {name}")
    if not found.state.running:
        if what == "network":
            raise Conflict(f"cannot join network of a non running container: {found.id}")
        raise Conflict(f"container {found.id} is not running")
    if found.state.restarting:
        raise Conflict(f"Container {found.id} is restarting, wait until the container is running")
    return found


def _shared_namespaces(core: Core, host: HostConfig, namespaces: dict[str, str]) -> None:
    for kind, mode in (("pid", host.pid_mode), ("ipc", host.ipc_mode), ("uts", host.uts_mode)):
        if mode == "host":
            namespaces[kind] = ""
        elif mode.startswith("container:"):
            try:
                other = running(core, mode, kind)
            except GantryError as error:
                raise System(f"failed to join {kind.upper()} namespace: {error}") from error
            if kind == "ipc" and other.record.host_config.ipc_mode not in ("shareable", "host"):
                raise InvalidParameter(
                    f"failed to join IPC namespace: can't join IPC of container {other.id}:"
                    " non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                )
            namespaces[kind] = f"/proc/{other.state.pid}/ns/{kind}"


def _files(
    core: Core, container: Container, network_of: Container, found: Surroundings, sandbox: Sandbox
) -> dict[str, str]:
    folder = core.folder(network_of.id)
    if network_of is container:
        try:
            netfiles.prepare(folder, found.hostname, sandbox)
        except OSError as error:
            raise System(f"cannot write the network files in {folder}: {error}") from error
    return {
        "/etc/resolv.conf": f"{folder}/resolv.conf",
        "/etc/hostname": f"{folder}/hostname",
        "/etc/hosts": f"{folder}/hosts",
    }


def _shm(core: Core, container: Container, undo: AsyncExitStack) -> str:
    """The host path of a /dev/shm that others may join, "" for a private one."""
    host = container.record.host_config
    if host.ipc_mode == "host":
        return "/dev/shm"
    if host.ipc_mode.startswith("container:"):
        other = running(core, host.ipc_mode, "ipc")
        if other.record.host_config.ipc_mode == "host":
            return "/dev/shm"
        return f"{core.settings.exec_root}/shm/{other.id}"
    if host.ipc_mode != "shareable":
        return ""
    path = f"{core.settings.exec_root}/shm/{container.id}"
    os.makedirs(path, 0o700, exist_ok=True)
    undo.callback(drop_shm, core, container.id)
    try:
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        mount("shm", path, "tmpfs", flags, f"mode=1777,size={host.shm_size}")
    except OSError as error:
        raise System(f"mounting shm tmpfs: {error}") from error
    return path


def drop_shm(core: Core, container_id: str) -> None:
    """Unmount a shareable /dev/shm. Idempotent."""
    path = f"{core.settings.exec_root}/shm/{container_id}"
    with contextlib.suppress(OSError):
        umount2(path, MNT_DETACH)
    with contextlib.suppress(OSError):
        os.rmdir(path)


async def _binds(
    core: Core, container: Container, undo: AsyncExitStack, during: AsyncExitStack
) -> list[Bind]:
    binds = []
    undo.callback(_drop_images, core, container)
    for record in container.record.mounts:
        if record.kind == "tmpfs":
            source = ""
        elif record.kind == "bind":
            source = record.source
            if record.create:
                _make_source(source)
            elif not os.path.lexists(source):
                raise InvalidParameter(
                    'invalid mount config for type "bind": bind source path does not exist:'
                    f" {source}"
                )
        elif record.kind == "volume":
            source = await core.volumes.mount(record.name, container.id)
            undo.push_async_callback(core.volumes.unmount, record.name, container.id)
            if record.subpath:
                source = _subpath(core, source, record.subpath, during)
        else:
            binds.append(_image(core, container, record, during))
            continue
        binds.append(Bind(record, source))
    return binds


def _image(core: Core, container: Container, record: MountRecord, during: AsyncExitStack) -> Bind:
    """An image's files, read-only: its layers are mounted in the container's namespace."""
    image = core.images.resolve(record.source)
    key = f"{container.id}-image-{hashlib.sha256(record.destination.encode()).hexdigest()[:12]}"
    with contextlib.suppress(NotFound):
        core.snapshots.remove(key)  # of an earlier run
    mounts = core.snapshots.view(key, image.chain_id)
    if len(mounts) != 1:
        raise System(f"image {record.source} cannot be mounted by this storage driver")
    if record.subpath:
        whole = mounts[0].source
        if mounts[0].type != "bind":
            whole = _mounted_whole(core, mounts, during)
        return Bind(record, _subpath(core, whole, record.subpath, during))
    return Bind(record, mounts[0].source, mounts[0])


def _mounted_whole(core: Core, mounts: Sequence[Mount], during: AsyncExitStack) -> str:
    """An image's layers together at a place of ours, until a part of it is bound elsewhere."""
    place = os.path.join(core.settings.exec_root, "subpaths", os.urandom(8).hex())
    os.makedirs(place, 0o700)
    during.callback(os.rmdir, place)
    try:
        apply(mounts, place)
    except OSError as error:
        raise System(f"cannot mount image: {error}") from error
    during.callback(umount2, place, MNT_DETACH)
    return place


def _drop_images(core: Core, container: Container) -> None:
    for record in container.record.mounts:
        if record.kind == "image":
            digest = hashlib.sha256(record.destination.encode()).hexdigest()[:12]
            with contextlib.suppress(GantryError):
                core.snapshots.remove(f"{container.id}-image-{digest}")


def _make_source(path: str) -> None:
    if os.path.lexists(path):
        return
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as error:
        raise System(
            f"error while creating mount source path '{path}': mkdir {path}:"
            f" {(error.strerror or '').lower()}"
        ) from error


def _subpath(core: Core, root: str, subpath: str, during: AsyncExitStack) -> str:
    """A path inside a volume: no symlink in it leads out, not even one that changes meanwhile.

    What was found is held by fd and bound to a place of ours for as long as the start takes
    (moby's safepath): a container binds from its own mount namespace, where fds do not help.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        held = openat2(top, subpath, os.O_PATH | os.O_CLOEXEC, resolve=RESOLVE_BENEATH)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise InvalidParameter(
                f"path concatenation escapes the base directory: {root}/{subpath}"
            ) from error
        raise InvalidParameter(
            f"cannot access path {root}/{subpath}: {(error.strerror or '').lower()}"
        ) from error
    finally:
        os.close(top)
    during.callback(os.close, held)
    place = os.path.join(core.settings.exec_root, "subpaths", os.urandom(8).hex())
    os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
    if stat.S_ISDIR(os.fstat(held).st_mode):
        os.mkdir(place, 0o700)
        during.callback(os.rmdir, place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        during.callback(os.unlink, place)
    try:
        mount(f"/proc/self/fd/{held}", place, None, MS_BIND | MS_REC)
    except OSError as error:
        raise System(f"cannot mount {root}/{subpath}: {error}") from error
    during.callback(umount2, place, MNT_DETACH)
    return place


def sweep_subpaths(core: Core) -> None:
    """What a crash in the middle of a start left."""
    folder = os.path.join(core.settings.exec_root, "subpaths")
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                umount2(path, MNT_DETACH)
            with contextlib.suppress(OSError):
                os.rmdir(path) if os.path.isdir(path) else os.unlink(path)


async def dissolve(core: Core, container: Container) -> None:
    """Undo `arrange` after the end. Goes on whatever fails."""
    with contextlib.suppress(GantryError, OSError):
        await core.networks.release(container.id)
    for record in container.record.mounts:
        if record.kind == "volume":
            with contextlib.suppress(GantryError, OSError):
                await core.volumes.unmount(record.name, container.id)
    if container.record.host_config.ipc_mode == "shareable":
        drop_shm(core, container.id)
    _drop_images(core, container)
