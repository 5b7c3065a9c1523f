"""Create: everything is checked and reserved first, then made, then recorded in one write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from msgspec import UNSET
from msgspec.structs import replace

from gantry.archive.removal import remove_tree
from gantry.containers import limits, logconfig, merge, mountspec, names, validate
from gantry.containers.core import Core, encode_record
from gantry.containers.record import Container, MountRecord, Record, State
from gantry.containers.sandbox import endpoint_config
from gantry.containers.spec.security import Security
from gantry.containers.table import parse_link
from gantry.images import platforms
from gantry.kernel.syscalls import RESOLVE_BENEATH, openat2
from gantry.model.container import (
    CreateRequest,
    CreateResponse,
    EndpointSettings,
    HostConfig,
)
from gantry.model.errors import InvalidParameter, NotFound, System
from gantry.model.image import Image
from gantry.model.snapshot import LayerFolder
from gantry.snapshots.private import mounted

MARK = ".dockerenv"
_QUICK = ("overlay2",)
"""Drivers that make a writable layer by a few system calls: a thread would only delay them."""

Populate = Callable[[Record, MountRecord, str], Awaitable[None]]
"""Copies what the image has at a volume's place into the (empty) volume at a host path."""


MakeFolder = Callable[[Record, str], Awaitable[None]]
"""Makes a folder, where it is missing, in a container that has not been started."""


class Creator:
    """POST /containers/create."""

    def __init__(self, core: Core, populate: Populate, make_folder: MakeFolder) -> None:
        self._core = core
        self._populate = populate
        self._make_folder = make_folder

    async def create(self, request: CreateRequest) -> CreateResponse:
        """The new container's id. Nothing is left behind when it raises."""
        core = self._core
        asked, warnings = limits.supported(request.host_config, core.settings.abilities)
        warnings += validate.host_config(asked, core.settings)
        config = validate.config(request.config)
        image = core.images.resolve(config.image) if config.image else None
        _check_platform(request.platform, image, config.image)
        if image is not None:
            config = validate.config(merge.with_image(config, image.config))
        path, args = merge.command(config)
        host = self._shared(merge.with_defaults(asked, core.settings, tty=config.tty))
        Security.parse(host, core.settings)
        logconfig.check(host.log_config.type, host.log_config.config)
        async with AsyncExitStack() as undo:
            container_id = names.new_id()
            name = names.reserve(core.table, request.name, container_id)
            undo.callback(core.table.release, name, container_id)
            if not config.hostname:
                config = replace(config, hostname=_hostname(container_id, host))
            record = Record(
                id=container_id,
                name=name,
                created=time.time_ns(),
                image=image.id if image else "",
                platform=image.os if image else "linux",
                driver=core.settings.storage_driver,
                path=path,
                args=args,
                config=config,
                host_config=host,
                networks=self._networks(request, host),
                mounts=[],
                runtime=host.runtime,
            )
            record = await self._make(record, image, undo, shallow=request.shallow_read_only)
            container = Container(record, State())
            await core.store.insert(
                container_id, name, encode_record(record), encode_record(container.state)
            )
            core.table.add(container)
            undo.pop_all()
        core.event(container, "create")
        return CreateResponse(id=container_id, warnings=warnings)

    def _networks(self, request: CreateRequest, host: HostConfig) -> dict[str, EndpointSettings]:
        asked = request.networking_config.endpoints_config or {}
        networks = {name: settings or EndpointSettings() for name, settings in asked.items()}
        for settings in networks.values():
            validate.addresses(settings)
        self._check_endpoints(networks)
        mode = host.network_mode
        if "default" in networks:
            networks[mode] = networks.pop("default")
        if not networks and not mode.startswith("container:"):
            networks[mode] = EndpointSettings()  # networks that are named are all there are
        mac = request.config.mac_address
        if mac is not UNSET and mac and mode in networks and not networks[mode].mac_address:
            networks[mode] = replace(networks[mode], mac_address=mac)
        return networks

    def _check_endpoints(self, networks: dict[str, EndpointSettings]) -> None:
        """InvalidParameter with all that makes no sense. A network may be made later."""
        wrong: list[str] = []
        for name, settings in networks.items():
            try:
                self._core.networks.check_endpoint(name, endpoint_config(settings))
            except NotFound:
                continue
            except InvalidParameter as error:
                wrong.append(f"invalid config for network {name}: {error}")
        if wrong:
            bullet = "* " if len(wrong) > 1 else ""
            raise InvalidParameter("\n".join(bullet + each for each in wrong))

    async def _make(
        self, record: Record, image: Image | None, undo: AsyncExitStack, *, shallow: bool
    ) -> Record:
        """The writable layer, the folder and the volumes; the record with its mounts."""
        core, host = self._core, record.host_config
        options = host.storage_opt if host.storage_opt else {}
        parent = image.chain_id if image else None
        if record.driver in _QUICK:
            core.snapshots.prepare(record.id, parent, options=options)
            undo.callback(core.snapshots.remove, record.id)
            _mark(core.snapshots.layer(record.id))
        else:
            await asyncio.to_thread(core.snapshots.prepare, record.id, parent, options=options)
            undo.callback(core.snapshots.remove, record.id)
            await asyncio.to_thread(_mark, core.snapshots.layer(record.id))
        folder = core.folder(record.id)
        try:
            os.mkdir(folder, 0o710)
        except OSError as error:
            raise System(f"cannot create {folder}: {error.strerror}") from error
        undo.callback(_remove_folder, folder)
        if record.config.working_dir not in ("", "/"):
            await self._make_folder(record, record.config.working_dir)
        mounts = self._wanted(record)
        if not mounts:
            return record
        undo.callback(self._drop_volumes, record.id, mounts)
        if shallow:
            mounts = [_shallow(mount) for mount in mounts]
        held = [await self._volume(record, mount, undo) for mount in mounts]
        return replace(record, mounts=held)

    def _wanted(self, record: Record) -> list[MountRecord]:
        """All mounts in Docker's order of precedence; volumes have no names yet."""
        core, host = self._core, record.host_config
        found: dict[str, MountRecord] = {}
        for spec in host.volumes_from or ():
            name, mode = mountspec.parse_volumes_from(spec)
            try:
                other = core.table.get(name)
            except NotFound as error:
                raise InvalidParameter(str(error)) from error
            for mount in other.record.mounts:
                if mount.kind in ("bind", "volume"):
                    writable = mount.writable and "ro" not in mode.split(",")
                    found[mount.destination] = replace(
                        mount, writable=writable, copy=False, configured=False
                    )
        for mount in mountspec.asked_for(host):
            found[mount.destination] = mountspec.with_propagation(mount, core.settings.data_root)
        for target in record.config.volumes or ():
            destination = mountspec.clean(target)
            if destination not in found:
                found[destination] = MountRecord(
                    kind="volume",
                    destination=destination,
                    driver=host.volume_driver,
                    copy=True,
                    anonymous=True,
                )
        return list(found.values())

    async def _volume(
        self, record: Record, mount: MountRecord, undo: AsyncExitStack
    ) -> MountRecord:
        """A volume's mount with its volume's name; the volume is made, held and filled."""
        if mount.kind != "volume":
            return mount
        core = self._core
        options, labels = _volume_options(record.host_config, mount)
        fresh = not mount.name or core.volumes.get(mount.name) is None
        volume = await core.volumes.ensure(
            mount.name, holder=record.id, driver=mount.driver, options=options, labels=labels
        )
        if mount.anonymous and fresh and not mount.name:
            undo.push_async_callback(self._discard, volume.name)
        mount = replace(mount, name=volume.name, driver=volume.driver)
        if mount.copy:
            with contextlib.ExitStack() as scope:
                path = _place(core.volumes.path(volume.name), mount.subpath, scope)
                if path and _is_empty(path):
                    await self._populate(record, mount, path)
        return mount

    async def _discard(self, name: str) -> None:
        with contextlib.suppress(Exception):
            await self._core.volumes.remove(name, force=True)

    def _drop_volumes(self, holder: str, mounts: list[MountRecord]) -> None:
        self._core.volumes.drop([m.name for m in mounts if m.name], holder)

    def _shared(self, host: HostConfig) -> HostConfig:
        """`container:NAME` modes name the container by its id from now on, and links by its
        name, however they were given."""
        changes: dict[str, str] = {}
        for field in ("network_mode", "ipc_mode", "pid_mode"):
            head, _, name = getattr(host, field).partition(":")
            if head == "container":
                found = self._core.table.find(name)
                if found is not None:
                    changes[field] = f"container:{found.id}"
                elif field != "network_mode" and not host.privileged:  # that the start will say
                    raise InvalidParameter(f"No such container: {name}")
        if host.network_mode.startswith("container:"):
            _check_shared_network(host)
        elif host.network_mode in ("", "default", "bridge"):
            host = replace(host, links=self._named_links(host)) if host.links else host
        return replace(host, **changes) if changes else host

    def _named_links(self, host: HostConfig) -> list[str]:
        links: list[str] = []
        for link in host.links or ():
            if link.count(":") > 1:
                raise InvalidParameter(f"bad format for links: {link}")
            name = link.partition(":")[0]
            try:
                found = self._core.table.get(name)
            except (NotFound, InvalidParameter) as error:
                # A 404 here would make clients say that the image is missing.
                raise InvalidParameter(f"could not get container for {name}: {error}") from error
            if found.record.host_config.network_mode == "host":
                raise InvalidParameter(
                    "conflicting options: host type networking can't be used with links. This would"
                    " result in undefined behavior"
                )
            links.append(f"{found.name}:{parse_link(link)[1]}")
        return links


def _place(root: str, subpath: str, scope: contextlib.ExitStack) -> str:
    """The folder `subpath` of a volume, held while the scope lasts; "" where there is none."""
    if not subpath:
        return root
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    scope.callback(os.close, top)
    try:
        held = openat2(top, subpath, os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_BENEATH)
    except OSError:
        return ""  # the start says so
    scope.callback(os.close, held)
    return f"/proc/self/fd/{held}"


def _shallow(mount: MountRecord) -> MountRecord:
    """Before 1.44 a read-only bind was not recursively read-only."""
    if mount.kind == "bind" and not mount.writable and not mount.read_only:
        return replace(mount, read_only="non-recursive")
    return mount


def _check_shared_network(host: HostConfig) -> None:
    for wrong, text in (
        (host.links, "conflicting options: container type network can't be used with links"),
        (host.dns, "conflicting options: dns and the network mode"),
        (host.extra_hosts, "conflicting options: custom host-to-IP mapping and the network mode"),
        (
            host.port_bindings,
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            host.publish_all_ports,
            "conflicting options: port publishing and the container type network mode",
        ),
    ):
        if wrong:
            raise InvalidParameter(text)


def _mark(layer: LayerFolder) -> None:
    """/.dockerenv, by which programs know that they are in a container (moby initlayer)."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as scope:
        top = scope.enter_context(mounted(layer.mounts)) if layer.mounts else None
        name = MARK if top is not None else os.path.join(layer.path, MARK)
        with contextlib.suppress(FileExistsError):  # the image has one
            os.close(os.open(name, flags, 0o755, dir_fd=top))


def _check_platform(platform: str, image: Image | None, name: str) -> None:
    """InvalidParameter for what is none, NotFound for another than the image's."""
    if not platform:
        return
    wanted = platforms.parse_platform(platform)
    if image is None:
        return
    if not platforms.matches(image.os, image.architecture, image.variant, wanted):
        raise NotFound(
            f"image with reference {name} was found but does not provide the specified platform"
            f" ({wanted})"
        )


def _hostname(container_id: str, host: HostConfig) -> str:
    """The short id, or the machine's name where its network or UTS namespace is used."""
    if host.network_mode == "host" or host.uts_mode == "host":
        return os.uname().nodename
    if host.network_mode.startswith("container:"):
        return ""
    return container_id[:12]


def _volume_options(
    host: HostConfig, mount: MountRecord
) -> tuple[dict[str, str] | None, dict[str, str] | None]:
    """(driver options, labels) that HostConfig.Mounts gives for a volume."""
    if mount.configured and host.mounts:
        for spec in host.mounts:
            volume = spec.volume_options
            if mountspec.clean(spec.target) == mount.destination and volume is not None:
                driver = volume.driver_config
                return driver.options if driver else None, volume.labels
    return None, None


def _is_empty(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _remove_folder(folder: str) -> None:
    with contextlib.suppress(OSError):
        remove_tree(folder)
