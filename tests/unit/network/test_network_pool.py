"""Things made ahead: order, errors, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gantry.ipc.owner import TaskOwner
from gantry.network.pool import Pool


class Maker:
    """Makes 0, 1, 2, ...; fails while `broken`."""

    def __init__(self) -> None:
        self.made = 0
        self.discarded: list[int] = []
        self.broken = False

    async def make(self) -> int:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("no")
        self.made += 1
        return self.made - 1


def run(size: int, body: Callable[[Pool[int], Maker], object]) -> Maker:
    maker = Maker()

    async def main() -> None:
        owner = TaskOwner("test")
        pool = Pool(size, maker.make, maker.discarded.append, owner, "numbers")
        await body(pool, maker)  # type: ignore[misc]  # a coroutine function
        await pool.close()
        await owner.aclose()

    asyncio.run(main())
    return maker


def test_oldest_first_even_when_more_are_asked_for_than_there_are() -> None:
    async def body(pool: Pool[int], maker: Maker) -> None:
        assert await asyncio.gather(*(pool.take() for _ in range(9))) == list(range(9))

    run(3, body)


def test_a_pool_of_none_makes_on_demand() -> None:
    async def body(pool: Pool[int], maker: Maker) -> None:
        assert await pool.take() == 0
        assert await pool.take() == 1
        await pool.filled()
        assert maker.made == 2

    run(0, body)


def test_what_was_not_taken_is_discarded_at_the_end() -> None:
    async def body(pool: Pool[int], maker: Maker) -> None:
        assert await pool.take() == 0
        await pool.filled()

    assert run(2, body).discarded == [1, 2]


def test_an_error_is_the_callers_and_the_pool_recovers() -> None:
    async def body(pool: Pool[int], maker: Maker) -> None:
        maker.broken = True
        with pytest.raises(OSError, match="no"):
            await pool.take()
        maker.broken = False
        assert await pool.take() == 0

    run(1, body)


def test_a_caller_that_gave_up_loses_nothing() -> None:
    async def body(pool: Pool[int], maker: Maker) -> None:
        task = asyncio.ensure_future(pool.take())  # noqa: TID251  # the test awaits it
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert await pool.take() == 0

    run(1, body)
