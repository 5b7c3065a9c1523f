"""Our registry server inside the test's own event loop, with misfortunes on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from tests.support.imagebox import config, digest

from gantry.content.store import ContentStore
from gantry.registry.server.access import Access
from gantry.registry.server.app import Registry
from gantry.registry.server.proxy import Upstream
from gantry.registry.server.repositories import Repositories

Json = dict[str, Any]
Hook = Callable[[web.Request], web.StreamResponse | None]


class OwnRegistry:
    """A registry on 127.0.0.1. `hook` may answer a request instead; `requests` are the seen."""

    def __init__(self, registry: Registry, runner: web.AppRunner, port: int) -> None:
        self.registry = registry
        self.host = f"127.0.0.1:{port}"
        self.hook: Hook | None = None
        self.requests: list[tuple[str, str, str]] = []
        self._runner = runner
        self.session = aiohttp.ClientSession(f"http://{self.host}")

    def seen(self, method: str, part: str) -> int:
        return sum(1 for m, path, _ in self.requests if m == method and part in path)

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any, bytes]:
        """(status, headers, body)"""
        async with self.session.request(method, path, **more) as response:
            return response.status, response.headers, await response.read()

    async def put_blob(self, name: str, data: bytes) -> str:
        identity = digest(data)
        status, _, body = await self.call(
            "POST", f"/v2/{name}/blobs/uploads/?digest={identity}", data=data
        )
        assert status == 201, body
        return identity

    async def put_manifest(self, name: str, reference: str, document: Json) -> str:
        raw = json.dumps(document).encode()
        status, _, body = await self.call(
            "PUT",
            f"/v2/{name}/manifests/{reference}",
            data=raw,
            headers={"Content-Type": document["mediaType"]},
        )
        assert status == 201, body
        return digest(raw)

    async def put_image(
        self,
        name: str,
        tag: str,
        layers: list[bytes],
        diff_ids: list[str] | None = None,
        **fields: Any,
    ) -> tuple[str, str]:
        """(manifest digest, image id)"""
        document = config(diff_ids or [digest(one) for one in layers], **fields)
        for blob in (document, *layers):
            await self.put_blob(name, blob)
        manifest = image_manifest(document, layers)
        return await self.put_manifest(name, tag, manifest), digest(document)


def image_manifest(document: bytes, layers: list[bytes]) -> Json:
    oci = "application/vnd.oci.image"
    return {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": {
            "mediaType": f"{oci}.config.v1+json",
            "digest": digest(document),
            "size": len(document),
        },
        "layers": [
            {"mediaType": f"{oci}.layer.v1.tar", "digest": digest(one), "size": len(one)}
            for one in layers
        ],
    }


@contextlib.asynccontextmanager
async def own_registry(
    root: Path,
    *,
    access: Access | None = None,
    upstream: Callable[[Repositories], Upstream] | None = None,
) -> AsyncIterator[OwnRegistry]:
    registry = Registry(
        str(root), ContentStore(str(root / "content")), access=access, upstream=upstream
    )
    await registry.recover()
    own: OwnRegistry | None = None

    async def handle(request: web.Request) -> web.StreamResponse:
        assert own is not None
        own.requests.append((request.method, request.path_qs, request.headers.get("Range", "")))
        if own.hook is not None:
            answer = own.hook(request)
            if answer is not None:
                return answer
        return await registry.handle(request)

    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    own = OwnRegistry(registry, runner, runner.addresses[0][1])
    try:
        yield own
    finally:
        await own.session.close()
        await runner.cleanup()
        await registry.aclose()


def broken_after(request: web.Request, data: bytes, count: int) -> web.StreamResponse:
    """A response that promises `data` and breaks off after `count` bytes."""
    transport = request.transport
    assert transport is not None
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n"
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    transport.write(head.encode() + data[:count])
    asyncio.get_running_loop().call_soon(transport.close)
    return Gone()


class Gone(web.Response):
    """What was written by hand already."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None
