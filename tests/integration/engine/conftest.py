"""The whole engine, killed at any moment and counted before and after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.engine import Engine

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def own_engine() -> Iterator[Engine]:
    """A gantryd of the test's own, to be killed."""
    with Engine("gantry") as engine:
        engine.add_image()
        yield engine
