"""What the distribution-spec's conformance suite asks of a registry, asked of ours as a process:
pull, push, content discovery, content management; for sha256 and sha512 alike."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

Json = dict[str, Any]

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["errors"][0]["code"])

    @property
    def location(self) -> str:
        return self.headers["Location"]


class Server:
    """`gantry registry serve` on a port of 127.0.0.1."""

    def __init__(self, root: Path) -> None:
        program = Path(sys.executable).parent / "gantry"
        self.process = subprocess.Popen(
            [program, "registry", "serve", "--root", root, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.host = self.process.stdout.readline().split()[-1]
        self.connection = http.client.HTTPConnection(self.host, timeout=30)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named)
        response = self.connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def blob(self, name: str, data: bytes, algorithm: str = "sha256") -> str:
        digest = digest_of(data, algorithm)
        path = f"/v2/{name}/blobs/uploads/?digest={digest}"
        assert self.call("POST", path, data).status == 201
        return digest

    def manifest(
        self, name: str, reference: str, document: Json, algorithm: str = "sha256"
    ) -> tuple[str, Answer]:
        raw = json.dumps(document).encode()
        digest = digest_of(raw, algorithm)
        answer = self.call(
            "PUT",
            f"/v2/{name}/manifests/{reference or digest}",
            raw,
            Content_Type=document["mediaType"],
        )
        return digest, answer

    def image(self, name: str, tag: str, *, salt: str = "", **more: Any) -> tuple[str, Json]:
        """The manifest's digest and itself; `more` are fields of it."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "salt": salt}).encode()
        layer = f"layer {salt}".encode()
        self.blob(name, config)
        self.blob(name, layer)
        document: Json = {
            "schemaVersion": 2,
            "mediaType": OCI,
            "config": descriptor(CONFIG, config),
            "layers": [descriptor(LAYER, layer)],
            **more,
        }
        digest, answer = self.manifest(name, tag, document)
        assert answer.status == 201, answer.body
        return digest, document

    def stop(self) -> int:
        self.connection.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("registry"))
    yield server
    assert server.stop() == 0


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A repository of the test's own."""
    return "c/" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def descriptor(kind: str, data: bytes) -> Json:
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


both_algorithms = pytest.mark.parametrize("algorithm", ["sha256", "sha512"])


def test_empty_repository(server: Server, name: str) -> None:
    assert server.call("GET", "/v2/").status == 200
    nothing = digest_of(b"nothing")
    assert server.call("GET", f"/v2/{name}/tags/list").status in (200, 404)
    for method in ("GET", "HEAD"):
        for path in ("manifests/nothing", f"manifests/{nothing}", f"blobs/{nothing}"):
            assert server.call(method, f"/v2/{name}/{path}").status == 404
    answer = server.call("GET", f"/v2/{name}/manifests/nothing")
    assert answer.code == "MANIFEST_UNKNOWN"
    answer = server.call("GET", f"/v2/{name}/referrers/{nothing}")
    assert (answer.status, answer.json["manifests"]) == (200, [])


class TestBlobs:
    """Each way to push a blob, and what comes back."""

    DATA = bytes(range(256)) * 12

    def gets(self, server: Server, name: str, data: bytes, algorithm: str) -> None:
        digest = digest_of(data, algorithm)
        path = f"/v2/{name}/blobs/{digest}"
        answer = server.call("GET", path)
        assert (answer.status, answer.body) == (200, data)
        head = server.call("HEAD", path)
        assert head.status == 200
        assert head.headers["Content-Length"] == str(len(data))
        assert head.headers["Docker-Content-Digest"] == digest
        assert server.call("DELETE", path).status == 202
        assert server.call("HEAD", path).status == 404

    def start(self, server: Server, name: str, query: str = "") -> str:
        answer = server.call("POST", f"/v2/{name}/blobs/uploads/{query}")
        assert answer.status == 202
        return answer.location

    @both_algorithms
    @pytest.mark.parametrize("data", [DATA, b""], ids=["some", "empty"])
    def test_post_then_put(self, server: Server, name: str, algorithm: str, data: bytes) -> None:
        location = self.start(server, name)
        answer = server.call("PUT", f"{location}?digest={digest_of(data, algorithm)}", data)
        assert answer.status == 201
        assert answer.location == f"/v2/{name}/blobs/{digest_of(data, algorithm)}"
        self.gets(server, name, data, algorithm)

    @both_algorithms
    def test_post_only(self, server: Server, name: str, algorithm: str) -> None:
        server.blob(name, self.DATA, algorithm)
        self.gets(server, name, self.DATA, algorithm)

    @both_algorithms
    @pytest.mark.parametrize("told", [True, False])
    def test_streamed(self, server: Server, name: str, algorithm: str, told: bool) -> None:
        location = self.start(server, name, f"?digest-algorithm={algorithm}" if told else "")
        pieces = iter([self.DATA[:1000], self.DATA[1000:]])
        answer = server.call("PATCH", location, pieces, Content_Type="application/octet-stream")
        assert answer.status == 202
        digest = digest_of(self.DATA, algorithm)
        assert server.call("PUT", f"{answer.location}?digest={digest}").status == 201
        self.gets(server, name, self.DATA, algorithm)

    @both_algorithms
    @pytest.mark.parametrize("last_by_put", [True, False])
    def test_chunks_in_order_only(
        self, server: Server, name: str, algorithm: str, last_by_put: bool
    ) -> None:
        location = self.start(server, name)
        spans = [(0, 1023), (1024, 2047), (2048, len(self.DATA) - 1)]

        def chunk(method: str, location: str, start: int, end: int) -> Answer:
            return server.call(
                method,
                location,
                self.DATA[start : end + 1],
                Content_Range=f"{start}-{end}",
                Content_Type="application/octet-stream",
            )

        assert chunk("PATCH", location, *spans[1]).status == 416
        query = f"?digest={digest_of(self.DATA, algorithm)}"
        for start, end in spans[: 2 if last_by_put else 3]:
            answer = chunk("PATCH", location, start, end)
            assert answer.status == 202
            assert answer.headers["Range"] == f"0-{end}"
            location = answer.location
            assert chunk("PATCH", location, 0, 1023).status == 416
            asked = server.call("GET", location)
            assert (asked.status, asked.headers["Range"]) == (204, f"0-{end}")
            assert asked.location == location
        if last_by_put:
            assert chunk("PUT", location + query, 1024, 2047).status == 416
            assert chunk("PUT", location + query, *spans[2]).status == 201
        else:
            assert server.call("PUT", location + query).status == 201
        self.gets(server, name, self.DATA, algorithm)

    @both_algorithms
    def test_mounts(self, server: Server, name: str, algorithm: str) -> None:
        digest = server.blob(name, self.DATA, algorithm)
        other = name + "/other"
        for query in (f"mount={digest}&from={name}", f"mount={digest}"):
            answer = server.call("POST", f"/v2/{other}/blobs/uploads/?{query}")
            assert answer.status == 201
            assert answer.location == f"/v2/{other}/blobs/{digest}"
            self.gets(server, other, self.DATA, algorithm)
        missing = digest_of(b"missing", algorithm)
        location = self.start(server, other, f"?mount={missing}&from={name}")
        answer = server.call("PUT", f"{location}?digest={missing}", b"missing")
        assert answer.status == 201

    @both_algorithms
    def test_wrong_digests(self, server: Server, name: str, algorithm: str) -> None:
        wrong = digest_of(b"other", algorithm)
        location = self.start(server, name)
        for answer in (
            server.call("PUT", f"{location}?digest={wrong}", self.DATA),
            server.call("POST", f"/v2/{name}/blobs/uploads/?digest={wrong}", self.DATA),
            server.call("POST", f"/v2/{name}/blobs/uploads/?digest=sha256:abc", self.DATA),
        ):
            assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
        assert server.call("HEAD", f"/v2/{name}/blobs/{wrong}").status == 404

    def test_cancel(self, server: Server, name: str) -> None:
        location = self.start(server, name)
        assert server.call("DELETE", location).status == 204
        assert server.call("GET", location).status == 404

    def test_ranges(self, server: Server, name: str) -> None:
        digest = server.blob(name, self.DATA)
        path = f"/v2/{name}/blobs/{digest}"
        answer = server.call("GET", path, Range="bytes=0-99")
        assert (answer.status, answer.body) == (206, self.DATA[:100])
        assert answer.headers["Content-Range"] == f"bytes 0-99/{len(self.DATA)}"
        answer = server.call("GET", path, Range="bytes=3000-")
        assert (answer.status, answer.body) == (206, self.DATA[3000:])
        assert server.call("GET", path, Range="bytes=9999-").status == 416


class TestManifests:
    @both_algorithms
    def test_round_trip(self, server: Server, name: str, algorithm: str) -> None:
        """By digest and by tag; the bytes and the type come back as they were."""
        _, document = server.image(name, "first")
        document |= {"annotations": {"a": "b"}, "org.example.unknown": [1, {"x": None}]}
        digest, answer = server.manifest(name, "", document, algorithm)
        assert answer.status == 201
        assert answer.location == f"/v2/{name}/manifests/{digest}"
        assert answer.headers["Docker-Content-Digest"] == digest
        server.manifest(name, "second", document)
        for reference in (digest, "second"):
            path = f"/v2/{name}/manifests/{reference}"
            answer = server.call("GET", path, Accept=f"{OCI}, {INDEX}")
            assert (answer.status, answer.json) == (200, document)
            assert answer.headers["Content-Type"] == OCI
            head = server.call("HEAD", path)
            assert head.headers["Content-Length"] == str(len(answer.body))
        assert server.call("GET", f"/v2/{name}/manifests/{digest}").body == answer.body

    @pytest.mark.parametrize(
        "fields",
        [
            {"layers": []},
            {"artifactType": "application/x", "layers": []},
            {"annotations": {"long": "x" * 3_000_000}},
            {
                "layers": [
                    {
                        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
                        "digest": digest_of(b"elsewhere"),
                        "size": 9,
                        "urls": ["https://store.example.com/blobs/x"],
                    }
                ]
            },
        ],
        ids=["no layers", "artifact", "large", "non-distributable"],
    )
    def test_kinds(self, server: Server, name: str, fields: Json) -> None:
        digest, document = server.image(name, "x", **fields)
        assert server.call("GET", f"/v2/{name}/manifests/{digest}").json == document

    def test_data_field(self, server: Server, name: str) -> None:
        empty = b"{}"
        server.blob(name, empty)
        inline = descriptor(EMPTY, empty) | {"data": base64.b64encode(empty).decode()}
        document = {
            "schemaVersion": 2,
            "mediaType": OCI,
            "artifactType": "application/x",
            "config": inline,
            "layers": [inline],
        }
        digest, answer = server.manifest(name, "", document)
        assert answer.status == 201
        assert server.call("GET", f"/v2/{name}/manifests/{digest}").json == document

    def test_indexes(self, server: Server, name: str) -> None:
        entries = []
        for number in range(2):
            digest, document = server.image(name, f"image-{number}", salt=str(number))
            size = len(json.dumps(document))
            platform = {"os": "linux", "architecture": f"a{number}"}
            entries.append({"mediaType": OCI, "digest": digest, "size": size, "platform": platform})
        index: Json = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        inner, answer = server.manifest(name, "inner", index)
        assert answer.status == 201
        nested = {
            **index,
            "manifests": [{"mediaType": INDEX, "digest": inner, "size": len(json.dumps(index))}],
        }
        empty = {**index, "manifests": []}
        for document in (nested, empty):
            digest, answer = server.manifest(name, "", document)
            assert answer.status == 201
            answer = server.call("GET", f"/v2/{name}/manifests/{digest}")
            assert (answer.json, answer.headers["Content-Type"]) == (document, INDEX)

    def test_refused(self, server: Server, name: str) -> None:
        _, document = server.image(name, "x")
        raw = json.dumps(document).encode()
        path = f"/v2/{name}/manifests/"
        answer = server.call("PUT", path + digest_of(b"other"), raw, Content_Type=OCI)
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
        for bad in (b"", b"{", b"[]", b'{"schemaVersion":2}'):
            answer = server.call("PUT", path + "bad", bad, Content_Type=OCI)
            assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
        missing = {**document, "layers": [descriptor(LAYER, b"not here")]}
        _, answer = server.manifest(name, "missing", missing)
        assert answer.code == "MANIFEST_BLOB_UNKNOWN"
        large = json.dumps({**document, "annotations": {"x": "x" * (5 << 20)}}).encode()
        assert server.call("PUT", path + "large", large, Content_Type=OCI).status == 413
        assert server.call("GET", path + "missing").status == 404


class TestDiscovery:
    def test_tags(self, server: Server, name: str) -> None:
        for tag in ("d", "a", "c", "B", "b"):
            server.image(name, tag)
        path = f"/v2/{name}/tags/list"
        answer = server.call("GET", path)
        assert answer.json == {"name": name, "tags": ["B", "a", "b", "c", "d"]}
        found: list[str] = []
        url = path + "?n=2"
        while True:
            answer = server.call("GET", url)
            assert len(answer.json["tags"]) <= 2
            found += answer.json["tags"]
            link = answer.headers["Link"]
            if link is None:
                break
            assert link.endswith('; rel="next"')
            url = link[1 : link.index(">")]
        assert found == ["B", "a", "b", "c", "d"]
        assert server.call("GET", path + "?n=0").json["tags"] == []
        assert server.call("GET", path + "?last=b").json["tags"] == ["c", "d"]
        assert server.call("GET", path + "?n=1&last=zzz").json["tags"] == []
        assert server.call("GET", path + "?n=x").status == 400

    def test_referrers(self, server: Server, name: str) -> None:
        """Of a subject that is here, that comes later, that never comes; and its filter."""
        subject, document = server.image(name, "subject")
        about = {"mediaType": OCI, "digest": subject, "size": len(json.dumps(document))}
        never = {"mediaType": OCI, "digest": digest_of(b"never"), "size": 5}
        expected: dict[str, Json] = {}
        kinds: dict[str, Json] = {
            "application/a": {"artifactType": "application/a", "annotations": {"k": "v"}},
            "application/b": {"artifactType": "application/b", "layers": []},
            CONFIG: {},
        }
        for kind, fields in kinds.items():
            raw = {**document, **fields, "subject": about, "n": kind}
            digest, answer = server.manifest(name, "", raw)
            assert (answer.status, answer.headers["OCI-Subject"]) == (201, subject)
            expected[digest] = {"artifactType": kind, "annotations": raw.get("annotations")}
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "artifactType": "application/a",
            "manifests": [],
            "subject": about,
        }
        digest, answer = server.manifest(name, "", index)
        assert answer.headers["OCI-Subject"] == subject
        expected[digest] = {"artifactType": "application/a", "annotations": None}
        path = f"/v2/{name}/referrers/{subject}"
        answer = server.call("GET", path)
        assert answer.headers["Content-Type"] == INDEX
        found = {
            one["digest"]: {key: one.get(key) for key in ("artifactType", "annotations")}
            for one in answer.json["manifests"]
        }
        assert found == expected
        answer = server.call("GET", f"{path}?artifactType={quote('application/a', safe='')}")
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        assert len(answer.json["manifests"]) == 2
        lone, answer = server.manifest(name, "", {**document, "subject": never})
        assert answer.status == 201
        listed = server.call("GET", f"/v2/{name}/referrers/{never['digest']}").json
        assert [one["digest"] for one in listed["manifests"]] == [lone]
        for digest in [*expected, lone]:
            assert server.call("DELETE", f"/v2/{name}/manifests/{digest}").status == 202
        assert server.call("GET", path).json["manifests"] == []
        assert server.call("GET", f"/v2/{name}/referrers/sha256:x").status == 400


class TestManagement:
    def test_deletes(self, server: Server, name: str) -> None:
        digest, document = server.image(name, "one")
        server.manifest(name, "two", document)
        path = f"/v2/{name}/manifests/"
        assert server.call("DELETE", path + "one").status == 202
        assert server.call("GET", path + "one").status == 404
        assert server.call("GET", path + "two").status == 200, "a tag is not the manifest"
        assert server.call("DELETE", path + digest).status == 202
        for gone in ("two", digest):
            assert server.call("GET", path + gone).status == 404
            assert server.call("DELETE", path + gone).status == 404
        assert server.call("GET", f"/v2/{name}/tags/list").json["tags"] in ([], None)
        blob = document["layers"][0]["digest"]
        assert server.call("DELETE", f"/v2/{name}/blobs/{blob}").status == 202
        answer = server.call("DELETE", f"/v2/{name}/blobs/{blob}")
        assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")

    def test_catalog(self, server: Server, name: str) -> None:
        server.image(name + "/a", "x")
        server.image(name + "/b", "x")
        last = quote(name, safe="")
        answer = server.call("GET", f"/v2/_catalog?n=1&last={last}")
        assert answer.json["repositories"] == [name + "/a"]
        assert 'rel="next"' in answer.headers["Link"]
