"""The containers' services over fakes: no root, no kernel, no processes.

    world = World(tmp_path)
    await world.containers.create(...)
    ...
    await world.aclose()

Only what is below is fake: the task driver (`gantry.testing.tasks`), networks, images and
snapshots. Store, volumes, events and the services themselves are the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gantry.containers.core import Core
from gantry.containers.service import Containers
from gantry.containers.settings import Settings
from gantry.events.bus import EventBus
from gantry.model.container import ContainerConfig, CreateRequest, HostConfig
from gantry.model.errors import Conflict, NotFound
from gantry.model.image import Image, ImageConfig
from gantry.model.mount import Mount
from gantry.model.network import (
    EndpointConfig,
    EndpointState,
    HostPort,
    Ports,
    Sandbox,
    SandboxRequest,
    SandboxState,
)
from gantry.model.snapshot import Flavour, Kind, LayerFolder, SnapshotInfo, Usage
from gantry.store.containers import ContainerStore
from gantry.store.database import Database
from gantry.store.volumes import VolumeStore
from gantry.testing.tasks import FakeTasks, Program
from gantry.volumes.service import Volumes

IMAGE_ID = "sha256:" + "ab" * 32


class FakeImages:
    """`gantry.containers.ports.Images`: images by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Image] = {}

    def add(self, name: str, config: ImageConfig, image_id: str = IMAGE_ID) -> Image:
        """An image without layers."""
        image = Image(
            id=image_id,
            manifest=image_id,
            config=config,
            diff_ids=(),
            chain_ids=(),
            architecture="amd64",
            os="linux",
        )
        self.by_name[name] = self.by_name[image_id] = image
        return image

    def released(self) -> None:
        pass

    def resolve(self, name: str) -> Image:
        found = self.by_name.get(name) or self.by_name.get(name.removesuffix(":latest"))
        if found is None:
            raise NotFound(f"No such image: {name if ':' in name else name + ':latest'}")
        return found

    def children(self, image_id: str) -> set[str]:
        return set()


class FakeNetworks:
    """`gantry.containers.ports.Networks`: an address for everybody; ports are remembered."""

    def __init__(self) -> None:
        self.live: dict[str, SandboxRequest] = {}
        self.adopted: list[tuple[str, int]] = []
        self.refuse: Exception | None = None
        self._count = 1

    async def allocate(self, request: SandboxRequest) -> Sandbox:
        if self.refuse is not None:
            raise self.refuse
        if request.container_id in self.live:
            raise Conflict("it has one already")
        self.live[request.container_id] = request
        return self._sandbox(request)

    async def release(self, container_id: str) -> None:
        self.live.pop(container_id, None)

    async def adopt(self, request: SandboxRequest, pid: int, saved: SandboxState) -> Sandbox:
        self.adopted.append((request.container_id, pid))
        self.live[request.container_id] = request
        return self._sandbox(request)

    async def update_ports(
        self, container_id: str, port_bindings: Mapping[str, Sequence[HostPort]]
    ) -> Sandbox:
        request = replace(self.live[container_id], port_bindings=port_bindings)
        self.live[container_id] = request
        return self._sandbox(request)

    async def join(self, container_id: str, network: str, config: EndpointConfig) -> Sandbox:
        if self.refuse is not None:
            raise self.refuse
        request = self.live[container_id]
        self.live[container_id] = replace(request, endpoints={**request.endpoints, network: config})
        return self._sandbox(self.live[container_id])

    async def leave(self, container_id: str, network: str) -> Sandbox:
        request = self.live[container_id]
        left = {name: config for name, config in request.endpoints.items() if name != network}
        self.live[container_id] = replace(request, endpoints=left)
        return self._sandbox(self.live[container_id])

    async def rename(self, container_id: str, name: str) -> None:
        if container_id in self.live:
            self.live[container_id] = replace(self.live[container_id], name=name)

    async def relink(self, container_id: str, links: Sequence[str]) -> Sandbox | None:
        return None

    async def linking(self, container_id: str) -> Mapping[str, Sandbox]:
        return {}

    def resolve(self, term: str) -> tuple[str, str]:
        return term, term

    def check_endpoint(self, network: str, config: EndpointConfig) -> tuple[str, str]:
        return network, network

    def _sandbox(self, request: SandboxRequest) -> Sandbox:
        self._count += 1
        endpoint = EndpointState(
            network=request.mode,
            network_id="cd" * 32,
            endpoint_id="ef" * 32,
            ip=f"172.17.0.{self._count}",
            prefix=16,
            gateway="172.17.0.1",
            mac="02:42:ac:11:00:02",
        )
        ports: Ports = {
            port: [(ip or "0.0.0.0", number or "49153") for ip, number in pairs]
            for port, pairs in request.port_bindings.items()
        }
        return Sandbox(
            netns_fd=None,
            hostname=request.hostname,
            endpoints={request.mode: endpoint},
            ports=ports,
            hosts=b"127.0.0.1\tlocalhost\n",
            resolv_conf=b"nameserver 192.0.2.1\n",
            state=SandboxState(request.mode, (endpoint,)),
        )


class FakeSnapshots:
    """`gantry.model.snapshot.Snapshotter`: each active snapshot a folder of its own."""

    name = "fake"
    detached_layers = False

    def __init__(self, root: Path) -> None:
        self._root = root
        self.keys: dict[str, str | None] = {}

    def prepare(
        self, key: str, parent: str | None, *, options: Mapping[str, str] = {}
    ) -> tuple[Mount, ...]:
        if key in self.keys:
            raise Conflict(f"snapshot {key} exists")
        self.keys[key] = parent
        (self._root / key).mkdir(parents=True)
        return self.mounts(key)

    def view(self, key: str, parent: str | None) -> tuple[Mount, ...]:
        return self.prepare(key, parent)

    def mounts(self, key: str) -> tuple[Mount, ...]:
        if key not in self.keys:
            raise NotFound(f"snapshot {key} does not exist")
        return (Mount("bind", str(self._root / key), ("rbind",)),)

    def commit(self, name: str, key: str, *, parent: str | None = None) -> None:
        self.keys[name] = self.keys.pop(key)

    def remove(self, key: str) -> None:
        if self.keys.pop(key, self) is self:
            raise NotFound(f"snapshot {key} does not exist")

    def stat(self, key: str) -> SnapshotInfo:
        return SnapshotInfo(key, Kind.ACTIVE, self.keys[key])

    def exists(self, key: str) -> bool:
        return key in self.keys

    def usage(self, key: str) -> Usage:
        return Usage(12, 1)

    def walk(self) -> Iterator[SnapshotInfo]:
        return iter([self.stat(key) for key in self.keys])

    def layer(self, key: str) -> LayerFolder:
        return LayerFolder(str(self._root / key), Flavour.PLAIN)

    def graph_driver_data(self, key: str) -> dict[str, str]:
        return {"Dir": str(self._root / key)}

    def status(self) -> Sequence[tuple[str, str]]:
        return ()

    def cleanup(self) -> None:
        return

    def close(self) -> None:
        return


class World:
    """One engine's containers. `restart` makes the next daemon on the same state."""

    def __init__(
        self,
        root: Path,
        *,
        programs: Mapping[str, Program] | None = None,
        tasks: FakeTasks | None = None,
        live_restore: bool = True,
    ) -> None:
        self._root = root
        self._live_restore = live_restore
        self.tasks = tasks or FakeTasks(programs)
        self.database = Database(str(root / "gantry.db"))
        self.bus = EventBus()
        self.images = FakeImages()
        self.networks = FakeNetworks()
        self.snapshots = FakeSnapshots(root / "snapshots")
        self.images.add("busybox", ImageConfig(cmd=["sh"], env=["PATH=/bin"]))
        self.events: list[dict[str, Any]] = []

        def volume_event(action: str, name: str, attributes: Mapping[str, str]) -> None:
            self.bus.publish("volume", action, name, attributes)

        self.volumes = Volumes(str(root / "volumes"), VolumeStore(self.database), volume_event)
        self.core = Core(
            settings=Settings(
                data_root=str(root), exec_root=str(root / "run"), live_restore=live_restore
            ),
            store=ContainerStore(self.database),
            tasks=self.tasks,
            networks=self.networks,
            images=self.images,
            snapshots=self.snapshots,
            volumes=self.volumes,
            events=self.bus,
        )
        self.containers = Containers(self.core)
        self.containers.recovery.load()

    async def create(
        self,
        *argv: str,
        name: str = "",
        host: HostConfig | None = None,
        config: ContainerConfig | None = None,
    ) -> str:
        """A container of busybox; its id."""
        base = config or ContainerConfig(image="busybox", cmd=list(argv) or None)
        request = CreateRequest(name=name, config=base, host_config=host or HostConfig())
        return (await self.containers.create(request)).id

    async def run(self, *argv: str, name: str = "", host: HostConfig | None = None) -> str:
        """Create and start."""
        container_id = await self.create(*argv, name=name, host=host)
        await self.containers.start(container_id)
        return container_id

    async def wait(self, name: str, condition: str = "") -> int:
        """The exit code."""
        waiting = await self.containers.wait(name, condition)
        code = (await waiting.result())["StatusCode"]
        assert isinstance(code, int)
        return code

    def status(self, name: str) -> str:
        status = self.containers.inspect(name, size=False)["State"]["Status"]
        assert isinstance(status, str)
        return status

    async def restart(self) -> World:
        """The daemon is killed: what it noted is written, and the next one finds it again."""
        await self.core.owner.aclose()
        await self.database.aclose()
        following = World(self._root, tasks=self.tasks, live_restore=self._live_restore)
        following.snapshots.keys = self.snapshots.keys
        await following.containers.recovery.find()
        await following.containers.recovery.revive()
        return following

    async def aclose(self) -> None:
        await self.containers.shutdown()
        await self.tasks.aclose()
        await self.database.aclose()

    async def actions(self, stream: AsyncIterator[dict[str, Any]], last: str) -> list[str]:
        """Actions of containers' events up to `last`."""
        found: list[str] = []
        async with asyncio.timeout(10):
            async for event in stream:
                if event["Type"] == "container":
                    found.append(event["Action"])
                    if event["Action"] == last:
                        break
        return found
