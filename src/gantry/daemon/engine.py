"""The engine, wired: which concrete drivers and services there are, up and down in order.

Up: locks, state, images, networks' devices, what runs is found again, listeners. Down is
the reverse: nobody is served any more, containers end (unless live-restore), all is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from gantry.api.app import make_app
from gantry.api.backend import (
    CheckpointsBackend,
    ContainersBackend,
    ExecBackend,
    Filters,
    ImagesBackend,
    Json,
    NetworksBackend,
    SystemBackend,
    VolumesBackend,
)
from gantry.cgroups import layout
from gantry.containers.core import Core
from gantry.containers.networking import Networking
from gantry.containers.record import Container
from gantry.containers.service import Containers
from gantry.containers.settings import OWN_RUNTIME, Settings
from gantry.content.store import ContentStore
from gantry.daemon import roots
from gantry.daemon.choices import (
    container_settings,
    min_api_version,
    network_settings,
    registry_settings,
    reload_attributes,
)
from gantry.daemon.drivers import snapshotter
from gantry.daemon.images import ImagesForContainers
from gantry.daemon.options import Options
from gantry.daemon.supervisors import supervisor
from gantry.daemon.system import ENGINE_VERSION, Facts, System
from gantry.daemon.tls import server_context
from gantry.events.bus import EventBus
from gantry.events.filters import compile_filters
from gantry.http.listeners import Listeners, serve
from gantry.images.create import CommitRequest
from gantry.images.engine import Images, make_reference
from gantry.model import errors, numbers
from gantry.model.snapshot import Snapshotter
from gantry.network.plugins import Plugins
from gantry.network.service import Networks
from gantry.store.containers import ContainerStore
from gantry.store.database import Database
from gantry.store.images import SqliteImageStore
from gantry.store.networks import SqliteNetworkStore
from gantry.store.volumes import VolumeStore
from gantry.volumes.service import Volumes

_log = logging.getLogger(__name__)

DEFAULT_HOST = "unix:///var/run/docker.sock"


@dataclass(frozen=True)
class Services:
    """What the routes get."""

    containers: ContainersBackend
    checkpoints: CheckpointsBackend
    execs: ExecBackend
    images: ImagesBackend
    networks: NetworksBackend
    volumes: VolumesBackend
    system: SystemBackend


class Engine:
    """One daemon's services; `start`, then `aclose`, once each."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._undo = contextlib.AsyncExitStack()
        self.addresses: Sequence[str] = ()
        self._core: Core | None = None
        self._images: Images | None = None
        self._system: System | None = None

    async def start(self) -> None:
        """All up and listening, or nothing left and an error of the taxonomy."""
        async with contextlib.AsyncExitStack() as undo:
            await self._start(undo)
            self._undo = undo.pop_all()

    async def aclose(self) -> None:
        """Everything down, in reverse."""
        await self._undo.aclose()

    def reload(self, options: Options) -> None:
        """What a running daemon can change (moby daemon/reload.go): what new containers get,
        whether containers outlive it, how registries are talked to, its labels and what `info`
        says. InvalidParameter."""
        core, system, images = self._core, self._system, self._images
        assert core is not None and system is not None and images is not None
        settings, registries = container_settings(options), registry_settings(options)
        core.settings = replace(
            core.settings,
            default_runtime=settings.default_runtime,
            runtimes=settings.runtimes,
            default_ulimits=settings.default_ulimits,
            default_shm_size=settings.default_shm_size,
            default_ipc_mode=settings.default_ipc_mode,
            live_restore=settings.live_restore,
            shutdown_timeout=settings.shutdown_timeout,
            default_stop_timeout=settings.default_stop_timeout,
            seccomp_profile=settings.seccomp_profile,
            no_new_privileges=settings.no_new_privileges,
            init=settings.init,
            init_path=settings.init_path,
        )
        core.owner.spawn(images.set_registries(registries), "reload registries")
        system.reload(options, settings.default_runtime, registries.info())
        core.events.publish(
            "daemon", "reload", system.engine_id, reload_attributes(options, settings)
        )

    async def _start(self, undo: contextlib.AsyncExitStack) -> None:
        options = self._options
        settings = container_settings(options)
        if not layout.detect().devices:
            raise errors.System("Devices cgroup isn't mounted")
        for word in ("Downloads", "Uploads"):
            most = options.number(f"max-concurrent-{word.lower()}")
            _log.debug("Max Concurrent %s: %d", word, most)
        if options.given("oom-score-adjust"):
            roots.set_oom_score(options.number("oom-score-adjust"))
        files = undo.enter_context(contextlib.ExitStack())
        roots.prepare(settings.data_root, 0o710)
        roots.prepare(settings.exec_root, 0o711)
        roots.lock(settings.data_root, files)
        roots.lock(settings.exec_root, files)
        roots.write_pidfile(options.text("pidfile"), files)
        os.makedirs(settings.containers, mode=0o710, exist_ok=True)

        tasks = supervisor(settings, options.text("containerd-namespace"))
        undo.push_async_callback(tasks.aclose)
        roots.raise_file_limit()  # not what containers inherit: that is noted in `tasks`
        # The launcher takes a while to import what it needs: it does so beside us.
        async with asyncio.TaskGroup() as starting:
            starting.create_task(tasks.warm())
            database = Database(os.path.join(settings.data_root, "gantry.db"))
            undo.push_async_callback(database.aclose)
            events = EventBus()
            undo.callback(events.close)
            snapshots = snapshotter(
                options.text("storage-driver"), settings.data_root, options.words("storage-opts")
            )
            undo.callback(snapshots.close)
            settings = replace(settings, storage_driver=snapshots.name)
            content = ContentStore(os.path.join(settings.data_root, "content"))

            def emit(kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
                events.publish(kind, action, actor_id, attributes)

            def volume_event(action: str, name: str, attributes: Mapping[str, str]) -> None:
                events.publish("volume", action, name, attributes)

            images = Images(
                content,
                snapshots,
                SqliteImageStore(database),
                emit,
                registries=registry_settings(options),
            )
            undo.push_async_callback(images.aclose)
            await images.recover()
            folders = network_settings(options).plugin_dirs
            plugins = Plugins(folders[0], folders[1:])
            undo.push_async_callback(plugins.aclose)
            volumes = Volumes(
                os.path.join(settings.data_root, "volumes"),
                VolumeStore(database),
                volume_event,
                plugins,
            )
            await volumes.recover()

            def network_event(action: str, name: str, attributes: Mapping[str, str]) -> None:
                events.publish("network", action, name, attributes)

            networks = Networks(
                replace(
                    network_settings(options),
                    owner=engine_id(settings.data_root)[:8],
                    audit_dir=os.path.join(settings.data_root, "network"),
                    run_dir=str(settings.exec_root),
                ),
                SqliteNetworkStore(database),
                on_event=network_event,
            )
            undo.push_async_callback(networks.aclose)
            await networks.start()

        containers = Containers(
            Core(
                settings=settings,
                store=ContainerStore(database),
                tasks=tasks,
                networks=networks,
                images=ImagesForContainers(images),
                snapshots=snapshots,
                volumes=volumes,
                events=events,
            )
        )
        self._core, self._images = containers.core, images
        images.set_users(containers)
        containers.commits.make = partial(commit, images)
        containers.recovery.load()
        await containers.recovery.find()
        await networks.settle()

        async def usage(types: Sequence[str]) -> Json:
            return await disk_usage(types, containers, images, volumes)

        system = System(
            options,
            self._facts(
                settings, snapshots, images, events, tasks.version, networks.firewall_backend
            ),
            containers,
            lambda since, until, filters: subscribe(events, since, until, filters),
            usage,
            images.login,
        )
        self._system = system
        services = Services(
            containers,
            containers.checkpoints,
            containers.execs,
            images,
            Networking(containers.core, networks),
            volumes,
            system,
        )
        app = make_app(
            services,
            version=ENGINE_VERSION,
            min_version=min_api_version(options),
            experimental=options.flag("experimental"),
        )
        undo.push_async_callback(containers.shutdown)
        undo.push_async_callback(app.aclose)
        await containers.recovery.revive()
        listeners: Listeners = await serve(
            app,
            tuple(dict.fromkeys(options.words("hosts"))) or (DEFAULT_HOST,),
            group=options.text("group"),
            tls=server_context(options),
        )
        undo.push_async_callback(listeners.aclose)
        self.addresses = listeners.addresses

    def _facts(
        self,
        settings: Settings,
        snapshots: Snapshotter,
        images: Images,
        events: EventBus,
        containerd: tuple[str, str],
        firewall: str,
    ) -> Facts:
        runtimes = {name: r.path or r.type for name, r in settings.runtimes.items()}
        security = ["name=seccomp,profile=" + (settings.seccomp_profile or "builtin")]
        if settings.cgroup_version == 2:
            security.append("name=cgroupns")
        if settings.apparmor:
            security.insert(0, "name=apparmor")
        if settings.no_new_privileges:
            security.append("name=no-new-privileges")
        return Facts(
            engine_id=engine_id(settings.data_root),
            data_root=settings.data_root,
            driver=snapshots.name,
            driver_status=snapshots.status,
            image_count=lambda: len(images.catalog.images),
            listeners=lambda: events.listeners,
            runtimes={OWN_RUNTIME: "gantry-runc", "io.containerd.runc.v2": "gantry-runc"}
            | runtimes,
            default_runtime=settings.default_runtime,
            cgroup_driver="systemd" if settings.systemd_cgroup else "cgroupfs",
            cgroup_version=settings.cgroup_version,
            security_options=security,
            init_binary=os.path.basename(settings.init_path),
            firewall=firewall or self._options.text("firewall-backend"),
            registries=registry_settings(self._options).info(),
            min_api=f"1.{min_api_version(self._options)}",
            containerd=containerd,
        )


def engine_id(data_root: str) -> str:
    """This engine's name for itself, made once."""
    path = os.path.join(data_root, "engine-id")
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        found = file.read().strip()
        if found:
            return found
    raw = secrets.token_hex(16)
    made = "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
    with open(path, "w", encoding="ascii") as file:
        file.write(made)
    return made


async def commit(
    images: Images, container: Container, config: Json, query: Mapping[str, Any]
) -> str:
    """A container's changes as an image: its id."""
    repo = str(query.get("repo", ""))
    image = await images.commit(
        CommitRequest(
            snapshot=container.id,
            parent=container.record.image,
            container=container.id,
            config=config,
            container_config=msgspec.to_builtins(container.record.config),
            author=str(query.get("author", "")),
            comment=str(query.get("comment", "")),
            reference=make_reference(repo, str(query.get("tag", ""))) if repo else None,
        )
    )
    return image.id


# Streams and sums


def subscribe(events: EventBus, since: str, until: str, filters: Filters) -> AsyncIterator[Json]:
    """since, until: what the routes checked, seconds with an optional fraction."""
    return events.subscribe(
        since=_nanoseconds(since), until=_nanoseconds(until), matches=compile_filters(filters)
    )


def _nanoseconds(text: str) -> int | None:
    if not text:
        return None
    seconds, _, fraction = text.partition(".")
    return numbers.nanoseconds(seconds, fraction)


async def disk_usage(
    types: Sequence[str], containers: Containers, images: Images, volumes: Volumes
) -> Json:
    """`docker system df`."""
    found: Json = {}
    if "image" in types:
        found.update(await images.disk_usage())
    if "container" in types:
        import msgspec

        await containers.measure()
        rows = containers.list(everything=True, limit=0, size=True, filters={})
        found["Containers"] = [msgspec.json.decode(row) for row in rows]
    if "volume" in types:
        found["Volumes"] = list(await volumes.usage())
    if "build-cache" in types:
        found["BuildCache"] = []
    return found
