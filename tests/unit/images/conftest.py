"""Image services over real files, with either kind of snapshots."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.imagebox import (
    Body,
    ImageBox,
)


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
