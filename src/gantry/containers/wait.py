"""POST /containers/{id}/wait: registered at once, answered when it happens."""

from __future__ import annotations

import asyncio
from typing import Any

from gantry.containers.core import Core
from gantry.model.errors import InvalidParameter

Json = dict[str, Any]


class Wait:
    """A registered wait."""

    def __init__(self, future: asyncio.Future[tuple[int, str]]) -> None:
        self._future = future

    async def result(self) -> Json:
        """{"StatusCode": int}, with "Error" when the container could not be started."""
        try:
            code, error = await self._future
        except asyncio.CancelledError:
            self._future.cancel()
            raise
        answer: Json = {"StatusCode": code}
        if error:
            answer["Error"] = {"Message": error}
        return answer


class Waits:
    """condition: "" or not-running, next-exit, removed."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def wait(self, name: str, condition: str) -> Wait:
        container = self._core.table.get(name)
        live, state = container.live, container.state
        future: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        if condition in ("", "not-running"):
            if state.running:
                live.not_running.append(future)
            else:
                future.set_result((state.exit_code, ""))
        elif condition == "next-exit":
            live.next_exit.append(future)
        elif condition == "removed":
            live.removed.append(future)
        else:
            raise InvalidParameter(f'invalid condition: "{condition}"')
        return Wait(future)
