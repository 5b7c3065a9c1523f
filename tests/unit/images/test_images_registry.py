"""Pull and push against our own registry, with everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.imagebox import ImageBox, collect, config, digest, docker_archive, layer
from tests.support.ownregistry import Gone, OwnRegistry, broken_after, image_manifest, own_registry

from gantry.images import transfer
from gantry.images.platforms import HOST
from gantry.model.errors import (
    Forbidden,
    GantryError,
    InvalidParameter,
    NotFound,
    TooManyRequests,
    Unauthorized,
)
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.server.proxy import Upstream
from gantry.registry.server.repositories import Repositories
from gantry.registry.settings import parse_settings

BASE = layer({"etc": None, "etc/os": "base"})
NOISE = random.Random(7).randbytes(3_000_000)
TOP = layer({"big": NOISE})
INDEX = "application/vnd.oci.image.index.v1+json"

Body = Callable[[ImageBox, OwnRegistry], Awaitable[None]]
Json = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Body], None]:
    driver = "overlay2" if os.geteuid() == 0 else "vfs"

    def runner(body: Body) -> None:
        async def main() -> None:
            async with (
                own_registry(tmp_path / "registry") as registry,
                ImageBox(tmp_path / "box", driver) as box,
            ):
                box.images.transfers.retry_delay = 0.0
                box.images.pusher.retry_delay = 0.0
                await body(box, registry)

        asyncio.run(main())

    return runner


async def pull(box: ImageBox, name: str, tag: str = "", **more: Any) -> list[Json]:
    options: Json = {"platform": "", "auth": {}, **more}
    return await collect(box.images.pull(name, tag=tag, **options))


async def push(box: ImageBox, name: str, tag: str = "", **more: Any) -> list[Json]:
    options: Json = {"platform": "", "auth": {}, **more}
    return await collect(box.images.push(name, tag=tag, **options))


def statuses(messages: list[Json], identity: str = "") -> list[str]:
    """The texts of one line, each once in a row."""
    texts = [m["status"] for m in messages if "status" in m and m.get("id", "") == identity]
    return [text for i, text in enumerate(texts) if i == 0 or texts[i - 1] != text]


class TestPull:
    def test_messages_and_names(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            manifest, identity = await registry.put_image("x/y", "1", [BASE, TOP])
            name = f"{registry.host}/x/y"
            messages = await pull(box, name, "1")
            assert messages[0] == {"status": "Pulling from x/y", "id": "1"}
            for blob in (BASE, TOP):
                line = statuses(messages, digest(blob)[7:19])
                assert line[0] == "Pulling fs layer"
                assert line[-1] == "Pull complete"
                assert "Downloading" in line
                assert "Verifying Checksum" in line
                assert "Download complete" in line
            assert statuses(messages)[-2:] == [
                f"Digest: {manifest}",
                f"Status: Downloaded newer image for {name}:1",
            ]
            image = box.images.resolve(f"{name}:1")
            assert image.id == identity
            assert image.manifest == manifest
            assert image.repo_digests == (f"{name}@{manifest}",)
            assert box.images.resolve(f"{name}@{manifest}").id == identity
            assert box.events.events[-1] == (
                "image",
                "pull",
                f"{name}:1",
                {"a": "b", "name": name},
            )
            assert not box.store.leases

        run(body)

    def test_again_asks_once(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            name = f"{registry.host}/x"
            await pull(box, name, "1")
            registry.requests.clear()
            messages = await pull(box, name, "1")
            assert statuses(messages)[-1] == f"Status: Image is up to date for {name}:1"
            assert [(m, p) for m, p, _ in registry.requests] == [("HEAD", "/v2/x/manifests/1")]

        run(body)

    def test_a_registry_that_wants_to_be_asked_later(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            text = '{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your limit"}]}'
            refusals = 0

            def refuse(after: str, times: int) -> None:
                nonlocal refusals
                refusals = times

                def hook(request: web.Request) -> web.StreamResponse | None:
                    nonlocal refusals
                    if request.path == "/v2/" or not refusals:
                        return None
                    refusals -= 1
                    headers = {"Retry-After": after} if after else {}
                    kind = "application/json"
                    return web.Response(status=429, text=text, content_type=kind, headers=headers)

                registry.hook = hook

            for after in ("", "3600", "Fri, 31 Dec 2999 23:59:59 GMT", "soon"):
                refuse(after, 100)
                registry.requests.clear()
                with pytest.raises(TooManyRequests, match=r"^toomanyrequests: You have"):
                    await pull(box, f"{registry.host}/x", "1")
                assert [m for m, *_ in registry.requests if m != "GET"] == ["HEAD"]
                assert registry.seen("GET", "manifests") == 1
            for after in ("0", "Fri, 31 Dec 1999 23:59:59 GMT"):
                refuse(after, 4)
                with contextlib.suppress(NotFound):
                    await box.images.remove(f"{registry.host}/x:1", force=False, noprune=False)
                messages = await pull(box, f"{registry.host}/x", "1")
                assert statuses(messages)[-1].startswith("Status: Downloaded newer image")
                assert not refusals

        run(body)

    def test_a_moved_tag(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            _, first = await registry.put_image("x", "1", [BASE])
            name = f"{registry.host}/x"
            await pull(box, name, "1")
            _, second = await registry.put_image("x", "1", [BASE, TOP])
            messages = await pull(box, name, "1")
            assert statuses(messages, digest(BASE)[7:19]) == ["Already exists"]
            assert box.images.resolve(f"{name}:1").id == second
            assert box.images.resolve(first).repo_tags == ()

        run(body)

    def test_by_digest(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            manifest, identity = await registry.put_image("x", "1", [BASE])
            name = f"{registry.host}/x"
            for where, tag in ((f"{name}@{manifest}", ""), (name, manifest)):
                await pull(box, where, tag)
                assert box.images.resolve(f"{name}@{manifest}").id == identity
            assert box.images.resolve(identity).repo_tags == ()

        run(body)

    def test_all_tags(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            await registry.put_image("x", "2", [BASE, TOP])
            messages = await pull(box, f"{registry.host}/x")
            tags = {t for i in box.images.catalog.images.values() for t in i.repo_tags}
            assert tags == {f"{registry.host}/x:1", f"{registry.host}/x:2"}
            assert statuses(messages)[-1].endswith(f"newer image for {registry.host}/x")

        run(body)

    def test_waiting_is_said_by_who_waits(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            box.images.transfers.set_limits(1, 1)
            messages = await pull(box, f"{registry.host}/x", "1")
            assert "Waiting" not in statuses(messages, digest(BASE)[7:19])
            assert statuses(messages, digest(TOP)[7:19])[1] == "Waiting"

        run(body)

    def test_compressed(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            layers = [gzip.compress(BASE, mtime=0), gzip.compress(TOP, mtime=0)]
            diff_ids = [digest(BASE), digest(TOP)]
            await registry.put_image("x", "1", layers, diff_ids)
            await pull(box, f"{registry.host}/x", "1")
            top = box.images.resolve(f"{registry.host}/x:1").chain_ids[-1]
            assert (Path(box.snapshots.layer(top).path) / "big").read_bytes() == NOISE

        run(body)

    def test_platforms(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            manifests = []
            ids = {}
            for architecture in ("amd64", "arm64", "s390x"):
                manifest, ids[architecture] = await registry.put_image(
                    "x", architecture, [BASE], architecture=architecture
                )
                _, _, raw = await registry.call("GET", f"/v2/x/manifests/{manifest}")
                platform = {"architecture": architecture, "os": "linux"}
                manifests.append(
                    {
                        "mediaType": "application/vnd.oci.image.manifest.v1+json",
                        "digest": manifest,
                        "size": len(raw),
                        "platform": platform,
                    }
                )
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
            index_digest = await registry.put_manifest("x", "multi", index)
            name = f"{registry.host}/x"
            await pull(box, name, "multi", platform="linux/s390x")
            image = box.images.resolve(f"{name}:multi")
            assert image.id == ids["s390x"]
            assert image.repo_digests == (f"{name}@{index_digest}",)
            await pull(box, name, "multi", platform="linux/arm64")
            assert box.images.resolve(f"{name}:multi").id == ids["arm64"]
            await pull(box, name, "multi", platform="linux")
            own = ids[HOST.architecture]
            assert box.images.resolve(f"{name}:multi").id == own
            await pull(box, name, "multi", platform="linux/s390x")
            await pull(box, name, "multi")  # what is here under this digest is another's platform
            assert box.images.resolve(f"{name}:multi").id == own
            registry.requests.clear()
            await pull(box, name, "multi")
            assert [method for method, *_ in registry.requests] == ["HEAD"]
            with pytest.raises(NotFound, match="no matching manifest for linux/riscv64 in the"):
                await pull(box, name, "multi", platform="linux/riscv64")
            said = await pull(box, name, "s390x", platform="linux/amd64")
            assert said[-1]["status"] == (
                f"WARNING: image with reference {name}:s390x was found but its platform"
                " (linux/s390x) does not match the specified platform (linux/amd64)"
            )
            said = await pull(box, name, "s390x", platform="linux/s390x")
            assert said[-1]["status"].startswith("Status: ")
            with pytest.raises(NotFound, match="manifest unknown"):
                await box.images.distribution(f"{name}:nothing", auth={})
            found = await box.images.distribution(f"{name}:multi", auth={})
            assert found["Descriptor"]["digest"] == index_digest
            assert [p["architecture"] for p in found["Platforms"]] == ["amd64", "arm64", "s390x"]

        run(body)

    @pytest.mark.parametrize(
        ("name", "tag", "kind", "text"),
        [
            ("HOST/nothing", "1", NotFound, "manifest for HOST/nothing:1 not found: manifest unkn"),
            ("HOST/x", "9", NotFound, "manifest for HOST/x:9 not found: manifest unknown"),
            ("HOST/nothing", "", NotFound, "repository HOST/nothing not found: name unknown"),
            ("scratch", "1", Forbidden, "'scratch' is a reserved name"),
            ("UPPER", "", InvalidParameter, "must be lowercase"),
            (
                "127.0.0.1:1/x",
                "1",
                GantryError,
                'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1',
            ),
            ("no-such-host.invalid/x", "1", GantryError, "dial tcp: lookup no-such-host.invalid: "),
        ],
    )
    def test_errors(
        self,
        run: Callable[[Body], None],
        name: str,
        tag: str,
        kind: type[GantryError],
        text: str,
    ) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            with pytest.raises(kind) as error:
                await pull(box, name.replace("HOST", registry.host), tag)
            assert text.replace("HOST", registry.host) in str(error.value)
            assert not box.images.catalog.images

        run(body)


class TestTransfers:
    def test_broken_connections(self, run: Callable[[Body], None]) -> None:
        """Every connection breaks after half a megabyte: it goes on from where it was."""

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"

            def hook(request: web.Request) -> web.StreamResponse | None:
                if request.path != path or request.method != "GET":
                    return None
                start = int(request.headers.get("Range", "bytes=0-")[6:].split("-")[0])
                if start + 500_000 >= len(TOP):
                    return None
                if start == 0:
                    return broken_after(request, TOP, 500_000)
                return _partial(request, TOP, start, 500_000)

            registry.hook = hook
            messages = await pull(box, f"{registry.host}/x", "1")
            ranges = [r for m, p, r in registry.requests if p == path and m == "GET"]
            assert ranges[0] == ""
            assert len(ranges) >= len(TOP) // 500_000
            assert "Retrying in 1 second" in statuses(messages, digest(TOP)[7:19])
            assert box.images.resolve(f"{registry.host}/x:1")

        run(body)

    def test_gives_up(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [TOP])
            registry.hook = lambda request: (
                web.Response(status=500) if "/blobs/" in request.path else None
            )
            with pytest.raises(GantryError, match="500 Internal Server Error"):
                await pull(box, f"{registry.host}/x", "1")

        run(body)

    def test_goes_on_after_a_restart(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            box.images.transfers.attempts = 1
            registry.hook = lambda request: (
                broken_after(request, TOP, 2_500_000) if request.path == path else None
            )
            with pytest.raises(GantryError):
                await pull(box, f"{registry.host}/x", "1")
            await box.images.aclose()
            box.open()
            await box.images.recover()
            assert box.content.exists(digest(BASE)), "kept by the lease"
            registry.hook = None
            registry.requests.clear()
            await pull(box, f"{registry.host}/x", "1")
            [(_, _, asked)] = [one for one in registry.requests if one[1] == path]
            assert int(asked.removeprefix("bytes=").split("-")[0]) >= 100_000
            assert registry.seen("GET", digest(BASE)) == 0
            assert not box.store.leases
            assert not box.content.ingests()

        run(body)

    @pytest.mark.parametrize("ranges", [True, False])
    def test_large_blobs_in_ranges(
        self, run: Callable[[Body], None], ranges: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "_SPLIT", 1_000_000)
        monkeypatch.setattr(transfer, "_NOTE", 100_000)

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            if not ranges:
                registry.hook = lambda request: (
                    web.Response(body=TOP) if request.path == path else None
                )
            await pull(box, f"{registry.host}/x", "1")
            asked = [r for _, p, r in registry.requests if p == path]
            if ranges:
                assert len(asked) == 4
                assert len(set(asked)) == 4
            assert box.content.verify(digest(TOP))

        run(body)

    def test_ranges_go_on_after_a_restart(
        self, run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "_SPLIT", 1_000_000)

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            box.images.transfers.attempts = 1

            def hook(request: web.Request) -> web.StreamResponse | None:
                if request.path != path:
                    return None
                start = int(request.headers.get("Range", "bytes=0-")[6:].split("-")[0])
                return _partial(request, TOP, start, 300_000)

            registry.hook = hook
            with pytest.raises(GantryError):
                await pull(box, f"{registry.host}/x", "1")
            await box.images.aclose()
            box.open()
            await box.images.recover()
            assert len(box.content.ingests()) == 1
            registry.hook = None
            registry.requests.clear()
            await pull(box, f"{registry.host}/x", "1")
            asked = [r for _, p, r in registry.requests if p == path]
            assert "" not in asked
            assert sum(_length(r, len(TOP)) for r in asked) < len(TOP)
            assert box.content.verify(digest(TOP))

        run(body)

    def test_two_pulls_share(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            await registry.put_image("y", "1", [BASE, TOP], author="other")
            await asyncio.gather(
                *(pull(box, f"{registry.host}/{n}", "1") for n in ("x", "y", "x", "y"))
            )
            assert (
                sum(1 for m, p, _ in registry.requests if p.endswith(digest(TOP)) and m == "GET")
                == 1
            )
            assert len(box.images.catalog.images) == 2

        run(body)

    def test_cancelled_client(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            hang = asyncio.Event()

            async def stuck(request: web.Request) -> web.StreamResponse:
                response = web.StreamResponse(headers={"Content-Length": str(len(TOP))})
                await response.prepare(request)
                await response.write(TOP[:1_500_000])
                hang.set()
                await asyncio.Event().wait()
                return response

            registry.hook = None
            original = registry.registry.handle

            async def handle(request: web.Request) -> web.StreamResponse:
                return await (stuck if request.path == path else original)(request)

            registry.registry.handle = handle  # type: ignore[method-assign]  # a fault
            first = asyncio.get_running_loop().create_task(pull(box, f"{registry.host}/x", "1"))
            second = asyncio.get_running_loop().create_task(pull(box, f"{registry.host}/x", "1"))
            await hang.wait()
            first.cancel()
            await asyncio.wait([first])
            assert box.images.transfers._running, "the second one still wants it"
            second.cancel()
            await asyncio.wait([second])
            assert not box.images.transfers._running
            assert not any(i.name.startswith("unpack-") for i in box.snapshots.walk())
            registry.registry.handle = original  # type: ignore[method-assign]
            await pull(box, f"{registry.host}/x", "1")

        run(body)

    def test_wrong_content(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            other = bytes(reversed(TOP))
            for wrong in (other, TOP + b"x", TOP[:-1], b""):
                registry.hook = lambda request, wrong=wrong: (
                    web.Response(body=wrong) if request.path == path else None
                )
                with pytest.raises(GantryError) as error:
                    await pull(box, f"{registry.host}/x", "1")
                if wrong is other:
                    assert str(error.value) == (
                        f"filesystem layer verification failed for digest {digest(TOP)}"
                    )
                assert not box.images.catalog.images
                assert not box.content.exists(digest(TOP))
            registry.hook = None
            await pull(box, f"{registry.host}/x", "1")

        run(body)


class TestHostileRegistry:
    """What a registry answers is not to be trusted."""

    async def refused(
        self, box: ImageBox, registry: OwnRegistry, manifest: Json | bytes, kind: str = ""
    ) -> str:
        raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        media = kind or "application/vnd.oci.image.manifest.v1+json"

        def hook(request: web.Request) -> web.StreamResponse | None:
            if "/manifests/" not in request.path:
                return None
            return web.Response(body=raw, headers={"Content-Type": media})

        registry.hook = hook
        with pytest.raises(GantryError) as error:
            await pull(box, f"{registry.host}/x", "1")
        assert not box.images.catalog.images
        assert not list(box.snapshots.walk())
        return str(error.value)

    def test_manifests(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            document = config([digest(BASE)])
            good = image_manifest(document, [BASE])
            config_of = good["config"]
            layer_of = good["layers"][0]
            index = {"schemaVersion": 2, "mediaType": INDEX}
            entry = {"mediaType": INDEX, "digest": "sha256:" + "a" * 64, "size": 10}
            cases: list[tuple[Json | bytes, str, str]] = [
                (b"not json", "", "invalid manifest"),
                (b"[" * 1_000_000, "", "invalid manifest"),
                (b"x" * (5 << 20), "", "larger than"),
                ({**good, "config": {**config_of, "size": 1}}, "", "has"),
                ({**good, "config": {**config_of, "mediaType": "text/html"}}, "", "Encountered"),
                (
                    {**good, "config": {**config_of, "mediaType": "application/vnd.docker.ai.x"}},
                    "",
                    "AI models",
                ),
                ({**good, "layers": []}, "", "don't match image configuration"),
                ({**good, "layers": [{**layer_of, "mediaType": "x/y"}]}, "", "unsupported media"),
                ({**good, "layers": [{**layer_of, "size": 5}]}, "", "bytes, expected 5"),
                ({**good, "layers": [layer_of] * 10_000}, "", "more than"),
                ({**good, "manifests": []}, "", "unexpected field"),
                (good, "application/vnd.docker.distribution.manifest.v1+json", "schema 1 support"),
                ({**index, "manifests": [entry]}, INDEX, "verification failed"),
                ({**index, "manifests": []}, INDEX, "no matching manifest"),
            ]
            for manifest, kind, text in cases:
                if isinstance(manifest, dict) and kind and "schema1" not in kind:
                    manifest = {**manifest, "mediaType": manifest.get("mediaType", kind)}
                if kind.endswith("manifest.v1+json") and isinstance(manifest, dict):
                    manifest = {k: v for k, v in manifest.items() if k != "mediaType"}
                assert text in await self.refused(box, registry, manifest, kind)

        run(body)

    def test_index_cycle(self, run: Callable[[Body], None]) -> None:
        """Digests make a true cycle impossible; a long chain is cut."""

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            documents: dict[str, bytes] = {}
            inner = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
            for _ in range(20):
                documents[digest(inner)] = inner
                inner = json.dumps(
                    {
                        "schemaVersion": 2,
                        "mediaType": INDEX,
                        "manifests": [
                            {"mediaType": INDEX, "digest": digest(inner), "size": len(inner)}
                        ],
                    }
                ).encode()
            documents["1"] = inner

            def hook(request: web.Request) -> web.StreamResponse | None:
                if "/manifests/" not in request.path:
                    return None
                raw = documents[request.path.rpartition("/")[2]]
                return web.Response(body=raw, headers={"Content-Type": INDEX})

            registry.hook = hook
            with pytest.raises(InvalidParameter, match="nested too deeply"):
                await pull(box, f"{registry.host}/x", "1")

        run(body)

    def test_layers_that_lead_out(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            evil = layer({"../../../evil": "x" * 3_000_000})
            await registry.put_image("x", "1", [BASE, evil])
            with pytest.raises(GantryError, match="outside"):
                await pull(box, f"{registry.host}/x", "1")
            assert not box.images.catalog.images

        run(body)

    def test_wrong_diff_id(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE], [digest(TOP)])
            with pytest.raises(InvalidParameter, match="wrong diff id"):
                await pull(box, f"{registry.host}/x", "1")
            assert not box.images.catalog.images

        run(body)


class TestPush:
    def test_messages_and_digest(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await box.load(docker_archive([BASE, TOP], ["a"]))
            name = f"{registry.host}/p/q"
            await box.images.tag("a", name, "1")
            image = box.images.resolve("a")
            messages = await push(box, name, "1")
            assert messages[0] == {"status": f"The push refers to repository [{name}]"}
            for blob in (BASE, TOP):
                line = statuses(messages, digest(blob)[7:19])
                assert line[0] == "Preparing"
                assert line[-1] == "Pushed"
            size = box.content.size(image.manifest)
            assert statuses(messages)[-1] == f"1: digest: {image.manifest} size: {size}"
            assert messages[-1]["aux"] == {"Tag": "1", "Digest": image.manifest, "Size": size}
            assert box.images.resolve("a").repo_digests == (f"{name}@{image.manifest}",)
            assert box.events.events[-1][1:3] == ("push", f"{name}:1")
            again = await push(box, name, "1")
            assert statuses(again, digest(TOP)[7:19]) == ["Preparing", "Layer already exists"]
            for tag in (f"{name}:1", "a"):
                await box.images.remove(tag, force=False, noprune=False)
            await pull(box, name, "1")
            assert box.images.resolve(f"{name}:1").manifest == image.manifest

        run(body)

    def test_mounts(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("one", "1", [BASE, TOP])
            await pull(box, f"{registry.host}/one", "1")
            await box.images.aclose()
            box.open()
            await box.images.recover()
            await box.images.tag(f"{registry.host}/one:1", f"{registry.host}/two", "1")
            messages = await push(box, f"{registry.host}/two", "1")
            assert statuses(messages, digest(TOP)[7:19])[-1] == "Mounted from one"
            assert registry.seen("PATCH", "/blobs/uploads/") == 1, "only the config"

        run(body)

    def test_all_tags(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await box.load(docker_archive([BASE], ["a"]))
            for tag in ("1", "2"):
                await box.images.tag("a", f"{registry.host}/x", tag)
            await push(box, f"{registry.host}/x")
            _, _, data = await registry.call("GET", "/v2/x/tags/list")
            assert json.loads(data)["tags"] == ["1", "2"]

        run(body)

    def test_errors(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await box.load(docker_archive([BASE], [f"{registry.host}/x:1"]))

            async def text(name: str, tag: str) -> str:
                with pytest.raises(GantryError) as error:
                    await push(box, name, tag)
                return str(error.value)

            assert await text("nothing", "1") == (
                "An image does not exist locally with the tag: nothing"
            )
            name = f"{registry.host}/x"
            assert await text(name, "2") == f"tag does not exist: {name}:2"
            assert "cannot push a digest" in await text(f"{name}@sha256:" + "a" * 64, "")
            registry.hook = lambda request: (
                web.Response(status=403) if request.method == "POST" else None
            )
            assert await text(name, "1") == "denied: requested access to the resource is denied"

        run(body)

    def test_breaks_are_tried_again(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await box.load(docker_archive([BASE, TOP], [f"{registry.host}/x:1"]))
            left = [2]

            def hook(request: web.Request) -> web.StreamResponse | None:
                if request.method == "PATCH" and left[0]:
                    left[0] -= 1
                    return web.Response(status=503)
                return None

            registry.hook = hook
            messages = await push(box, f"{registry.host}/x", "1")
            assert statuses(messages)[-1].startswith("1: digest:")

        run(body)


class TokenServer:
    """Docker's token protocol: basic credentials or an identity token for a bearer."""

    def __init__(self, registry: OwnRegistry) -> None:
        self.registry = registry
        self.asked: list[Json] = []
        registry.hook = self.hook

    def hook(self, request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            return self.token(request)
        if not request.path.startswith("/v2"):
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        granted = token.split("|") if scheme == "Bearer" else []
        action = "pull" if request.method in ("GET", "HEAD") else "push"
        needed = "any" if request.path == "/v2/" else action
        if needed in granted:
            return None
        challenge = f'Bearer realm="http://{self.registry.host}/token",service="tests"'
        if needed != "any":
            name = request.path.split("/")[2]
            challenge += f',scope="repository:{name}:{needed}"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    def token(self, request: web.Request) -> web.StreamResponse:
        scopes = " ".join(request.query.getall("scope", []))
        self.asked.append({"scope": scopes, "method": request.method, **request.query})
        user = ""
        header = request.headers.get("Authorization", "")
        if header.startswith("Basic "):
            user = base64.b64decode(header[6:]).decode()
            if user != "me:secret":
                return web.json_response({"details": "incorrect username or password"}, status=401)
        granted = ["any", "pull"] + (["push"] if user and "push" in scopes else [])
        document = {"token": "|".join(granted), "expires_in": 300}
        if user and request.query.get("offline_token"):
            document["refresh_token"] = "identity"
        return web.json_response(document)


class TestAuthentication:
    def test_tokens(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            server = TokenServer(registry)
            name = f"{registry.host}/x"
            await pull(box, name, "1")
            scopes = [one["scope"] for one in server.asked]
            assert scopes.count("repository:x:pull") == 1, "a token is used again"
            with pytest.raises(GantryError, match="authentication required"):
                await push(box, name, "1")
            with pytest.raises(GantryError, match="incorrect username or password"):
                await push(box, name, "1", auth={"username": "me", "password": "wrong"})
            await push(box, name, "1", auth={"username": "me", "password": "secret"})

        run(body)

    def test_login(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            TokenServer(registry)
            good = {"username": "me", "password": "secret", "serveraddress": registry.host}
            assert await box.images.login(good) == {
                "Status": "Login Succeeded",
                "IdentityToken": "identity",
            }
            with pytest.raises(Unauthorized, match=r'Get "http://.*/v2/": unauthorized'):
                await box.images.login({**good, "password": "wrong"})
            with pytest.raises(GantryError, match="connection refused"):
                await box.images.login({**good, "serveraddress": "127.0.0.1:1"})

        run(body)

    def test_basic(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            expected = Credentials("me", "secret").basic

            def hook(request: web.Request) -> web.StreamResponse | None:
                if request.headers.get("Authorization") == expected:
                    return None
                return web.json_response(
                    {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
                    status=401,
                    headers={"WWW-Authenticate": 'Basic realm="tests"'},
                )

            registry.hook = hook
            name = f"{registry.host}/x"
            with pytest.raises(
                GantryError, match=r'^Head "http://.*/x/manifests/1": no basic auth credentials$'
            ):
                await pull(box, name, "1")
            wrong = {"username": "me", "password": "x", "serveraddress": registry.host}
            with pytest.raises(Unauthorized, match=r"^unauthorized: authentication required$"):
                await pull(box, name, "1", auth=wrong)
            with pytest.raises(
                Unauthorized, match=r"^login attempt to http://.*/v2/ failed with status: 401 Unau"
            ):
                await box.images.login(wrong)
            await pull(box, name, "1", auth={"username": "me", "password": "secret"})

        run(body)

    def test_a_ready_token(self, run: Callable[[Body], None]) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            registry.hook = lambda request: (
                None
                if request.headers.get("Authorization") == "Bearer ready" or request.path == "/v2/"
                else web.Response(status=401, headers={"WWW-Authenticate": "Bearer realm=x"})
            )
            await pull(box, f"{registry.host}/x", "1", auth={"registrytoken": "ready"})

        run(body)


def test_search(run: Callable[[Body], None]) -> None:
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

    run(body)


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


def _partial(request: web.Request, data: bytes, start: int, count: int) -> web.StreamResponse:
    """206 from `start` that breaks off after `count` bytes."""
    end = request.headers.get("Range", "").partition("-")[2]
    stop = int(end) + 1 if end else len(data)
    body = data[start:stop]
    transport = request.transport
    assert transport is not None
    head = (
        f"HTTP/1.1 206 Partial Content\r\nContent-Length: {len(body)}\r\n"
        f"Content-Range: bytes {start}-{stop - 1}/{len(data)}\r\n\r\n"
    )
    transport.write(head.encode() + body[:count])
    asyncio.get_running_loop().call_soon(transport.close)
    return Gone()


def _length(text: str, size: int) -> int:
    start, _, end = text.removeprefix("bytes=").partition("-")
    return (int(end) + 1 if end else size) - int(start)
