"""Create, start, ends, restart policies, removal, waits and recovery, over fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gantry.model.container import (
    ContainerConfig,
    CreateRequest,
    HostConfig,
    MountSpec,
    RestartPolicy,
    UpdateRequest,
)
from gantry.model.errors import (
    Conflict,
    InvalidParameter,
    NotFound,
    NotModified,
    StartFailed,
    System,
)
from gantry.model.image import ImageConfig
from gantry.testing.containers import World

Scenario = Callable[[World], Awaitable[None]]


def play(root: Path, scenario: Scenario) -> None:
    async def run() -> None:
        world = World(root)
        try:
            await scenario(world)
        finally:
            await world.aclose()

    asyncio.run(run())


def test_a_life(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        stream = world.bus.subscribe(since=0, matches=lambda e: True)
        created = await world.create("sh", "-c", "echo hi; exit 3", name="one")
        assert world.status("one") == "created"
        await world.containers.start(created[:12])
        assert await world.wait("/one") == 3
        assert world.status("one") == "exited"
        await world.containers.remove("one", force=False, volumes=False, link=False)
        with pytest.raises(NotFound, match="No such container: one"):
            world.containers.inspect("one", size=False)
        assert await world.actions(stream, "destroy") == ["create", "start", "die", "destroy"]
        assert world.snapshots.keys == {}
        assert world.networks.live == {}
        await world.containers.core.owner.drain()
        assert not list((tmp_path / "containers").iterdir())

    play(tmp_path, scenario)


def test_names_and_prefixes(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        first = await world.create("true", name="same")
        with pytest.raises(
            Conflict, match=f'The container name "/same" is already in use by container "{first}"'
        ):
            await world.create("true", name="/same")
        with pytest.raises(InvalidParameter, match=r"Invalid container name \(a b\), only"):
            await world.create("true", name="a b")
        with pytest.raises(InvalidParameter, match=r"Invalid container name \(-x\)"):
            await world.create("true", name="-x")
        ids = [await world.create("true") for _ in range(17)]
        shared = next(c for c in "0123456789abcdef" if sum(i[0] == c for i in ids) > 1)
        with pytest.raises(InvalidParameter, match="Multiple IDs found with provided prefix"):
            world.core.table.get(shared)
        named = world.core.table.get(await world.create("true")).name
        assert "_" in named
        await world.containers.rename("same", "other")
        assert world.core.table.get("other").id == first
        assert world.containers.inspect("other", size=False)["Name"] == "/other"
        await world.create("true", name="same")
        with pytest.raises(Conflict, match="Error when allocating new name: Conflict"):
            await world.containers.rename("other", "same")
        with pytest.raises(InvalidParameter, match="same name as its current name"):
            await world.containers.rename("other", "other")

    play(tmp_path, scenario)


def test_a_create_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(NotFound, match="No such image: nope:latest"):
            await world.create(config=ContainerConfig(image="nope"), name="xx")
        world.images.add("bare", ImageConfig(), "sha256:" + "12" * 32)
        with pytest.raises(InvalidParameter, match="no command specified"):
            await world.create(config=ContainerConfig(image="bare"), name="xx")
        with pytest.raises(InvalidParameter, match="No such container: gone"):
            await world.create("true", name="xx", host=HostConfig(volumes_from=["gone"]))
        with pytest.raises(InvalidParameter, match="volume name is too short"):
            await world.create("true", name="xx", host=HostConfig(binds=["v:/v"]))
        assert world.snapshots.keys == {}
        assert not list((tmp_path / "containers").iterdir())
        await world.create("true", name="xx")

    play(tmp_path, scenario)


def test_start_failures(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        created = await world.create("nonsense", name="bad")
        waiting = await world.containers.wait("bad", "next-exit")
        with pytest.raises(StartFailed, match="executable file not found"):
            await world.containers.start("bad")
        answer = await waiting.result()
        assert answer["StatusCode"] == 127
        assert "executable file not found" in answer["Error"]["Message"]
        state = world.containers.inspect("bad", size=False)["State"]
        assert (state["Status"], state["ExitCode"]) == ("created", 127)
        assert "not found" in state["Error"]
        assert world.networks.live == {}
        assert created in world.snapshots.keys

        world.networks.refuse = System("port is taken")
        other = await world.create("true")
        with pytest.raises(System, match="port is taken"):
            await world.containers.start(other)
        assert world.containers.inspect(other, size=False)["State"]["ExitCode"] == 128
        world.networks.refuse = None
        await world.containers.start(other)
        assert await world.wait(other) == 0

        gone = await world.create("nonsense", host=HostConfig(auto_remove=True))
        removed = await world.containers.wait(gone, "removed")
        with pytest.raises(StartFailed):
            await world.containers.start(gone)
        assert (await removed.result())["StatusCode"] == 127

    play(tmp_path, scenario)


def test_stop_kill_and_running_conflicts(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        running = await world.run("sleep", "1000", name="rr")
        with pytest.raises(NotModified):
            await world.containers.start("rr")
        with pytest.raises(Conflict, match="container is running: stop the container before"):
            await world.containers.remove("rr", force=False, volumes=False, link=False)
        await world.containers.pause("rr")
        assert world.status("rr") == "paused"
        with pytest.raises(Conflict, match="is already paused"):
            await world.containers.pause("rr")
        with pytest.raises(Conflict, match="unpause the container before exec"):
            from gantry.model.container import ExecCreate

            await world.containers.execs.create("rr", ExecCreate(cmd=["true"]))
        await world.containers.unpause("rr")
        await world.containers.stop("rr", signal=None, timeout=5)
        assert await world.wait(running) == 143
        with pytest.raises(NotModified):
            await world.containers.stop("rr", signal=None, timeout=5)
        with pytest.raises(Conflict, match="is not running"):
            await world.containers.kill("rr", "KILL")
        await world.containers.restart("rr", signal=None, timeout=1)
        assert world.status("rr") == "running"
        with pytest.raises(InvalidParameter, match="invalid signal: NOPE"):
            await world.containers.kill("rr", "NOPE")
        await world.containers.kill("rr", "SIGKILL")
        assert await world.wait("rr") == 137
        await world.containers.start("rr")
        await world.containers.remove("rr", force=True, volumes=False, link=False)
        assert world.core.table.find("rr") is None
        assert world.tasks.running == {}

    play(tmp_path, scenario)


def test_auto_remove_and_the_wait_for_it(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        created = await world.create("sh", "-c", "exit 9", host=HostConfig(auto_remove=True))
        waiting = await world.containers.wait(created, "removed")
        await world.containers.start(created)
        assert (await waiting.result())["StatusCode"] == 9
        assert world.core.table.find(created) is None
        assert world.snapshots.keys == {}

    play(tmp_path, scenario)


def test_restart_policies(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        twice = HostConfig(restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=2))
        failing = await world.run("sh", "-c", "exit 1", host=twice)
        async with asyncio.timeout(5):
            while world.status(failing) != "exited":  # a wait is over before every restart
                assert await world.wait(failing) == 1
                await asyncio.sleep(0.01)
        assert world.containers.inspect(failing, size=False)["RestartCount"] == 2
        fine = await world.run("true", host=twice)
        assert await world.wait(fine) == 0
        assert world.containers.inspect(fine, size=False)["RestartCount"] == 0

        always = HostConfig(restart_policy=RestartPolicy(name="always"))
        again = await world.run("sh", "-c", "exit 0", host=always)
        async with asyncio.timeout(5):
            assert await world.wait(again, "next-exit") == 0
            assert await world.wait(again, "next-exit") == 0
        await world.containers.stop(again, signal=None, timeout=1)
        assert world.status(again) == "exited"
        await asyncio.sleep(0.3)
        assert world.status(again) == "exited"

    play(tmp_path, scenario)


def test_attach_before_the_start_loses_nothing(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        created = await world.create("echo", "first words")
        attachment = await world.containers.attach(
            created,
            stdin=False,
            stdout=True,
            stderr=True,
            logs=False,
            stream=True,
            detach_keys=None,
        )
        await world.containers.start(created)
        stream = await attachment.stream()
        assert await stream.read() == b"\x01\0\0\0\0\0\0\x0cfirst words\n"
        assert await stream.read() == b""
        await attachment.close()
        pieces = world.containers.logs(
            created,
            stdout=True,
            stderr=True,
            since="",
            until="",
            timestamps=False,
            follow=True,
            tail="all",
            details=False,
        )
        assert b"".join([piece async for piece in pieces]).endswith(b"first words\n")

        never = await world.create("true")
        waiting = await world.containers.attach(
            never,
            stdin=False,
            stdout=True,
            stderr=True,
            logs=False,
            stream=True,
            detach_keys=None,
        )
        await world.containers.remove(never, force=False, volumes=False, link=False)
        assert await (await waiting.stream()).read() == b""

    play(tmp_path, scenario)


def test_volumes_of_a_container(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        host = HostConfig(
            binds=["data:/data:ro"],
            mounts=[MountSpec(type="volume", target="/anon")],
        )
        created = await world.create("true", host=host)
        mounts = world.containers.inspect(created, size=False)["Mounts"]
        named = {m["Destination"]: m["Name"] for m in mounts}
        assert named["/data"] == "data"
        assert len(named["/anon"]) == 64
        with pytest.raises(Conflict, match=r"remove data: volume is in use - \["):
            await world.volumes.remove("data", force=False)
        await world.containers.start(created)
        await world.wait(created)
        await world.containers.remove(created, force=False, volumes=True, link=False)
        left = [v["Name"] for v in (await world.volumes.list({}))["Volumes"]]
        assert left == ["data"]

    play(tmp_path, scenario)


def test_update_and_prune(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        running = await world.run("sleep", "100")
        request = UpdateRequest(
            resources={"Memory": 64 << 20, "MemorySwap": -1, "PidsLimit": 9},
            restart_policy=RestartPolicy(name="unless-stopped"),
            labels={"a": "b"},
        )
        assert await world.containers.update(running, request) == []
        host = world.containers.inspect(running, size=False)["HostConfig"]
        assert (host["Memory"], host["PidsLimit"]) == (64 << 20, 9)
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert b'"limit":67108864' in world.tasks.running[running].updates[0]
        with pytest.raises(InvalidParameter, match="Minimum memory limit allowed is 6MB"):
            await world.containers.update(running, UpdateRequest(resources={"Memory": 5}))
        await world.create("true", name="old")
        report = await world.containers.prune({})
        assert len(report["ContainersDeleted"]) == 1
        assert report["SpaceReclaimed"] == 12
        with pytest.raises(InvalidParameter, match="invalid filter 'nope'"):
            await world.containers.prune({"nope": ["1"]})

    play(tmp_path, scenario)


def test_the_next_daemon_finds_everything(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        running = await world.run("sleep", "1000", name="running")
        ended = await world.run("sh", "-c", "sleep 0.5; exit 7", name="ended")
        gone = await world.run("sleep", "0.5", host=HostConfig(auto_remove=True))
        always = HostConfig(restart_policy=RestartPolicy(name="always"))
        again = await world.run("sh", "-c", "sleep 0.5; exit 2", host=always)
        await world.create("true", name="waiting")
        stopped = await world.run("sleep", "1000", name="stopped", host=always)
        await world.containers.stop("stopped", signal=None, timeout=1)
        started = world.containers.inspect(running, size=False)["State"]["StartedAt"]
        world.snapshots.prepare("99" * 32, None)  # a create that was cut off

        tasks = [world.tasks.running[c] for c in (ended, gone, again)]
        following = await world.restart()
        try:
            async with asyncio.timeout(10):
                for task in tasks:
                    await task.wait()
                assert await following.wait("ended") == 7
                while following.core.table.find(gone) is not None:
                    await asyncio.sleep(0.01)
                while following.containers.inspect(again, size=False)["RestartCount"] < 1:
                    await asyncio.sleep(0.01)
                while following.status(stopped) != "running":
                    await asyncio.sleep(0.01)  # always means always, after a restart
            assert following.status("running") == "running"
            state = following.containers.inspect(running, size=False)["State"]
            assert state["StartedAt"] == started
            assert following.status("waiting") == "created"
            assert (running, state["Pid"]) in following.networks.adopted
            assert "99" * 32 not in following.snapshots.keys
        finally:
            await following.aclose()
            world.database = following.database

    async def run() -> None:
        world = World(tmp_path)
        await scenario(world)

    asyncio.run(run())


def test_lists(tmp_path: Path) -> None:
    import json

    async def scenario(world: World) -> None:
        first = await world.run("sleep", "1000", name="first")
        await world.create("true", name="second")

        def names(**filters: list[str]) -> list[str]:
            rows = world.containers.list(everything=True, limit=0, size=False, filters=filters)
            return [json.loads(row)["Names"][0] for row in rows]

        rows = world.containers.list(everything=False, limit=0, size=False, filters={})
        row = json.loads(rows[0])
        assert row["Id"] == first
        assert row["Status"].startswith("Up ")
        assert row["Image"] == "busybox"
        assert names() == ["/second", "/first"]
        assert names(status=["created"]) == ["/second"]
        assert names(name=["fir"]) == ["/first"]
        assert names(since=["first"]) == ["/second"]
        assert names(before=["second"]) == ["/first"]
        assert names(ancestor=["busybox"]) == ["/second", "/first"]
        with pytest.raises(InvalidParameter, match="invalid filter 'color'"):
            names(color=["x"])
        with pytest.raises(InvalidParameter, match="invalid filter 'status=odd'"):
            names(status=["odd"])
        # the row is the very same bytes until something happens
        again = world.containers.list(everything=False, limit=0, size=False, filters={})
        assert again == rows or json.loads(again[0])["Status"] != row["Status"]
        await world.containers.rename("first", "third")
        assert names(name=["^third$"]) == ["/third"]

    play(tmp_path, scenario)


def test_create_takes_from_the_image(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.images.add(
            "app",
            ImageConfig(
                env=["PATH=/x", "A=1"],
                entrypoint=["/entry"],
                cmd=["default"],
                labels={"l": "image", "k": "image"},
                working_dir="/srv",
                user="www",
                stop_signal="SIGQUIT",
            ),
        )
        config = ContainerConfig(image="app", env=["A=2"], labels={"k": "own"})
        created = (await world.containers.create(CreateRequest(config=config))).id
        shown = world.containers.inspect(created, size=False)
        assert (shown["Path"], shown["Args"]) == ("/entry", ["default"])
        assert shown["Config"]["Env"] == ["A=2", "PATH=/x"]
        assert shown["Config"]["Labels"] == {"l": "image", "k": "own"}
        assert shown["Config"]["WorkingDir"] == "/srv"
        assert shown["Config"]["StopSignal"] == "SIGQUIT"
        reset = ContainerConfig(image="app", entrypoint=[""], cmd=["own"])
        other = (await world.containers.create(CreateRequest(config=reset))).id
        shown = world.containers.inspect(other, size=False)
        assert (shown["Path"], shown["Args"]) == ("own", [])

    play(tmp_path, scenario)
