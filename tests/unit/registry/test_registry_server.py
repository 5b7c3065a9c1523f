"""Our registry against the distribution specification, request by request."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.support.imagebox import digest
from tests.support.ownregistry import OwnRegistry, image_manifest, own_registry

from gantry.model.errors import InvalidParameter
from gantry.registry.server.access import Access

Body = Callable[[OwnRegistry], Awaitable[None]]
NAME = "some/repo"
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYER = b"layer bytes" * 1000
OCI = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Body], None]:
    def runner(body: Body) -> None:
        async def main() -> None:
            async with own_registry(tmp_path / "registry") as registry:
                await body(registry)

        asyncio.run(main())

    return runner


def code(body: bytes) -> str:
    return str(json.loads(body)["errors"][0]["code"])


async def push(registry: OwnRegistry, name: str = NAME, tag: str = "v1") -> str:
    await registry.put_blob(name, CONFIG)
    await registry.put_blob(name, LAYER)
    return await registry.put_manifest(name, tag, image_manifest(CONFIG, [LAYER]))


def test_version(run: Callable[[Body], None]) -> None:
    async def body(registry: OwnRegistry) -> None:
        for path in ("/v2/", "/v2"):
            status, headers, _ = await registry.call("GET", path)
            assert status == 200
            assert headers["Docker-Distribution-API-Version"] == "registry/2.0"
        assert (await registry.call("GET", "/"))[0] == 404
        assert (await registry.call("POST", "/v2/"))[0] == 405

    run(body)


class TestPull:
    def test_manifest(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            identity = await push(registry)
            for reference in ("v1", identity):
                path = f"/v2/{NAME}/manifests/{reference}"
                status, headers, data = await registry.call("GET", path)
                assert status == 200
                assert digest(data) == identity == headers["Docker-Content-Digest"]
                assert headers["Content-Type"] == OCI
                status, headers, nothing = await registry.call("HEAD", path)
                assert status == 200
                assert nothing == b""
                assert int(headers["Content-Length"]) == len(data)
            for reference in ("v2", "sha256:" + "a" * 64):
                status, _, data = await registry.call("GET", f"/v2/{NAME}/manifests/{reference}")
                assert status == 404
                assert code(data) == "MANIFEST_UNKNOWN"
            status, _, _ = await registry.call("GET", f"/v2/other/manifests/{identity}")
            assert status == 404, "another repository does not have it"

        run(body)

    def test_blob_and_ranges(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            identity = await registry.put_blob(NAME, LAYER)
            path = f"/v2/{NAME}/blobs/{identity}"
            status, headers, data = await registry.call("GET", path)
            assert (status, data) == (200, LAYER)
            assert headers["Docker-Content-Digest"] == identity
            status, headers, data = await registry.call("HEAD", path)
            assert (status, data, int(headers["Content-Length"])) == (200, b"", len(LAYER))
            status, headers, data = await registry.call(
                "GET", path, headers={"Range": "bytes=10-19"}
            )
            assert (status, data) == (206, LAYER[10:20])
            assert headers["Content-Range"] == f"bytes 10-19/{len(LAYER)}"
            status, _, _ = await registry.call(
                "GET", path, headers={"Range": f"bytes={len(LAYER)}-"}
            )
            assert status == 416
            missing = "sha256:" + "b" * 64
            status, _, data = await registry.call("GET", f"/v2/{NAME}/blobs/{missing}")
            assert (status, code(data)) == (404, "BLOB_UNKNOWN")
            status, _, _ = await registry.call("GET", f"/v2/other/blobs/{identity}")
            assert status == 404
            for bad in ("sha256:xyz", "nonsense", "..%2f..%2fetc%2fpasswd"):
                status, _, _ = await registry.call("GET", f"/v2/{NAME}/blobs/{bad}")
                assert status in (400, 404)

        run(body)


class TestUpload:
    async def start(self, registry: OwnRegistry) -> str:
        status, headers, _ = await registry.call("POST", f"/v2/{NAME}/blobs/uploads/")
        assert status == 202
        assert headers["Range"] == "0-0"
        return str(headers["Location"])

    def test_post_then_put(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            location = await self.start(registry)
            status, headers, _ = await registry.call(
                "PUT", f"{location}?digest={digest(LAYER)}", data=LAYER
            )
            assert status == 201
            assert headers["Location"].endswith(f"/blobs/{digest(LAYER)}")
            assert (await registry.call("GET", location))[0] == 404

        run(body)

    def test_chunks(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            location = await self.start(registry)
            half = len(LAYER) // 2
            status, headers, _ = await registry.call(
                "PATCH",
                location,
                data=LAYER[:half],
                headers={"Content-Range": f"0-{half - 1}"},
            )
            assert (status, headers["Range"]) == (202, f"0-{half - 1}")
            for wrong in ("0-9", f"{half + 1}-{len(LAYER)}", "x-y"):
                status, headers, _ = await registry.call(
                    "PATCH", location, data=b"x" * 10, headers={"Content-Range": wrong}
                )
                assert status == 416
                assert headers["Range"] == f"0-{half - 1}"
            status, headers, _ = await registry.call("GET", location)
            assert (status, headers["Range"]) == (204, f"0-{half - 1}")
            status, _, _ = await registry.call(
                "PUT",
                f"{location}?digest={digest(LAYER)}",
                data=LAYER[half:],
                headers={"Content-Range": f"{half}-{len(LAYER) - 1}"},
            )
            assert status == 201

        run(body)

    def test_resume_after_a_restart(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with own_registry(tmp_path) as registry:
                location = await self.start(registry)
                await registry.call("PATCH", location, data=LAYER[:500])
            async with own_registry(tmp_path) as registry:
                status, headers, _ = await registry.call("GET", location)
                assert (status, headers["Range"]) == (204, "0-499")
                status, _, _ = await registry.call(
                    "PUT", f"{location}?digest={digest(LAYER)}", data=LAYER[500:]
                )
                assert status == 201

        asyncio.run(main())

    def test_wrong_digest(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            location = await self.start(registry)
            status, _, data = await registry.call(
                "PUT", f"{location}?digest=sha256:{'a' * 64}", data=LAYER
            )
            assert (status, code(data)) == (400, "DIGEST_INVALID")
            status, _, _ = await registry.call("GET", f"/v2/{NAME}/blobs/sha256:{'a' * 64}")
            assert status == 404
            for query in ("", "?digest=nonsense"):
                location = await self.start(registry)
                assert (await registry.call("PUT", location + query, data=b""))[0] == 400

        run(body)

    def test_cancel(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            location = await self.start(registry)
            assert (await registry.call("DELETE", location))[0] == 204
            status, _, data = await registry.call("PATCH", location, data=b"x")
            assert (status, code(data)) == (404, "BLOB_UPLOAD_UNKNOWN")
            other = location.replace(NAME, "else")
            location = await self.start(registry)
            assert (await registry.call("GET", other))[0] == 404

        run(body)

    def test_mount(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            identity = await registry.put_blob("a", LAYER)
            path = f"/v2/b/blobs/uploads/?mount={identity}&from="
            status, headers, _ = await registry.call("POST", path + "a")
            assert status == 201
            assert headers["Docker-Content-Digest"] == identity
            assert (await registry.call("GET", f"/v2/b/blobs/{identity}"))[2] == LAYER
            assert (await registry.call("POST", path + "nobody"))[0] == 202
            assert (await registry.call("POST", path + "../../etc"))[0] == 202

        run(body)

    def test_sha512(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            import hashlib

            identity = "sha512:" + hashlib.sha512(LAYER).hexdigest()
            status, _, _ = await registry.call(
                "POST", f"/v2/{NAME}/blobs/uploads/?digest={identity}", data=LAYER
            )
            assert status == 201
            assert (await registry.call("GET", f"/v2/{NAME}/blobs/{identity}"))[2] == LAYER

        run(body)


class TestPut:
    @pytest.mark.parametrize(
        ("document", "expected"),
        [
            (b"", "MANIFEST_INVALID"),
            (b"[]", "MANIFEST_INVALID"),
            (b"{", "MANIFEST_INVALID"),
            (b'{"mediaType": "%s"}' % OCI.encode(), "MANIFEST_INVALID"),
            (b" " * (5 << 20), "MANIFEST_INVALID"),
            (
                json.dumps(image_manifest(b"unknown", [])).encode(),
                "MANIFEST_BLOB_UNKNOWN",
            ),
            (
                json.dumps({**image_manifest(CONFIG, []), "mediaType": "other"}).encode(),
                "MANIFEST_INVALID",
            ),
        ],
    )
    def test_refused(self, run: Callable[[Body], None], document: bytes, expected: str) -> None:
        async def body(registry: OwnRegistry) -> None:
            await registry.put_blob(NAME, CONFIG)
            status, _, data = await registry.call(
                "PUT",
                f"/v2/{NAME}/manifests/x",
                data=document,
                headers={"Content-Type": OCI},
            )
            assert status == (413 if len(document) > 4 << 20 else 400)
            assert code(data) == expected
            assert (await registry.call("GET", f"/v2/{NAME}/manifests/x"))[0] == 404

        run(body)

    def test_by_digest(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            await registry.put_blob(NAME, CONFIG)
            raw = json.dumps(image_manifest(CONFIG, [])).encode()
            for reference, expected in ((digest(raw), 201), ("sha256:" + "a" * 64, 400)):
                status, _, _ = await registry.call(
                    "PUT",
                    f"/v2/{NAME}/manifests/{reference}",
                    data=raw,
                    headers={"Content-Type": OCI},
                )
                assert status == expected
            bad = "-" + "x" * 10
            status, _, data = await registry.call(
                "PUT", f"/v2/{NAME}/manifests/{bad}", data=raw, headers={"Content-Type": OCI}
            )
            assert (status, code(data)) == (400, "TAG_INVALID")

        run(body)

    def test_names(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            for name in ("UPPER", "a//b", "a%2f..%2fb", "_x", "a/_blobs", "x" * 256, "%2e%2e/x"):
                status, _, _ = await registry.call("POST", f"/v2/{name}/blobs/uploads/")
                assert status in (400, 404), name
            assert (await registry.call("POST", "/v2/a.b/c__d/e-f/blobs/uploads/"))[0] == 202

        run(body)


class TestDelete:
    def test_all_kinds(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            identity = await push(registry)
            await registry.put_manifest(NAME, "v2", image_manifest(CONFIG, [LAYER]))
            path = f"/v2/{NAME}"
            assert (await registry.call("DELETE", f"{path}/manifests/v2"))[0] == 202
            assert (await registry.call("GET", f"{path}/manifests/v2"))[0] == 404
            assert (await registry.call("GET", f"{path}/manifests/v1"))[0] == 200
            assert (await registry.call("DELETE", f"{path}/manifests/{identity}"))[0] == 202
            assert (await registry.call("GET", f"{path}/manifests/v1"))[0] == 404
            assert (await registry.call("DELETE", f"{path}/manifests/{identity}"))[0] == 404
            blob = f"{path}/blobs/{digest(LAYER)}"
            assert (await registry.call("DELETE", blob))[0] == 202
            assert (await registry.call("GET", blob))[0] == 404
            assert (await registry.call("DELETE", blob))[0] == 404

        run(body)

    def test_collected_at_the_next_start(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with own_registry(tmp_path) as registry:
                await push(registry)
                await push(registry, "kept")
                identity = await registry.put_blob(NAME, b"only here")
                await registry.call("DELETE", f"/v2/{NAME}/blobs/{identity}")
            async with own_registry(tmp_path) as registry:
                blobs = {blob.digest for blob in registry.registry.blobs.walk()}
                assert identity not in blobs
                assert digest(LAYER) in blobs
                assert (await registry.call("GET", "/v2/kept/manifests/v1"))[0] == 200

        asyncio.run(main())


class TestLists:
    def test_tags(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            for tag in ("b", "a", "c", "d"):
                await push(registry, tag=tag)
            path = f"/v2/{NAME}/tags/list"
            status, _, data = await registry.call("GET", path)
            assert json.loads(data) == {"name": NAME, "tags": ["a", "b", "c", "d"]}
            status, headers, data = await registry.call("GET", path + "?n=3")
            assert json.loads(data)["tags"] == ["a", "b", "c"]
            assert headers["Link"] == f'<{path}?last=c&n=3>; rel="next"'
            status, headers, data = await registry.call("GET", path + "?n=3&last=c")
            assert json.loads(data)["tags"] == ["d"]
            assert "Link" not in headers
            assert json.loads((await registry.call("GET", path + "?n=0"))[2])["tags"] == []
            status, _, data = await registry.call("GET", path + "?n=-1")
            assert (status, code(data)) == (400, "PAGINATION_NUMBER_INVALID")
            status, _, data = await registry.call("GET", "/v2/nobody/tags/list")
            assert (status, code(data)) == (404, "NAME_UNKNOWN")

        run(body)

    def test_catalog(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            assert json.loads((await registry.call("GET", "/v2/_catalog"))[2]) == {
                "repositories": []
            }
            for name in ("b", "a/x", "a"):
                await push(registry, name)
            _, _, data = await registry.call("GET", "/v2/_catalog")
            assert json.loads(data)["repositories"] == ["a", "a/x", "b"]
            _, headers, data = await registry.call("GET", "/v2/_catalog?n=1")
            assert json.loads(data)["repositories"] == ["a"]
            assert "last=a" in headers["Link"]

        run(body)

    def test_referrers(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            subject = await push(registry)
            path = f"/v2/{NAME}/referrers/{subject}"
            status, headers, data = await registry.call("GET", path)
            assert (status, json.loads(data)["manifests"]) == (200, [])
            assert headers["Content-Type"] == "application/vnd.oci.image.index.v1+json"
            document = image_manifest(CONFIG, [])
            document |= {
                "artifactType": "application/x-sbom",
                "subject": {"mediaType": OCI, "digest": subject, "size": 1},
                "annotations": {"a": "b"},
            }
            raw = json.dumps(document).encode()
            status, headers, _ = await registry.call(
                "PUT",
                f"/v2/{NAME}/manifests/{digest(raw)}",
                data=raw,
                headers={"Content-Type": OCI},
            )
            assert (status, headers["OCI-Subject"]) == (201, subject)
            _, _, data = await registry.call("GET", path)
            assert json.loads(data)["manifests"] == [
                {
                    "mediaType": OCI,
                    "digest": digest(raw),
                    "size": len(raw),
                    "artifactType": "application/x-sbom",
                    "annotations": {"a": "b"},
                }
            ]
            _, headers, data = await registry.call("GET", path + "?artifactType=x")
            assert json.loads(data)["manifests"] == []
            assert headers["OCI-Filters-Applied"] == "artifactType"
            await registry.call("DELETE", f"/v2/{NAME}/manifests/{digest(raw)}")
            assert json.loads((await registry.call("GET", path))[2])["manifests"] == []

        run(body)


def test_htpasswd(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    try:
        subprocess.run(["htpasswd", "-Bbc", file, "me", "secret"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("htpasswd is not installed")

    async def main() -> None:
        async with own_registry(tmp_path / "r", access=Access(str(file))) as registry:
            status, headers, data = await registry.call("GET", "/v2/")
            assert (status, code(data)) == (401, "UNAUTHORIZED")
            assert headers["WWW-Authenticate"] == 'Basic realm="gantry"'

            async def login(pair: bytes) -> int:
                header = {"Authorization": "Basic " + base64.b64encode(pair).decode()}
                return (await registry.call("GET", "/v2/", headers=header))[0]

            assert await login(b"me:secret") == 200
            assert await login(b"me:secret") == 200
            assert await login(b"me:wrong") == 401
            assert await login(b"you:secret") == 401
            assert await login(b"me:secret\0x") == 401
            assert await login(b"\xff") == 401
            status, _, _ = await registry.call("GET", "/v2/", headers={"Authorization": "Basic %"})
            assert status == 401

    asyncio.run(main())
    file.write_text("me:plain\n")
    with pytest.raises(InvalidParameter, match="bcrypt"):
        Access(str(file))
