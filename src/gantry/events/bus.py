"""The event bus: one sequence of what happened, to any number of listeners.

    bus.publish("container", "start", container_id, {"name": "web", "image": "nginx"})
    async for event in bus.subscribe(since=None, until=None, matches=lambda e: True): ...

An event is the Engine API's EventMessage as a dict. Publishing never waits and costs
nothing but a list entry where nobody listens; a listener that does not read is dropped
when its queue is full, so that memory is bounded. The last `RING` events are kept for
`since`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

Event = dict[str, Any]
Matches = Callable[[Event], bool]

RING: Final = 1024
BACKLOG: Final = 65536


class EventBus:
    """See the module. The event loop's own."""

    def __init__(self) -> None:
        self._ring: deque[Event] = deque(maxlen=RING)
        self._listeners: set[_Listener] = set()
        self._last = 0

    @property
    def listeners(self) -> int:
        """How many read along now (`NEventsListener` of info)."""
        return len(self._listeners)

    @property
    def last(self) -> int:
        """When the latest event was (nanoseconds); it grows with every event."""
        return self._last

    def publish(
        self,
        kind: str,
        action: str,
        actor: str,
        attributes: Mapping[str, str],
        *,
        at: int | None = None,
    ) -> Event:
        """kind: container, image, volume, network, daemon ... at: nanoseconds, now by default.

        Times never go back, so that `since` and `until` cut the sequence where clients think.
        """
        moment = max(self._last + 1, time.time_ns() if at is None else at)
        self._last = moment
        event: Event = {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": actor, "Attributes": dict(attributes)},
            "scope": "local",
            "time": moment // 1_000_000_000,
            "timeNano": moment,
        }
        self._ring.append(event)
        for listener in tuple(self._listeners):
            listener.offer(event)
        return event

    async def subscribe(
        self, *, since: int | None = None, until: int | None = None, matches: Matches
    ) -> AsyncGenerator[Event, None]:
        """Kept events from `since` on, then live ones up to `until` (both nanoseconds).

        Listening begins with the first step. Without `since` and `until` only what happens
        from now on (moby loadBufferedEvents); an `until` in the past ends after the kept ones.
        """
        listener = _Listener(matches)
        self._listeners.add(listener)
        try:
            past = [] if since is None and until is None else list(self._ring)
            for event in past:
                moment = event["timeNano"]
                if moment < (since or 0) or (until is not None and moment > until):
                    continue
                if matches(event):
                    yield event
            while True:
                wait = None if until is None else (until - time.time_ns()) / 1e9
                if wait is not None and wait <= 0:
                    return
                event_or_none = await listener.take(wait)
                if event_or_none is None:
                    return
                yield event_or_none
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """End all subscriptions."""
        for listener in self._listeners:
            listener.end()


class _Listener:
    """One reader's queue."""

    def __init__(self, matches: Matches) -> None:
        self._matches = matches
        self._queue: deque[Event] = deque()
        self._wake: asyncio.Event = asyncio.Event()
        self._ended = False

    def offer(self, event: Event) -> None:
        if self._ended or not self._matches(event):
            return
        if len(self._queue) >= BACKLOG:
            self._ended = True
        else:
            self._queue.append(event)
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    async def take(self, patience: float | None) -> Event | None:
        while not self._queue:
            if self._ended:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._wake.wait()
            except TimeoutError:
                return None
        return self._queue.popleft()
