"""_ping, version, info, events, and how versions are negotiated."""

from __future__ import annotations

import re
import time

import pytest
from tests.support.api import Api
from tests.support.engine import Engine

VERSIONS = ["1.24", "1.30", "1.40", "1.41", "1.44", "1.47", "1.51", "1.55"]


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.fixture(params=["", *VERSIONS])
def versioned(request: pytest.FixtureRequest, api: Api) -> Api:
    """A client of each version that the engine has."""
    newest = api.get("/version").text("ApiVersion")
    if request.param and number(request.param) > number(newest):
        pytest.skip(f"the engine has no more than {newest}")
    return api.at(str(request.param))


class TestPing:
    def test_get(self, versioned: Api) -> None:
        answer = versioned.get("/_ping")
        assert (answer.status, answer.body) == (200, b"OK")

    def test_headers(self, versioned: Api) -> None:
        for method in ("GET", "HEAD"):
            headers = versioned.request(method, "/_ping").headers
            assert number(headers["api-version"]) >= (1, 41)
            assert headers["ostype"] == "linux"
            assert headers["docker-experimental"] in ("false", "true")
            assert headers["cache-control"] == "no-cache, no-store, must-revalidate"
            assert headers["pragma"] == "no-cache"
            assert re.match(r"Docker/\S+ \(linux\)", headers["server"])
            assert headers["content-type"].startswith("text/plain")

    def test_head_has_no_body(self, api: Api) -> None:
        with api.connect() as wire:
            wire.sock.sendall(b"HEAD /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
            head, _, body = wire.rest().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b""

    def test_swarm_and_builder(self, api: Api, is_gantry: bool) -> None:
        headers = api.get("/_ping").headers
        if is_gantry:
            assert headers["swarm"] == "inactive"
            assert "builder-version" in headers

    def test_http_1_0(self, api: Api) -> None:
        with api.connect() as wire:
            wire.sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            assert wire.rest().endswith(b"\r\n\r\nOK")

    def test_many_requests_on_a_connection(self, api: Api) -> None:
        request = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
        with api.connect() as wire:
            wire.sock.sendall(request * 3)
            wire.half_close()
            assert wire.rest().count(b"\r\n\r\nOK") == 3


class TestVersions:
    def test_too_new(self, api: Api) -> None:
        newest = api.get("/version").text("ApiVersion")
        answer = api.at("1.99").get("/info")
        assert answer.status == 400
        assert answer.message == (
            f"client version 1.99 is too new. Maximum supported API version is {newest}"
        )

    def test_too_old(self, api: Api, is_gantry: bool) -> None:
        oldest = api.get("/version").text("MinAPIVersion")
        assert oldest == "1.24" or not is_gantry
        answer = api.at("1.11").get("/info")
        assert answer.status == 400
        assert (
            f"client version 1.11 is too old. Minimum supported API version is {oldest}, "
            "please upgrade your client to a newer version"
        ) in answer.body.decode()

    @pytest.mark.parametrize("version", ["x", "1", "1.x", "-1.2"])
    def test_not_a_version(self, api: Api, version: str) -> None:
        answer = api.at(version).get("/version")
        assert answer.status in (400, 404)

    def test_engine_headers_on_errors(self, api: Api) -> None:
        answer = api.get("/containers/nope/json")
        assert answer.headers["content-type"] == "application/json"
        assert "api-version" in answer.headers
        assert "server" in answer.headers

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/nope"), ("GET", "/"), ("PUT", "/containers/json")]
    )
    def test_page_not_found(self, versioned: Api, method: str, path: str) -> None:
        answer = versioned.request(method, path)
        assert answer.status in (404, 405)
        assert answer.message == "page not found"


class TestVersion:
    def test_fields(self, versioned: Api) -> None:
        answer = versioned.get("/version")
        assert answer.headers["content-type"] == "application/json"
        got = answer.obj()
        expected = {"Version", "ApiVersion", "MinAPIVersion", "GitCommit", "GoVersion", "Os"}
        assert {*expected, "Arch", "KernelVersion", "BuildTime"} <= set(got)
        assert got["Os"] == "linux"

    def test_components(self, api: Api) -> None:
        components = api.get("/version").obj()["Components"]
        assert isinstance(components, list)
        first = components[0]
        assert isinstance(first, dict)
        assert first["Name"] == "Engine"
        assert isinstance(first["Details"], dict)


class TestInfo:
    def test_fields(self, versioned: Api) -> None:
        got = versioned.get("/info").expect(200).obj()
        kinds = {
            "ID": str,
            "Containers": int,
            "ContainersRunning": int,
            "ContainersPaused": int,
            "ContainersStopped": int,
            "Images": int,
            "Driver": str,
            "DriverStatus": list,
            "Plugins": dict,
            "MemoryLimit": bool,
            "CpuCfsQuota": bool,
            "IPv4Forwarding": bool,
            "Debug": bool,
            "NFd": int,
            "NGoroutines": int,
            "SystemTime": str,
            "LoggingDriver": str,
            "CgroupDriver": str,
            "KernelVersion": str,
            "OperatingSystem": str,
            "OSType": str,
            "Architecture": str,
            "IndexServerAddress": str,
            "NCPU": int,
            "MemTotal": int,
            "DockerRootDir": str,
            "Name": str,
            "Labels": list,
            "ServerVersion": str,
            "Runtimes": dict,
            "DefaultRuntime": str,
            "Swarm": dict,
            "SecurityOptions": list,
        }
        wrong = {name for name, kind in kinds.items() if not isinstance(got.get(name), kind)}
        assert wrong == set()

    def test_root(self, engine: Engine, api: Api) -> None:
        assert api.get("/info").text("DockerRootDir") == str(engine.data_root)


class TestEvents:
    def test_window_in_the_past(self, api: Api) -> None:
        since = time.time()
        made = api.post("/containers/create", body={"Image": "busybox"}).text("Id")
        api.delete(f"/containers/{made}").expect(204)
        params: dict[str, str | int | bool | dict[str, list[str]]] = {
            "since": f"{since:.6f}",
            "until": f"{time.time():.6f}",
            "filters": {"container": [made]},
        }
        events = api.get("/events", params).lines()
        assert [event["Action"] for event in events] == ["create", "destroy"]
        first = events[0]
        assert first["Type"] == "container"
        assert first["scope"] == "local"
        assert isinstance(first["time"], int)
        assert isinstance(first["timeNano"], int)
        actor = first["Actor"]
        assert isinstance(actor, dict)
        assert actor["ID"] == made
        attributes = actor["Attributes"]
        assert isinstance(attributes, dict)
        assert attributes["image"] == "busybox"

    def test_old_fields(self, api: Api) -> None:
        since = time.time()
        old = api.at("1.24")
        made = old.post("/containers/create", body={"Image": "busybox"}).text("Id")
        params: dict[str, str | int | bool | dict[str, list[str]]] = {
            "since": f"{since:.6f}",
            "until": f"{time.time():.6f}",
            "filters": {"container": [made]},
        }
        (event,) = old.get("/events", params).lines()
        assert (event["status"], event["id"], event["from"]) == ("create", made, "busybox")

    def test_live(self, api: Api) -> None:
        with api.stream("/events", {"filters": {"type": ["container"]}}) as stream:
            assert stream.status == 200
            assert stream.headers["content-type"].startswith("application/json")
            made = api.post("/containers/create", body={"Image": "busybox"}).text("Id")
            event = next(stream.objects())
        actor = event["Actor"]
        assert isinstance(actor, dict)
        assert (event["Action"], actor["ID"]) == ("create", made)

    def test_filters_as_old_maps(self, api: Api) -> None:
        now = f"{time.time():.6f}"
        path = "/events?since=" + now + "&until=" + now + '&filters={"type":{"image":true}}'
        assert api.request("GET", path.replace('"', "%22")).status == 200


def test_df(api: Api) -> None:
    got = api.get("/system/df").expect(200).obj()
    assert {"Images", "Containers", "Volumes"} <= set(got)


def test_auth_without_registry(api: Api) -> None:
    answer = api.post("/auth", body={"username": "u", "password": "p", "serveraddress": "::bad::"})
    assert answer.status >= 400
    assert answer.message
