"""TaskOwner: every task is found again, cancelled or reported."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gantry.ipc.owner import TaskOwner


def test_close_cancels_what_runs_and_waits_for_its_cleanup() -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        started = asyncio.Event()

        async def worker() -> None:
            try:
                started.set()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                seen.append("cleaned")

        owner = TaskOwner("test")
        owner.spawn(worker(), "worker")
        await started.wait()
        assert len(owner) == 1
        await owner.aclose()
        assert len(owner) == 0
        return seen

    assert asyncio.run(main()) == ["cleaned"]


def test_a_failure_is_logged_with_the_tasks_name(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def broken() -> None:
            raise ValueError("boom")

        owner = TaskOwner("test")
        owner.spawn(broken(), "broken one")
        await owner.drain()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "test: broken one failed: boom" in caplog.text


def test_nothing_starts_after_close() -> None:
    async def main() -> None:
        async def work() -> None:
            pass

        owner = TaskOwner("test")
        await owner.aclose()
        with pytest.raises(RuntimeError, match="is closed"):
            owner.spawn(work(), "late")

    asyncio.run(main())


def test_a_task_may_close_its_own_owner() -> None:
    async def main() -> bool:
        owner = TaskOwner("test")

        async def closer() -> bool:
            await owner.aclose()
            return True

        return await owner.spawn(closer(), "closer")

    assert asyncio.run(main())
