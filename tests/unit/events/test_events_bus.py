"""The event bus: order, the past, the end, slow readers; and Docker's filters."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from gantry.events import bus as module
from gantry.events.bus import Event, EventBus
from gantry.events.filters import compile_filters


def every(event: Event) -> bool:
    return True


async def collect(bus: EventBus, count: int, since: int | None = None) -> list[str]:
    found: list[str] = []
    async with (
        asyncio.timeout(5),
        contextlib.aclosing(bus.subscribe(since=since, matches=every)) as stream,
    ):
        async for event in stream:
            found.append(event["Action"])
            if len(found) == count:
                break
    return found


def test_events_come_in_order_past_ones_first() -> None:
    async def scenario() -> None:
        bus = EventBus()
        bus.publish("container", "create", "id", {})
        reading = asyncio.get_running_loop().create_task(  # awaited below
            collect(bus, 3, since=0)
        )
        await asyncio.sleep(0)
        assert bus.listeners == 1
        bus.publish("container", "start", "id", {})
        bus.publish("container", "die", "id", {})
        assert await reading == ["create", "start", "die"]
        assert bus.listeners == 0

    asyncio.run(scenario())


def test_times_never_go_back() -> None:
    bus = EventBus()
    first = bus.publish("image", "tag", "x", {}, at=100)
    second = bus.publish("image", "tag", "x", {}, at=50)
    assert second["timeNano"] > first["timeNano"]
    assert second["time"] == second["timeNano"] // 10**9


def test_until_ends_the_stream() -> None:
    async def scenario() -> None:
        bus = EventBus()
        bus.publish("image", "pull", "x", {})
        past = [e async for e in bus.subscribe(since=0, until=time.time_ns(), matches=every)]
        assert len(past) == 1
        now = time.time_ns()  # without `since`, too
        assert [e async for e in bus.subscribe(until=now, matches=every)] == past
        soon = time.time_ns() + 50_000_000
        assert [e async for e in bus.subscribe(since=now, until=soon, matches=every)] == []

    asyncio.run(scenario())


def test_a_reader_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG", 3)

    async def scenario() -> None:
        bus = EventBus()
        stream = bus.subscribe(since=None, matches=every)
        first = asyncio.get_running_loop().create_task(  # awaited below
            following(stream)
        )
        await asyncio.sleep(0)
        for number in range(10):
            bus.publish("image", str(number), "x", {})
        await first
        assert [e["Action"] async for e in stream] == ["1", "2"]

    asyncio.run(scenario())


async def following(stream: AsyncIterator[Event]) -> Event:
    return await anext(stream)


EVENT: Event = {
    "Type": "container",
    "Action": "exec_create: ls",
    "Actor": {
        "ID": "abcdef",
        "Attributes": {"name": "web", "image": "nginx:1.25", "color": "red", "tier": "1"},
    },
    "scope": "local",
}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, True),
        ({"container": ["web"]}, True),
        ({"container": ["abc"]}, True),
        ({"container": ["other"]}, False),
        ({"type": ["container"]}, True),
        ({"type": ["image"]}, False),
        ({"event": ["exec_create"]}, True),
        ({"event": ["exec_create: ls"]}, True),
        ({"event": ["exec"]}, False),
        ({"image": ["nginx"]}, True),
        ({"image": ["nginx:1.25"]}, True),
        ({"image": ["nginx:1"]}, False),
        ({"label": ["color=red", "tier"]}, True),
        ({"label": ["color=blue"]}, False),
        ({"scope": ["local"], "type": ["container", "image"]}, True),
    ],
)
def test_filters(filters: dict[str, list[str]], expected: bool) -> None:
    assert compile_filters(filters)(EVENT) is expected


def test_unknown_filters_are_passed_over() -> None:
    assert compile_filters({"odd": ["x"]})(EVENT)
