"""The pull-through cache: blobs pass through as they come, and only whole ones stay."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.support.imagebox import digest
from tests.support.ownregistry import OwnRegistry, broken_after, own_registry

from gantry.content.store import ContentStore
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.server.proxy import Upstream
from gantry.registry.server.repositories import Repositories
from gantry.registry.settings import parse_settings

Body = Callable[[OwnRegistry, OwnRegistry], Awaitable[None]]

DATA = os.urandom(3 << 20)
PATH = f"/v2/x/blobs/{digest(DATA)}"


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Body], None]:
    """A registry with one blob, and a cache of it."""

    def runner(body: Body) -> None:
        async def main() -> None:
            async with own_registry(tmp_path / "upstream") as upstream:
                content = ContentStore(str(tmp_path / "cache" / "content"))

                def make(repositories: Repositories) -> Upstream:
                    client = RegistryClient(parse_settings())
                    return Upstream(client, upstream.host, Credentials(), content, repositories)

                await upstream.put_blob("x", DATA)
                async with own_registry(tmp_path / "cache", upstream=make) as cache:
                    await body(upstream, cache)

        asyncio.run(main())

    return runner


def test_passed_on_as_it_comes(run: Callable[[Body], None]) -> None:
    """To two clients at once, from one transfer."""

    async def body(upstream: OwnRegistry, cache: OwnRegistry) -> None:
        going = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield DATA[: 2 << 20]
            await going.wait()
            yield DATA[2 << 20 :]

        upstream.hook = lambda request: (
            web.Response(body=slowly(), headers={"Content-Length": str(len(DATA))})
            if request.method == "GET" and request.path == PATH
            else None
        )
        async with cache.session.get(PATH) as one, cache.session.get(PATH) as two:
            for response in (one, two):
                assert response.headers["Content-Length"] == str(len(DATA))
                assert await response.content.readexactly(1 << 20) == DATA[: 1 << 20]
            going.set()
            for response in (one, two):
                assert await response.content.read() == DATA[1 << 20 :]
        assert upstream.seen("GET", PATH) == 1
        upstream.hook = lambda request: web.Response(status=500)
        async with asyncio.timeout(10):
            while cache.registry.blobs.size(digest(DATA)) is None:  # it is being put in place
                await asyncio.sleep(0)
        status, _, data = await cache.call("GET", PATH, headers={"Range": "bytes=5-9"})
        assert (status, data) == (206, DATA[5:10])

    run(body)


def test_looking_takes_nothing(run: Callable[[Body], None]) -> None:
    async def body(upstream: OwnRegistry, cache: OwnRegistry) -> None:
        status, headers, _ = await cache.call("HEAD", PATH)
        assert (status, headers["Content-Length"]) == (200, str(len(DATA)))
        assert upstream.seen("GET", PATH) == 0
        nothing = f"/v2/x/blobs/{digest(b'nothing')}"
        for method in ("HEAD", "GET"):
            assert (await cache.call(method, nothing))[0] == 404

    run(body)


@pytest.mark.parametrize("kind", ["broken", "other", "short"])
def test_nothing_bad_stays(run: Callable[[Body], None], kind: str) -> None:
    async def body(upstream: OwnRegistry, cache: OwnRegistry) -> None:
        def hook(request: web.Request) -> web.StreamResponse | None:
            if request.method != "GET" or request.path != PATH:
                return None
            if kind == "broken":
                return broken_after(request, DATA, 1 << 20)
            return web.Response(body=DATA[:-1] + (b"x" if kind == "other" else b""))

        upstream.hook = hook
        if kind == "broken":
            with pytest.raises(aiohttp.ClientPayloadError):
                await cache.call("GET", PATH)
        else:
            await cache.call("GET", PATH)
        assert not list(cache.registry.blobs.walk())
        upstream.hook = None
        assert (await cache.call("GET", PATH))[2] == DATA

    run(body)


def test_names_that_lead_out(run: Callable[[Body], None]) -> None:
    async def body(upstream: OwnRegistry, cache: OwnRegistry) -> None:
        upstream.requests.clear()
        for path in ("/v2/x/manifests/..%2f..", "/v2/x/manifests/.x", "/v2/x/blobs/sha256:..%2f"):
            assert (await cache.call("GET", path))[0] in (400, 404)
        assert not upstream.requests

    run(body)
