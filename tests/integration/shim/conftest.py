"""Worlds of real containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.shim.shim_world import ShimWorld

RUNC = "/usr/bin/runc"


@pytest.fixture(params=["gantry", "own-starters", "runc"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShimWorld]:
    """Containers by our own runtime, as new and as old kernels have it, and by runc."""
    starters = request.param != "own-starters"
    runtime = request.param if starters else "gantry"
    if runtime == "runc":
        if not os.path.exists(RUNC):
            pytest.skip("needs runc")
        runtime = RUNC
    made = ShimWorld(tmp_path, runtime, starters=starters)
    yield made
    made.clean()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ShimWorld]:
    """Containers by our own runtime."""
    made = ShimWorld(tmp_path, "gantry")
    yield made
    made.clean()
