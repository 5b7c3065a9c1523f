"""What all tests share: the engine under test, its clients, and what is skipped where."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.support import engine as engines
from tests.support.api import Api
from tests.support.cli import Cli, clients
from tests.support.engine import Engine

# A slow machine is no defect of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root where we are not root."""
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root")
    for item in items:
        if item.get_closest_marker("integration") or item.get_closest_marker("compat"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[Engine]:
    """One engine with a busybox image for all tests that leave it as they found it."""
    with engines.under_test() as engine:
        engine.add_image()
        yield engine


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """The shared engine; its containers are removed after the test, itself has to live on."""
    yield shared_engine
    process = shared_engine.process
    if process is None or process.poll() is not None:
        shared_engine.start()
        pytest.fail(f"the engine died:\n{shared_engine.tail()}")
    shared_engine.clean()


@pytest.fixture
def api(engine: Engine) -> Iterator[Api]:
    """An API client without a version in its paths."""
    with engine.api() as client:
        yield client


@pytest.fixture
def cli(engine: Engine) -> Cli:
    """The newest docker client there is."""
    return engine.cli()


@pytest.fixture(params=list(clients()) or [""])
def each_cli(request: pytest.FixtureRequest, engine: Engine) -> Cli:
    """Each docker client there is."""
    if not request.param:
        pytest.fail("no docker client: apt-get install docker.io")
    return engine.cli(str(request.param))


@pytest.fixture(scope="session")
def is_gantry() -> bool:
    """Whether the engine under test is ours, for the few places where a difference is meant."""
    return engines.chosen() == "gantry"
