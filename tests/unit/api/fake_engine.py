"""An application over fakes, served on a socket, and one client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.unit.http.wire_client import Answer, Client, connected, serving

from gantry.api.app import App, make_app
from gantry.testing.api import FakeBackends


@dataclass
class Served:
    """What a test needs."""

    fakes: FakeBackends
    client: Client
    path: Path
    app: App

    async def get(self, target: str, headers: str = "") -> Answer:
        return await self.client.request("GET", target, headers=headers)

    async def post(self, target: str, body: object = None, headers: str = "") -> Answer:
        return await self.client.request("POST", target, body, headers)


@asynccontextmanager
async def engine(folder: Path, **options: int) -> AsyncIterator[Served]:
    """Serve; everything is closed in the end."""
    fakes = FakeBackends()
    app = make_app(fakes, **options)  # type: ignore[arg-type]  # only numbers are given here
    try:
        async with serving(app, folder) as (path, _), connected(path) as client:
            yield Served(fakes, client, path, app)
    finally:
        await app.aclose()
