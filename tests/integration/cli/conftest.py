"""The gantry command in the place of the docker client."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.support.cli import Cli
from tests.support.engine import Engine

HERE = Path(__file__).parent
GANTRY = str(Path(sys.executable).parent / "gantry")
AS_DOCKER = "29.0"
"""Where tests ask which docker client they have: ours speaks as this one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of it needs an engine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def cli(engine: Engine) -> Cli:
    """`gantry`, talking to the engine under test."""
    return Cli(GANTRY, engine.socket, AS_DOCKER, str(engine.config))


@pytest.fixture
def each_cli(cli: Cli) -> Cli:
    """The same, for tests that were written for every docker client."""
    return cli
