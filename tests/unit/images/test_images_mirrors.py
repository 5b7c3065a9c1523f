"""Search, mirrors, and a registry that is a cache of another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from tests.support.exchange import BASE, TOP, Served, pull
from tests.support.imagebox import ImageBox, digest
from tests.support.ownregistry import OwnRegistry, own_registry

from gantry.model.errors import (
    InvalidParameter,
)
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.server.proxy import Upstream
from gantry.registry.server.repositories import Repositories
from gantry.registry.settings import parse_settings


def test_search(served: Served) -> None:
    async def body(box: ImageBox, registry: OwnRegistry) -> None:
        rows = [
            {"name": "a", "description": "x", "star_count": 5, "is_official": True},
            {"name": "b", "star_count": 1, "is_official": False, "is_automated": True},
        ]

        def hook(request: web.Request) -> web.StreamResponse | None:
            if request.path == "/v1/search":
                assert request.query["q"] == "thing"
                return web.json_response({"results": rows})
            return None

        registry.hook = hook

        async def names(filters: dict[str, list[str]], limit: int = 0) -> list[str]:
            found = await box.images.search(
                f"{registry.host}/thing", limit=limit, filters=filters, auth={}
            )
            assert all(row["is_automated"] is False for row in found)
            return [row["name"] for row in found]

        assert await names({}) == ["a", "b"]
        assert await names({"stars": ["3"]}) == ["a"]
        assert await names({"is-official": ["false"]}) == ["b"]
        assert await names({"is-automated": ["true"]}) == []
        for filters, limit in (({"x": ["y"]}, 0), ({"stars": ["x"]}, 0), ({}, 101), ({}, -1)):
            with pytest.raises(InvalidParameter):
                await names(filters, limit)

    served(body)


def test_mirror(tmp_path: Path) -> None:
    """A mirror is asked for Docker Hub's images first; it gets no credentials."""

    async def main() -> None:
        async with own_registry(tmp_path / "mirror") as mirror:
            _, identity = await mirror.put_image("library/x", "1", [BASE])
            settings = parse_settings(mirrors=[f"http://{mirror.host}"])
            async with ImageBox(tmp_path / "box", "vfs") as box:
                await box.images.set_registries(settings)
                secrets: list[str | None] = []

                def hook(request: web.Request) -> None:
                    secrets.append(request.headers.get("Authorization"))

                mirror.hook = hook
                auth = {"username": "me", "password": "secret"}
                await pull(box, "x", "1", auth=auth)
                image = box.images.resolve("x:1")
                assert image.id == identity
                assert image.repo_tags == ("x:1",)
                assert set(secrets) == {None}

    asyncio.run(main())


def test_pull_through_cache(tmp_path: Path) -> None:
    async def main() -> None:
        async with own_registry(tmp_path / "upstream") as upstream:
            _, identity = await upstream.put_image("a/b", "1", [BASE, TOP])

            def make(repositories: Repositories) -> Upstream:
                client = RegistryClient(parse_settings())
                content = cache_content
                return Upstream(client, upstream.host, Credentials(), content, repositories)

            from gantry.content.store import ContentStore

            cache_content = ContentStore(str(tmp_path / "cache" / "content"))
            async with own_registry(tmp_path / "cache", upstream=make) as cache:
                async with ImageBox(tmp_path / "box", "vfs") as box:
                    await pull(box, f"{cache.host}/a/b", "1")
                    assert box.images.resolve(f"{cache.host}/a/b:1").id == identity
                assert upstream.seen("GET", digest(TOP)) == 1
                upstream.requests.clear()
                async with ImageBox(tmp_path / "box2", "vfs") as box:
                    await pull(box, f"{cache.host}/a/b", "1")
                assert upstream.seen("GET", "") <= 2, "only whether the tag is the same"
                upstream.hook = lambda request: web.Response(status=503)
                async with ImageBox(tmp_path / "box3", "vfs") as box:
                    await pull(box, f"{cache.host}/a/b", "1")
                status, _, _ = await cache.call("POST", "/v2/x/blobs/uploads/")
                assert status == 405

    asyncio.run(main())
