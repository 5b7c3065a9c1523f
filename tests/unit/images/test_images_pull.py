"""Pulls from our own registry."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import pytest
from aiohttp import web
from tests.support.exchange import BASE, INDEX, NOISE, TOP, Served, pull, statuses
from tests.support.imagebox import ImageBox, digest
from tests.support.ownregistry import OwnRegistry

from gantry.images.platforms import HOST
from gantry.model.errors import (
    Forbidden,
    GantryError,
    InvalidParameter,
    NotFound,
    TooManyRequests,
)


class TestPull:
    def test_messages_and_names(self, served: Served) -> None:
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

        served(body)

    def test_again_asks_once(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            name = f"{registry.host}/x"
            await pull(box, name, "1")
            registry.requests.clear()
            messages = await pull(box, name, "1")
            assert statuses(messages)[-1] == f"Status: Image is up to date for {name}:1"
            assert [(m, p) for m, p, _ in registry.requests] == [("HEAD", "/v2/x/manifests/1")]

        served(body)

    def test_a_registry_that_wants_to_be_asked_later(self, served: Served) -> None:
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

        served(body)

    def test_a_moved_tag(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            _, first = await registry.put_image("x", "1", [BASE])
            name = f"{registry.host}/x"
            await pull(box, name, "1")
            _, second = await registry.put_image("x", "1", [BASE, TOP])
            messages = await pull(box, name, "1")
            assert statuses(messages, digest(BASE)[7:19]) == ["Already exists"]
            assert box.images.resolve(f"{name}:1").id == second
            assert box.images.resolve(first).repo_tags == ()

        served(body)

    def test_by_digest(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            manifest, identity = await registry.put_image("x", "1", [BASE])
            name = f"{registry.host}/x"
            for where, tag in ((f"{name}@{manifest}", ""), (name, manifest)):
                await pull(box, where, tag)
                assert box.images.resolve(f"{name}@{manifest}").id == identity
            assert box.images.resolve(identity).repo_tags == ()

        served(body)

    def test_all_tags(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE])
            await registry.put_image("x", "2", [BASE, TOP])
            messages = await pull(box, f"{registry.host}/x")
            tags = {t for i in box.images.catalog.images.values() for t in i.repo_tags}
            assert tags == {f"{registry.host}/x:1", f"{registry.host}/x:2"}
            assert statuses(messages)[-1].endswith(f"newer image for {registry.host}/x")

        served(body)

    def test_waiting_is_said_by_who_waits(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            box.images.transfers.set_limits(1, 1)
            messages = await pull(box, f"{registry.host}/x", "1")
            assert "Waiting" not in statuses(messages, digest(BASE)[7:19])
            assert statuses(messages, digest(TOP)[7:19])[1] == "Waiting"

        served(body)

    def test_compressed(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            layers = [gzip.compress(BASE, mtime=0), gzip.compress(TOP, mtime=0)]
            diff_ids = [digest(BASE), digest(TOP)]
            await registry.put_image("x", "1", layers, diff_ids)
            await pull(box, f"{registry.host}/x", "1")
            top = box.images.resolve(f"{registry.host}/x:1").chain_ids[-1]
            assert (Path(box.snapshots.layer(top).path) / "big").read_bytes() == NOISE

        served(body)

    def test_platforms(self, served: Served) -> None:
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

        served(body)

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
        served: Served,
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

        served(body)
