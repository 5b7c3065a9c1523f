"""The shim driver keeps the drivers' contract, with real containers."""

from __future__ import annotations

import pytest

from gantry.testing.tasks_contract import TasksContract

pytestmark = pytest.mark.integration


class TestShims(TasksContract):
    """`world` comes from conftest, once for each runtime."""
