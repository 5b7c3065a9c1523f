"""How pulls and pushes go: through proxies, so many at once, and without what may not travel."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from tests.support.imagebox import ImageBox, collect, config, digest, docker_archive, layer
from tests.support.ownregistry import OwnRegistry, image_manifest, own_registry

from gantry.model.errors import GantryError
from gantry.registry.settings import Proxies, parse_settings

Body = Callable[[ImageBox, OwnRegistry], Awaitable[None]]
Json = dict[str, Any]

LAYERS = [layer({f"file-{number}": f"{number}\n" * 1000}) for number in range(5)]
FOREIGN = layer({"foreign": "not ours to give\n"})


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Body], None]:
    def runner(body: Body) -> None:
        async def main() -> None:
            async with (
                own_registry(tmp_path / "registry") as registry,
                ImageBox(tmp_path / "box", "vfs") as box,
            ):
                box.images.transfers.retry_delay = 0.0
                box.images.pusher.retry_delay = 0.0
                await body(box, registry)

        asyncio.run(main())

    return runner


def pull(box: ImageBox, name: str, tag: str = "1") -> Awaitable[list[Json]]:
    return collect(box.images.pull(name, tag=tag, platform="", auth={}))


def push(box: ImageBox, name: str, tag: str = "1") -> Awaitable[list[Json]]:
    return collect(box.images.push(name, tag=tag, platform="", auth={}))


class Crowd:
    """Lets nobody through until `expected` are there at once; remembers how many ever were."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._full = asyncio.Event()
        self._here = 0
        self.most = 0

    @contextlib.asynccontextmanager
    async def member(self) -> AsyncIterator[None]:
        self._here += 1
        self.most = max(self.most, self._here)
        if self._here >= self._expected:
            self._full.set()
        try:
            async with asyncio.timeout(10):
                await self._full.wait()
            yield
        finally:
            self._here -= 1


class TestLimits:
    @pytest.mark.parametrize("limit", [1, 2, 4])
    def test_downloads(self, run: Callable[[Body], None], limit: int) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await box.images.set_registries(parse_settings(max_downloads=limit))
            await registry.put_image("x", "1", LAYERS)
            by_digest = {digest(one): one for one in LAYERS}
            crowd = Crowd(limit)

            async def slowly(data: bytes) -> AsyncIterator[bytes]:
                async with crowd.member():
                    yield data

            def hook(request: web.Request) -> web.StreamResponse | None:
                data = by_digest.get(request.path.rpartition("/")[2])
                return None if data is None else web.Response(body=slowly(data))

            registry.hook = hook
            await pull(box, f"{registry.host}/x")
            assert crowd.most == limit

        run(body)

    @pytest.mark.parametrize("limit", [1, 3])
    def test_uploads(self, run: Callable[[Body], None], limit: int) -> None:
        """Of two pushes together."""

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await box.images.set_registries(parse_settings(max_uploads=limit))
            await box.load(docker_archive(LAYERS[:3], [f"{registry.host}/a:1"]))
            await box.load(docker_archive(LAYERS[3:], [f"{registry.host}/b:1"]))
            crowd = Crowd(limit)
            original = registry.registry.handle

            async def handle(request: web.Request) -> web.StreamResponse:
                if request.method != "PATCH":
                    return await original(request)
                async with crowd.member():
                    return await original(request)

            registry.registry.handle = handle  # type: ignore[method-assign]  # slowed down
            await asyncio.gather(push(box, f"{registry.host}/a"), push(box, f"{registry.host}/b"))
            assert crowd.most == limit

        run(body)

    def test_new_settings_break_nothing(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", LAYERS[:1])
            begun, reloaded = asyncio.Event(), asyncio.Event()

            async def slowly() -> AsyncIterator[bytes]:
                yield LAYERS[0][:100]
                begun.set()
                await reloaded.wait()
                yield LAYERS[0][100:]

            registry.hook = lambda request: (
                web.Response(body=slowly()) if digest(LAYERS[0]) in request.path else None
            )

            async def reload() -> None:
                await begun.wait()
                await box.images.set_registries(parse_settings())
                reloaded.set()

            async with asyncio.timeout(10):
                await asyncio.gather(pull(box, f"{registry.host}/x"), reload())
            assert registry.seen("GET", digest(LAYERS[0])) == 1

        run(body)

    def test_attempts(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await box.images.set_registries(parse_settings(max_attempts=3))
            await registry.put_image("x", "1", LAYERS[:1])

            def hook(request: web.Request) -> web.StreamResponse | None:
                broken = request.path.endswith(digest(LAYERS[0]))
                return web.Response(status=502) if broken else None

            registry.hook = hook
            with pytest.raises(GantryError, match="unexpected HTTP status: 502"):
                await pull(box, f"{registry.host}/x")
            assert registry.seen("GET", digest(LAYERS[0])) == 3

        run(body)


def test_who_asks(run: Callable[[Body], None]) -> None:
    async def body(box: ImageBox, registry: OwnRegistry) -> None:
        await registry.put_image("x", "1", LAYERS[:1])
        agents: set[str] = set()

        def hook(request: web.Request) -> None:
            if "/x/" in request.path:
                agents.add(request.headers["User-Agent"])

        registry.hook = hook
        auth = {"useragent": "Docker-Client/28.2.2 (linux)"}
        await collect(box.images.pull(f"{registry.host}/x", tag="1", platform="", auth=auth))
        [agent] = agents
        own, _, client = agent.partition(" UpstreamClient")
        assert own.startswith("docker/")
        assert client == r"(Docker-Client/28.2.2 \(linux\))"

    run(body)


class TestForeignLayers:
    """Layers that say where else they are (allow-nondistributable-artifacts)."""

    def image(self) -> tuple[bytes, Json]:
        document = config([digest(LAYERS[0]), digest(FOREIGN)])
        manifest = image_manifest(document, [LAYERS[0], FOREIGN])
        manifest["layers"][1] |= {
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "urls": ["http://127.0.0.1:1/foreign"],
        }
        return document, manifest

    @pytest.mark.parametrize("allowed", [(), ("HOST",), ("127.0.0.0/8",)])
    def test_push(self, run: Callable[[Body], None], allowed: tuple[str, ...]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            document, manifest = self.image()
            for blob in (document, LAYERS[0], FOREIGN):
                await registry.put_blob("from", blob)
            pushed = await registry.put_manifest("from", "1", manifest)
            await pull(box, f"{registry.host}/from")
            names = [one.replace("HOST", registry.host) for one in allowed]
            await box.images.set_registries(parse_settings(nondistributable=names))
            await box.images.tag(f"{registry.host}/from:1", f"{registry.host}/to", "1")
            messages = await push(box, f"{registry.host}/to")
            assert messages[-1]["aux"]["Digest"] == pushed
            status, _, _ = await registry.call("HEAD", f"/v2/to/blobs/{digest(FOREIGN)}")
            assert status == (200 if allowed else 404)

        run(body)

    def test_pull_asks_the_registry_only(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            document, manifest = self.image()
            manifest["layers"][1]["urls"] = [f"http://{registry.host}/elsewhere"]
            for blob in (document, LAYERS[0]):
                await registry.put_blob("x", blob)
            await registry.put_manifest("x", "1", manifest)
            with pytest.raises(GantryError, match="blob unknown"):
                await pull(box, f"{registry.host}/x")
            assert not registry.seen("GET", "/elsewhere")

        run(body)


class Proxy:
    """An HTTP proxy: everything it is asked for, it asks of `target`."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.asked: list[str] = []
        self.authorizations: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        method, address, _ = line.split(" ")
        self.asked.append(f"{method} {address}")
        for field in fields:
            name, _, value = field.partition(":")
            if name.lower() == "proxy-authorization":
                self.authorizations.add(value.strip())
        host, _, port = self._target.partition(":")
        inner, outer = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = urlsplit(address).path
            query = urlsplit(address).query
            first = f"{method} {path}{'?' + query if query else ''} HTTP/1.1"
            outer.write("\r\n".join([first, "Connection: close", *fields]).encode())
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(_copy(reader, outer), _copy(inner, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


class TestProxies:
    def test_http(self, run: Callable[[Body], None]) -> None:
        """By name and password; not for whom no_proxy names."""

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", LAYERS[:2])
            proxy = Proxy(registry.host)
            server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            async with server:
                proxies = Proxies(
                    http=f"http://me:secret@127.0.0.1:{port}", no_proxy="direct.invalid"
                )
                insecure = ["registry.invalid:80", "direct.invalid:80"]
                await box.images.set_registries(parse_settings(insecure=insecure, proxies=proxies))
                await pull(box, "registry.invalid:80/x")
                assert box.images.resolve("registry.invalid:80/x:1")
                assert all("http://registry.invalid" in one for one in proxy.asked)
                assert any("/blobs/" in one for one in proxy.asked)
                assert proxy.authorizations == {"Basic bWU6c2VjcmV0"}
                before = len(proxy.asked)
                with pytest.raises(GantryError, match=r"dial tcp: lookup .*: "):
                    await pull(box, "direct.invalid:80/x")
                assert len(proxy.asked) == before

        run(body)

    def test_https(self, run: Callable[[Body], None]) -> None:
        """By CONNECT: the proxy sees the host's name and no more."""

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            proxy = Proxy(registry.host)
            server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            async with server:
                proxies = Proxies(https=f"http://127.0.0.1:{port}")
                await box.images.set_registries(parse_settings(proxies=proxies))
                with pytest.raises(GantryError, match="HTTP response to HTTPS client"):
                    await pull(box, "registry.invalid/x")
            assert set(proxy.asked) == {"CONNECT registry.invalid:443"}
            assert json.dumps(registry.requests) == "[]"

        run(body)
