"""Our registry against the distribution specification, request by request."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from tests.support.imagebox import digest
from tests.support.ownregistry import OwnRegistry, image_manifest, own_registry
from yarl import URL

from gantry.model.errors import InvalidParameter
from gantry.registry.server import uploads
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

    def test_mount_from_anywhere(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            identity = await registry.put_blob("a/b", LAYER)
            path = f"/v2/c/blobs/uploads/?mount={identity}"
            assert (await registry.call("POST", path))[0] == 201
            assert (await registry.call("GET", f"/v2/c/blobs/{identity}"))[2] == LAYER
            for name in ("a/b", "c"):
                await registry.call("DELETE", f"/v2/{name}/blobs/{identity}")
            assert (await registry.call("POST", path))[0] == 202, "nobody has it any more"

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

            other = LAYER + b"!"
            identity = "sha512:" + hashlib.sha512(other).hexdigest()
            for query in ("", "?digest-algorithm=sha512"):  # told at the end, told at the start
                _, headers, _ = await registry.call("POST", f"/v2/{NAME}/blobs/uploads/{query}")
                location = headers["Location"]
                await registry.call("PATCH", location, data=other[:7])
                status, _, _ = await registry.call(
                    "PUT", f"{location}?digest={identity}", data=other[7:]
                )
                assert status == 201
                path = f"/v2/{NAME}/blobs/{identity}"
                assert (await registry.call("GET", path))[2] == other
                await registry.call("DELETE", path)
            path = f"/v2/{NAME}/blobs/uploads/?digest-algorithm=md5"
            assert (await registry.call("POST", path))[0] == 400

        run(body)

    def test_many_unfinished(
        self, run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They cost no descriptors, and each goes on from where it was."""
        monkeypatch.setattr(uploads, "_OPEN", 3)

        async def body(registry: OwnRegistry) -> None:
            before = len(os.listdir("/proc/self/fd"))
            locations = [await self.start(registry) for _ in range(20)]
            for location in locations:
                await registry.call("PATCH", location, data=LAYER[:9])
            assert len(os.listdir("/proc/self/fd")) <= before + 6
            for location in locations:
                status, headers, _ = await registry.call("GET", location)
                assert (status, headers["Range"]) == (204, "0-8")
            status, _, _ = await registry.call(
                "PUT", f"{locations[0]}?digest={digest(LAYER)}", data=LAYER[9:]
            )
            assert status == 201

        run(body)

    def test_abandoned(self, run: Callable[[Body], None], tmp_path: Path) -> None:
        async def body(registry: OwnRegistry) -> None:
            locations = [await self.start(registry) for _ in range(3)]
            registry.registry.close_uploads()
            ingests = tmp_path / "registry/content/ingest"
            folders = sorted(ingests.iterdir())
            for folder in folders[:2]:
                os.utime(folder / "data", (1, 1))
            await registry.registry.collect()
            assert list(ingests.iterdir()) == folders[2:]
            statuses = [(await registry.call("GET", one))[0] for one in locations]
            assert sorted(statuses) == [204, 404, 404]

        run(body)

    def test_a_client_that_falls_silent(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            registry.registry.set_silence(0.05)
            location = await self.start(registry)
            never = asyncio.Event()

            async def half() -> AsyncIterator[bytes]:
                yield LAYER[:100]
                await never.wait()

            status, _, data = await registry.call("PATCH", location, data=half())
            assert (status, code(data)) == (400, "BLOB_UPLOAD_INVALID")
            registry.registry.set_silence(30)
            _, headers, _ = await registry.call("GET", location)
            assert headers["Range"] == "0-99", "what it did send is kept"

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


class TestTags:
    def test_with_a_digest(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            manifest = await push(registry)
            _, _, raw = await registry.call("GET", f"/v2/{NAME}/manifests/{manifest}")
            path = f"/v2/{NAME}/manifests/{manifest}?tag=a&tag=b"
            status, headers, _ = await registry.call(
                "PUT", path, data=raw, headers={"Content-Type": OCI}
            )
            assert (status, headers.getall("OCI-Tag")) == (201, ["a", "b"])
            for tag in "ab":
                _, headers, _ = await registry.call("HEAD", f"/v2/{NAME}/manifests/{tag}")
                assert headers["Docker-Content-Digest"] == manifest
            status, _, data = await registry.call(
                "PUT", path + "&tag=../x", data=raw, headers={"Content-Type": OCI}
            )
            assert (status, code(data)) == (400, "TAG_INVALID")

        run(body)


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/v2/../../etc/manifests/x",
            "/v2/%2e%2e/%2e%2e/etc/blobs/uploads/",
            "/v2/a%2f..%2f..%2fb/tags/list",
            "/v2/a/blobs/sha256:..%2f..%2f..%2fhtpasswd",
            "/v2/a/blobs/sha256:" + "A" * 64,
            "/v2/a/manifests/..",
            "/v2/a/manifests/%2e%2e%2f%2e%2e",
            "/v2/a/manifests/" + "x" * 129,
            "/v2/a/referrers/..%2f",
            "/v2/a/_blobs/manifests/x",
            "/v2/_catalog/manifests/x",
            "/v2/.a/tags/list",
            "/v2/" + "a/" * 200 + "b/tags/list",
            "/v2/" + "a-" * 3000 + "/tags/list",
        ],
    )
    def test_leading_out(self, run: Callable[[Body], None], tmp_path: Path, path: str) -> None:
        async def body(registry: OwnRegistry) -> None:
            def there() -> list[str]:
                return sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*"))

            before = there()
            for method in ("GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"):
                url = URL(f"http://{registry.host}{path}", encoded=True)
                async with aiohttp.request(
                    method, url, data=b"{}", headers={"Content-Type": OCI}
                ) as response:
                    assert 400 <= response.status < 500, (method, response.status)
            assert there() == before

        run(body)

    def test_large_heads(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            async def status(headers: dict[str, str]) -> int:
                return (await registry.call("GET", "/v2/", headers=headers))[0]

            assert await status({"X-Long": "x" * 100_000}) == 400
            assert await status({f"X-{n}": "x" for n in range(5000)}) == 400
            assert await status({}) == 200

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

    def test_collected_while_it_serves(self, run: Callable[[Body], None]) -> None:
        async def body(registry: OwnRegistry) -> None:
            manifest = await push(registry)
            kept = await push(registry, "other")
            assert kept == manifest
            lone = await registry.put_blob(NAME, b"of no manifest")
            assert await registry.registry.collect() == 0
            await registry.call("DELETE", f"/v2/{NAME}/blobs/{lone}")
            for blob in (CONFIG, LAYER):
                await registry.call("DELETE", f"/v2/{NAME}/blobs/{digest(blob)}")
            await registry.call("DELETE", f"/v2/{NAME}/manifests/{manifest}")
            assert await registry.registry.collect() == 1
            assert (await registry.call("GET", f"/v2/other/blobs/{digest(LAYER)}"))[2] == LAYER
            assert (await registry.call("GET", "/v2/other/manifests/v1"))[0] == 200

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
