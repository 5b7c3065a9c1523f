"""A registry that lies, leads astray or never ends, and what we tell nobody but its own origin."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.imagebox import ImageBox, collect, digest, docker_archive, layer
from tests.support.ownregistry import OwnRegistry, image_manifest, own_registry
from tests.support.registries import make_certificate

from gantry.model.errors import GantryError, InvalidParameter
from gantry.oci.image import MAX_LAYERS
from gantry.oci.image_reference import parse
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.remote import Found, Remote
from gantry.registry.settings import RegistrySettings

Json = dict[str, Any]
Body = Callable[[ImageBox, OwnRegistry, OwnRegistry], Awaitable[None]]

BASE = layer({"etc": None, "etc/name": "base\n"})
AUTH = {"username": "me", "password": "secret"}
EXPECTED = Credentials("me", "secret").basic
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CHALLENGE = {"WWW-Authenticate": 'Basic realm="tests"'}


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Body], None]:
    """An engine, a registry, and a second server that has nothing to do with it."""

    def runner(body: Body) -> None:
        async def main() -> None:
            async with (
                own_registry(tmp_path / "one") as one,
                own_registry(tmp_path / "two") as two,
                ImageBox(tmp_path / "box", "vfs") as box,
            ):
                box.images.transfers.retry_delay = 0.0
                box.images.pusher.retry_delay = 0.0
                await body(box, one, two)

        asyncio.run(main())

    return runner


def pull(box: ImageBox, name: str, tag: str = "1", auth: Json | None = None) -> Any:
    return collect(box.images.pull(name, tag=tag, platform="", auth=auth or {}))


class Watch:
    """A hook that keeps what every request would prove us with, and may answer."""

    def __init__(self, answer: Callable[[web.Request], web.StreamResponse | None]) -> None:
        self.headers: list[str] = []
        self._answer = answer

    def __call__(self, request: web.Request) -> web.StreamResponse | None:
        self.headers.append(request.headers.get("Authorization", ""))
        return self._answer(request)


def guarded(
    answer: Callable[[web.Request], web.StreamResponse | None],
) -> Callable[[web.Request], web.StreamResponse | None]:
    """Wants the password first."""

    def hook(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Authorization") != EXPECTED:
            return web.Response(status=401, headers=CHALLENGE)
        return answer(request)

    return hook


class TestSecretsStay:
    def test_a_blob_elsewhere(self, run: Callable[[Body], None]) -> None:
        """As registries do that keep blobs in an object store."""

        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            await one.put_image("x", "1", [BASE])
            await two.put_image("x", "1", [BASE])

            def lead(request: web.Request) -> web.StreamResponse | None:
                if "/blobs/" in request.path:
                    raise web.HTTPTemporaryRedirect(f"http://{two.host}{request.path}")
                return None

            one.hook = guarded(lead)
            two.hook = watch = Watch(lambda request: None)
            await pull(box, f"{one.host}/x", auth=AUTH)
            assert watch.headers == ["", ""], "the config and a layer, and nobody's password"

        run(body)

    def test_a_challenge_of_another(self, run: Callable[[Body], None]) -> None:
        """CVE-2020-15157: whom a redirect leads to asks for the password."""

        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            await one.put_image("x", "1", [BASE])

            def lead(request: web.Request) -> web.StreamResponse | None:
                if "/blobs/" in request.path:
                    raise web.HTTPTemporaryRedirect(f"http://{two.host}/{request.path}")
                return None

            one.hook = guarded(lead)
            token = f'Bearer realm="http://{two.host}/token",service="x"'
            for challenge in (token, CHALLENGE["WWW-Authenticate"]):
                two.hook = watch = Watch(
                    lambda request, header=challenge: web.Response(  # type: ignore[misc]  # bound
                        status=401, headers={"WWW-Authenticate": header}
                    )
                )
                with pytest.raises(GantryError, match="unauthorized"):
                    await pull(box, f"{one.host}/x", auth=AUTH)
                assert watch.headers == [""]

        run(body)

    def test_an_upload_elsewhere(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            await box.load(docker_archive([BASE], [f"{one.host}/x:1"]))

            def lead(request: web.Request) -> web.StreamResponse | None:
                if request.method == "POST":
                    where = {"Location": f"http://{two.host}/v2/x/blobs/uploads/1"}
                    return web.Response(status=202, headers=where)
                return None

            one.hook = guarded(lead)
            two.hook = watch = Watch(lambda request: web.Response(status=401, headers=CHALLENGE))
            with pytest.raises(GantryError, match="unauthorized"):
                await collect(box.images.push(f"{one.host}/x", tag="1", platform="", auth=AUTH))
            assert watch.headers
            assert set(watch.headers) == {""}

        run(body)

    def test_the_tags_of_another(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            await one.put_image("x", "1", [BASE])

            def more(request: web.Request) -> web.StreamResponse | None:
                if "/tags/" in request.path:
                    link = {"Link": f'<http://{two.host}/v2/x/tags/list>; rel="next"'}
                    return web.json_response({"tags": ["1"]}, headers=link)
                return None

            one.hook = guarded(more)
            two.hook = watch = Watch(lambda request: None)
            await pull(box, f"{one.host}/x", "", AUTH)
            assert watch.headers == []

        run(body)


class TestRedirects:
    @pytest.mark.parametrize(
        ("where", "text"),
        [
            ("file:///etc/passwd", 'unsupported protocol scheme "file"'),
            ("gopher://127.0.0.1/", 'unsupported protocol scheme "gopher"'),
            ("http://", "Get "),
            ("http://[::1", "invalid address"),
            ("SELF", "stopped after 10 redirects"),
        ],
    )
    def test_where_we_do_not_go(self, run: Callable[[Body], None], where: str, text: str) -> None:
        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            def lead(request: web.Request) -> web.StreamResponse | None:
                if request.path == "/v2/":
                    return None
                target = str(request.url) if where == "SELF" else where
                return web.Response(status=307, headers={"Location": target})

            one.hook = lead
            with pytest.raises(GantryError, match=text):
                await pull(box, f"{one.host}/x")
            assert len(one.requests) < 30

        run(body)

    def test_never_from_tls_to_plain(self, run: Callable[[Body], None], tmp_path: Path) -> None:
        """A tag is only as trustworthy as the way its answer took."""

        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            await two.put_image("x", "1", [BASE])
            certificate, key = make_certificate(tmp_path)
            async with tls_server(certificate, key, f"http://{two.host}") as host:
                authorities = tmp_path / "certs.d" / host
                authorities.mkdir(parents=True)
                (authorities / "ca.crt").write_bytes(certificate.read_bytes())
                for networks, goes in (((), False), (RegistrySettings().insecure_networks, True)):
                    client = RegistryClient(
                        RegistrySettings(
                            certs_dirs=(str(tmp_path / "certs.d"),), insecure_networks=networks
                        )
                    )

                    async def head(remote: Remote) -> Found:
                        return await remote.head("1")

                    reference = parse(f"{host}/x:1")
                    try:
                        if goes:
                            assert await client.attempt(reference, Credentials(), head)
                        else:
                            with pytest.raises(GantryError, match="from https to http"):
                                await client.attempt(reference, Credentials(), head)
                    finally:
                        await client.aclose()

        run(body)


@contextlib.asynccontextmanager
async def tls_server(certificate: Path, key: Path, target: str) -> AsyncIterator[str]:
    """Answers the ping, and leads everything else to `target`; gives host:port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.json_response({})
        raise web.HTTPTemporaryRedirect(target + request.path)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class TestDocuments:
    @pytest.mark.parametrize(
        ("kind", "document", "text"),
        [
            (OCI, {"mediaType": INDEX, "manifests": []}, "mediaType in manifest should be"),
            (INDEX, {"mediaType": OCI, "layers": []}, "mediaType in manifest should be"),
            (OCI, {"mediaType": ["x"]}, "mediaType is no text"),
            ("text/html", {"layers": []}, "unsupported manifest media type .*: text/html"),
            (OCI, {"mediaType": "x/y"}, "unsupported manifest media type|should be"),
            (OCI, {"config": None, "layers": [], "manifests": []}, "unexpected field"),
            (INDEX, {"layers": [], "manifests": []}, "unexpected field"),
        ],
    )
    def test_two_things_at_once(
        self, run: Callable[[Body], None], kind: str, document: Json, text: str
    ) -> None:
        """CVE-2021-41190."""

        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            raw = json.dumps({"schemaVersion": 2, **document}).encode()
            one.hook = documents({"1": (kind, raw)})
            with pytest.raises(InvalidParameter, match=text):
                await pull(box, f"{one.host}/x")
            assert not list(box.content.walk())

        run(body)

    def test_thousands_of_layers(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            document = image_manifest(b"{}", [BASE] * (MAX_LAYERS + 1))
            one.hook = documents({"1": (OCI, json.dumps(document).encode())})
            with pytest.raises(InvalidParameter, match=f"more than {MAX_LAYERS} layers"):
                await pull(box, f"{one.host}/x")

        run(body)

    @pytest.mark.parametrize("path", ["/manifests/", "/tags/", "/blobs/", "/v2/"])
    def test_bodies_without_end(self, run: Callable[[Body], None], path: str) -> None:
        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            await one.put_image("x", "1", [BASE])
            sent = [0]

            async def endless() -> AsyncIterator[bytes]:
                while True:
                    sent[0] += 1 << 16
                    yield b" " * (1 << 16)

            def hook(request: web.Request) -> web.StreamResponse | None:
                if request.method != "HEAD" and path in request.path:
                    status = 401 if path == "/v2/" else 200
                    return web.Response(
                        body=endless(), status=status, headers={"Content-Type": OCI}
                    )
                return None

            one.hook = hook
            with pytest.raises(GantryError):
                await pull(box, f"{one.host}/x", "" if path == "/tags/" else "1")
            assert sent[0] < 64 << 20

        run(body)

    def test_a_layer_longer_than_promised(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, one: OwnRegistry, two: OwnRegistry) -> None:
            await one.put_image("x", "1", [BASE])

            def hook(request: web.Request) -> web.StreamResponse | None:
                if request.path.endswith(digest(BASE)):
                    return web.Response(body=BASE + b"\0" * 100_000)
                return None

            one.hook = hook
            with pytest.raises(GantryError, match=f"expected {len(BASE)}"):
                await pull(box, f"{one.host}/x")

        run(body)


def documents(found: dict[str, tuple[str, bytes]]) -> Callable[[web.Request], web.Response | None]:
    """A hook that answers for manifests by (media type, document), with their right digests."""

    def hook(request: web.Request) -> web.Response | None:
        if "/manifests/" not in request.path:
            return None
        kind, raw = found[request.path.rpartition("/")[2]]
        headers = {"Content-Type": kind, "Docker-Content-Digest": digest(raw)}
        return web.Response(body=raw, headers=headers)

    return hook
