"""The machine that network tests run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.machine import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A host for the engine and another one on its LAN."""
    machine = Machine()
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()
