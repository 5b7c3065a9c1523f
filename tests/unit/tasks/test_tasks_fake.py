"""The fake driver keeps the drivers' contract."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gantry.containers.tasks import Tasks
from gantry.model.task import LogSpec, StdioSpec, TaskSpec
from gantry.testing.tasks import FakeTasks
from gantry.testing.tasks_contract import LogPaths, TasksContract


class FakeWorld:
    def __init__(self, folder: Path) -> None:
        self._tasks = FakeTasks()
        self._paths = LogPaths(folder, "fake")

    def open(self) -> AbstractAsyncContextManager[Tasks]:
        @contextlib.asynccontextmanager
        async def opened() -> AsyncIterator[Tasks]:
            yield self._tasks

        return opened()

    def spec(self, *args: str) -> TaskSpec:
        name, log = self._paths.next()
        config = json.dumps({"process": {"args": args}}).encode()
        return TaskSpec(name, config, (), StdioSpec(), LogSpec("json-file", log))


class TestFake(TasksContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> FakeWorld:
        return FakeWorld(tmp_path)
