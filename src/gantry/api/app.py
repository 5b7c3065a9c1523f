"""The application: from a request to its route and from an error to its answer.

    app = make_app(backends, version="29.0.0")
    listeners = await gantry.http.listeners.serve(app, ["unix:///var/run/docker.sock"])
    ...
    await listeners.aclose(); await app.aclose()

There is no middleware chain: version, headers and errors are the same few lines for
every request, and they are here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Final, TypeVar
from urllib.parse import unquote

from gantry.api.backend import Backends
from gantry.api.call import Call, encode
from gantry.api.errors import REASONS, PageNotFound, status_of
from gantry.api.router import Route, Router
from gantry.api.routes import (
    build,
    checkpoints,
    containers,
    debug,
    execs,
    images,
    networks,
    plugins,
    swarm,
    system,
    volumes,
    websocket,
)
from gantry.http.reply import Head, Reply, Sendable
from gantry.http.request import Request
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import GantryError, InvalidParameter
from gantry.model.numbers import clamped

T = TypeVar("T")

_log = logging.getLogger(__name__)

MIN_VERSION: Final = 24
MAX_VERSION: Final = 55

COMPOSE_V1: Final = ("docker-compose/1.", 41)
"""Compose v1 asks for the newest version there is, but reads the answers of 1.41 (an image's
ContainerConfig, an event's id), which 1.45 and 1.52 did away with: it gets those."""


def make_app(
    backends: Backends,
    *,
    version: str = "29.0.0",
    min_version: int = MIN_VERSION,
    max_version: int = MAX_VERSION,
    experimental: bool = False,
    builder_version: str = "1",
) -> App:
    """The handler to give to `gantry.http.listeners.serve`.

    version: the engine's, for the Server header. min_version, max_version: minor API
    versions (24 is 1.24). builder_version: what ping recommends to `docker build`.
    """
    return App(
        backends,
        version=version,
        min_version=min_version,
        max_version=max_version,
        experimental=experimental,
        builder_version=builder_version,
    )


def all_routes() -> list[Route]:
    """Every route, a module a resource."""
    modules = (
        system,
        containers,
        checkpoints,
        execs,
        websocket,
        images,
        networks,
        volumes,
        build,
        plugins,
        swarm,
        debug,
    )
    return [route for module in modules for route in module.ROUTES]


class App:
    """A callable that answers requests; owns the actions that outlive their client."""

    def __init__(
        self,
        backends: Backends,
        *,
        version: str,
        min_version: int,
        max_version: int,
        experimental: bool,
        builder_version: str,
    ) -> None:
        self.backends = backends
        self.experimental = experimental
        self.builder_version = builder_version
        self._min = min_version
        self._max = max_version
        self._known = {f"1.{minor}": minor for minor in range(min_version, max_version + 1)}
        self._headers = (
            ("Api-Version", f"1.{max_version}"),
            ("Docker-Experimental", "true" if experimental else "false"),
            ("Ostype", "linux"),
            ("Server", f"Docker/{version} (linux)"),
        )
        self._heads: dict[tuple[int, str], Head] = {}
        self._bare_heads: dict[int, Head] = {}
        self._router = Router(all_routes())
        self._owner = TaskOwner("api")

    async def aclose(self) -> None:
        """End what still runs; call it after the listeners are closed."""
        await self._owner.aclose()

    # Answers' heads

    def head(self, status: int, content_type: str = "application/json") -> Head:
        """The head of answers of this status and type; "" for no Content-Type."""
        head = self._heads.get((status, content_type))
        if head is None:
            kind = (("Content-Type", content_type),) if content_type else ()
            head = Head(status, REASONS.get(status, "Error"), kind + self._headers)
            self._heads[status, content_type] = head
        return head

    @property
    def header_lines(self) -> bytes:
        """The engine's headers as bytes, for hijacked answers."""
        return b"".join(f"{name}: {value}\r\n".encode() for name, value in self._headers)

    # Requests

    async def __call__(self, request: Request) -> Sendable:
        """Answer one request; never raises but for cancellation and a lost connection."""
        try:
            return await self._dispatch(request)
        except PageNotFound as error:
            return self._bare(404, str(error))
        except GantryError as error:
            status = status_of(error)
            if status >= 500:
                _log.error("%s %s: %s", request.method, request.raw_path, error)
            return self._error(status, str(error))
        except ConnectionError:
            raise
        except Exception as error:
            self.unexpected(request, error)
            return self._error(500, str(error) or type(error).__name__)

    async def _dispatch(self, request: Request) -> Sendable:
        target = request.raw_path
        path, _, query = target.partition("?")
        if not path.startswith("/"):
            path = "/" + path.partition("://")[2].partition("/")[2]  # absolute form
        if "%" in path:
            path = unquote(path)
        if "//" in path or "/./" in path or "/../" in path:
            return self._moved(path, query)
        version = self._max
        too = ""
        if path.startswith("/v") and path[2:3].isdigit():
            text, slash, rest = path[2:].partition("/")
            known = self._known.get(text)
            if known is not None:
                version = known
                path = slash + rest
            elif text.strip("0123456789."):
                raise PageNotFound
            else:
                version, too = self._unusual(text)
                path = slash + rest
        method = request.method
        if method == "OPTIONS":
            return Reply(self.head(200, ""), b"")
        found = self._router.find(method, path)
        if found is None:
            raise PageNotFound
        if too:
            if version < MIN_VERSION:
                # so old a client prints the answer as it is
                return Reply(self.head(400, "text/plain; charset=utf-8"), too.encode() + b"\n")
            raise InvalidParameter(too)
        route, name, rest = found
        if version < route.since:
            raise InvalidParameter(
                f"{method} {route.pattern} requires minimum API version 1.{route.since}"
            )
        if version > COMPOSE_V1[1] and request.headers.get("User-Agent", "").startswith(
            COMPOSE_V1[0]
        ):
            version = COMPOSE_V1[1]
        call = Call(self, request, version, name, query)
        if rest:
            call.rest = rest
        return await route.endpoint(call)

    def _unusual(self, text: str) -> tuple[int, str]:
        """A version that is not one of ours: its minor number and the refusal, if it is one."""
        numbers = [clamped(part or "0") for part in text.split(".")]
        numbers += [0] * (2 - len(numbers))
        if numbers < [1, self._min]:
            return (
                -1 if numbers < [1, MIN_VERSION] else numbers[1],
                f"client version {text} is too old. Minimum supported API version is "
                f"1.{self._min}, please upgrade your client to a newer version",
            )
        while numbers and numbers[-1] == 0 and len(numbers) > 2:
            numbers.pop()
        if numbers > [1, self._max]:
            return (
                self._max,
                f"client version {text} is too new. Maximum supported API version is 1.{self._max}",
            )
        return numbers[1], ""

    # Errors

    def _error(self, status: int, message: str) -> Reply:
        if status == 304:
            return Reply(self.head(status, ""), None)
        return Reply(self.head(status), encode({"message": message}) + b"\n")

    def _bare(self, status: int, message: str) -> Reply:
        head = self._bare_heads.get(status)
        if head is None:
            head = Head(status, REASONS[status], (("Content-Type", "application/json"),))
            self._bare_heads[status] = head
        return Reply(head, encode({"message": message}) + b"\n")

    def _moved(self, path: str, query: str) -> Reply:
        """An unclean path is answered with where the clean one is, as Go's routers do."""
        parts: list[str] = []
        for part in path.split("/"):
            if part == "..":
                del parts[-1:]
            elif part not in ("", "."):
                parts.append(part)
        clean = "/" + "/".join(parts) + ("/" if path.endswith("/") and parts else "")
        location = clean + (f"?{query}" if query else "")
        safe = "".join(char for char in location if " " < char < "\x7f")
        return Reply(Head(301, REASONS[301], ()), b"", b"Location: " + safe.encode() + b"\r\n")

    def unexpected(self, request: Request, error: BaseException) -> None:
        """An exception outside the taxonomy: a defect of ours."""
        _log.error("%s %s: unexpected %s", request.method, request.raw_path, error, exc_info=error)

    # Actions

    async def finish(self, action: Coroutine[object, object, T]) -> T:
        """Run an action to its end though its caller may be cancelled (the client left)."""

        async def run() -> tuple[T | None, Exception | None]:
            try:
                return await action, None
            except Exception as error:
                return None, error

        value, error = await asyncio.shield(self._owner.spawn(run(), "action"))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # without an error it is a T
