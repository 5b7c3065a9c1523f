"""A registry that lies."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from tests.support.exchange import BASE, INDEX, TOP, Json, Served, pull
from tests.support.imagebox import ImageBox, config, digest, layer
from tests.support.ownregistry import OwnRegistry, image_manifest

from gantry.model.errors import (
    GantryError,
    InvalidParameter,
)


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

    def test_manifests(self, served: Served) -> None:
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

        served(body)

    def test_index_cycle(self, served: Served) -> None:
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

        served(body)

    def test_layers_that_lead_out(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            evil = layer({"../../../evil": "x" * 3_000_000})
            await registry.put_image("x", "1", [BASE, evil])
            with pytest.raises(GantryError, match="outside"):
                await pull(box, f"{registry.host}/x", "1")
            assert not box.images.catalog.images

        served(body)

    def test_wrong_diff_id(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE], [digest(TOP)])
            with pytest.raises(InvalidParameter, match="wrong diff id"):
                await pull(box, f"{registry.host}/x", "1")
            assert not box.images.catalog.images

        served(body)
