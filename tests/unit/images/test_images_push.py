"""Pushes to our own registry."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from tests.support.exchange import BASE, TOP, Served, pull, push, statuses
from tests.support.imagebox import ImageBox, digest, docker_archive
from tests.support.ownregistry import OwnRegistry

from gantry.model.errors import (
    GantryError,
)


class TestPush:
    def test_messages_and_digest(self, served: Served) -> None:
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

        served(body)

    def test_mounts(self, served: Served) -> None:
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

        served(body)

    def test_all_tags(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await box.load(docker_archive([BASE], ["a"]))
            for tag in ("1", "2"):
                await box.images.tag("a", f"{registry.host}/x", tag)
            await push(box, f"{registry.host}/x")
            _, _, data = await registry.call("GET", "/v2/x/tags/list")
            assert json.loads(data)["tags"] == ["1", "2"]

        served(body)

    def test_errors(self, served: Served) -> None:
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

        served(body)

    def test_breaks_are_tried_again(self, served: Served) -> None:
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

        served(body)
