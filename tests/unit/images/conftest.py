"""Image services over real files, with either kind of snapshots."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.exchange import Exchange, Served
from tests.support.imagebox import Body, ImageBox
from tests.support.ownregistry import own_registry


@pytest.fixture(params=["overlay2", "vfs"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Body], None]:
    if request.param == "overlay2" and os.geteuid() != 0:
        pytest.skip("needs root")

    def runner(body: Body) -> None:
        async def main() -> None:
            async with ImageBox(tmp_path, request.param) as box:
                await body(box)

        asyncio.run(main())

    return runner


@pytest.fixture
def served(tmp_path: Path) -> Served:
    driver = "overlay2" if os.geteuid() == 0 else "vfs"

    def runner(body: Exchange) -> None:
        async def main() -> None:
            async with (
                own_registry(tmp_path / "registry") as registry,
                ImageBox(tmp_path / "box", driver) as box,
            ):
                box.images.transfers.retry_delay = 0.0
                box.images.pusher.retry_delay = 0.0
                await body(box, registry)

        asyncio.run(main())

    return runner
