"""Versions, headers, routes that do not exist, errors."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.unit.api.fake_engine import engine
from tests.unit.http.wire_client import run

from gantry.api.app import all_routes
from gantry.api.router import Router
from gantry.model import errors

MAXIMUM = " Maximum supported API version is 1.55"
MINIMUM = " requires minimum API version 1.30"


def test_ping(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            for method in ("GET", "HEAD"):
                answer = await served.client.request(method, "/_ping")
                assert answer.status == 200
                assert answer.headers["api-version"] == "1.55"
                assert answer.headers["docker-experimental"] == "false"
                assert answer.headers["ostype"] == "linux"
                assert answer.headers["server"] == "Docker/29.0.0 (linux)"
                assert answer.headers["swarm"] == "inactive"
                assert answer.headers["builder-version"] == "1"
                assert answer.headers["pragma"] == "no-cache"
                assert answer.headers["cache-control"] == "no-cache, no-store, must-revalidate"
                assert answer.headers["content-type"] == "text/plain; charset=utf-8"
                assert answer.headers["content-length"] == ("2" if method == "GET" else "0")
            assert answer.headers["date"].endswith(" GMT")

    run(main)


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/v1.24/version", 200, ""),
        ("/v1.55/version", 200, ""),
        ("/v1.30.0/version", 200, ""),
        ("/version", 200, ""),
        ("http://docker/v1.41/version", 200, ""),
        ("/v1.41/%76ersion", 200, ""),
        ("/v1.56/version", 400, "client version 1.56 is too new." + MAXIMUM),
        ("/v2.0/version", 400, "client version 2.0 is too new." + MAXIMUM),
        ("/v1.41/nope", 404, "page not found"),
        ("/v1.99/nope", 404, "page not found"),
        ("/vx/version", 404, "page not found"),
        ("/version/", 404, "page not found"),
        ("/", 404, "page not found"),
        ("/containers", 404, "page not found"),
        ("/containers/", 404, "page not found"),
        ("/v1.24/distribution/a/json", 400, "GET /distribution/{name}/json" + MINIMUM),
    ],
)  # fmt: skip
def test_paths(tmp_path: Path, target: str, status: int, message: str) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.get(target)
            assert answer.status == status
            if message:
                assert answer.message == message
                assert answer.headers["content-type"] == "application/json"
            assert ("api-version" in answer.headers) == (status != 404)

    run(main)


def test_a_client_too_old_gets_plain_text(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.get("/v1.12/info")
            assert answer.status == 400
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.body == (
                b"client version 1.12 is too old. Minimum supported API version is 1.24, please "
                b"upgrade your client to a newer version\n"
            )

    run(main)


def test_a_raised_minimum(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path, min_version=44, max_version=50) as served:
            assert (await served.get("/v1.43/info")).message == (
                "client version 1.43 is too old. Minimum supported API version is 1.44, please "
                "upgrade your client to a newer version"
            )
            answer = await served.get("/v1.44/info")
            assert answer.headers["api-version"] == "1.50"
            assert "too new" in (await served.get("/v1.51/info")).message

    run(main)


def test_wrong_methods_options_and_unclean_paths(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            assert (await served.post("/version")).status == 404
            assert (await served.client.request("PATCH", "/version")).message == "page not found"
            assert (await served.client.request("OPTIONS", "/anything")).body == b""
            moved = await served.get("//v1.41//containers/./x/../json?all=1")
            assert moved.status == 301
            assert moved.headers["location"] == "/v1.41/containers/json?all=1"

    run(main)


def test_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            for name in (b"%ff", b"%ed%b0%80"):
                served.client.send(b"GET /containers/" + name + b"/json?a=" + name)
                served.client.send(b" HTTP/1.1\r\nHost: d\r\n\r\n")
                answer = await served.client.answer()
                assert answer.status == 404
                assert answer.message.startswith("No such container: ")

    run(main)


def test_no_header_can_be_injected_by_a_path(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            moved = await served.get("//x%0d%0aEvil:%201")
            assert "evil" not in moved.headers
            assert (await served.get("/%0d%0a")).status == 404

    run(main)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFound("m"), 404),
        (errors.InvalidParameter("m"), 400),
        (errors.Conflict("m"), 409),
        (errors.Unauthorized("m"), 401),
        (errors.Forbidden("m"), 403),
        (errors.Unavailable("m"), 503),
        (errors.TooManyRequests("m"), 429),
        (errors.NotImplementedHere("m"), 501),
        (errors.System("m"), 500),
        (errors.StartFailed("m", 127), 400),
        (errors.StartFailed("m", 126), 400),
        (errors.StartFailed("m", 128), 500),
        (errors.GantryError("m"), 500),
        (RuntimeError("m"), 500),
    ],
)
def test_errors_become_statuses(
    tmp_path: Path, error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            served.fakes.recorder.errors["start"] = error
            answer = await served.post("/containers/c/start")
            assert (answer.status, answer.body) == (status, b'{"message":"m"}\n')
            # the connection goes on
            assert (await served.get("/_ping")).status == 200

    with caplog.at_level(logging.ERROR):
        run(main)
    if isinstance(error, RuntimeError):
        assert "unexpected m" in caplog.text
        assert "Traceback" in caplog.text


def test_not_modified_has_no_body(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            served.fakes.recorder.errors["start"] = errors.NotModified("m")
            answer = await served.post("/containers/c/start")
            assert answer.status == 304
            assert (await served.get("/_ping")).body == b"OK"

    run(main)


def test_an_action_goes_on_when_its_client_leaves(tmp_path: Path) -> None:
    import asyncio

    async def main() -> None:
        async with engine(tmp_path) as served:
            served.fakes.containers.gate = asyncio.Event()
            served.client.send(b"POST /containers/c/stop HTTP/1.1\r\nHost: d\r\n\r\n")
            while not served.fakes.recorder.calls:
                await asyncio.sleep(0)
            await served.client.close()
            served.fakes.containers.gate.set()
            while served.fakes.recorder.calls[-1][0] != "stop done":
                await asyncio.sleep(0)

    run(main)


ROUTER = Router(all_routes())


@pytest.mark.parametrize(
    ("method", "path", "pattern", "name", "rest"),
    [
        ("GET", "/images/json", "/images/json", "", ""),
        ("GET", "/images/a/b/c:d/json", "/images/{name}/json", "a/b/c:d", ""),
        ("GET", "/images/json/json", "/images/{name}/json", "json", ""),
        ("DELETE", "/images/a/b", "/images/{name}", "a/b", ""),
        ("POST", "/images/h:5000/a/push", "/images/{name}/push", "h:5000/a", ""),
        ("GET", "/networks", "/networks", "", ""),
        ("GET", "/networks/", "/networks/", "", ""),
        ("GET", "/networks/a", "/networks/{name}", "a", ""),
        ("POST", "/networks/create", "/networks/create", "", ""),
        ("DELETE", "/containers/x", "/containers/{name}", "x", ""),
        ("GET", "/containers/x/attach/ws", "/containers/{name}/attach/{rest}", "x", "ws"),
        ("DELETE", "/containers/x/attach/ws", "/containers/{name}", "x/attach/ws", ""),
        ("GET", "/plugins/privileges", "/plugins/privileges", "", ""),
    ],
)  # fmt: skip
def test_router(method: str, path: str, pattern: str, name: str, rest: str) -> None:
    found = ROUTER.find(method, path)
    assert found is not None
    assert (found[0].pattern, found[1], found[2]) == (pattern, name, rest)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/swarm", 503), ("GET", "/services", 503), ("GET", "/nodes", 503),
        ("GET", "/tasks", 503), ("GET", "/secrets", 503), ("GET", "/configs", 503),
        ("POST", "/services/create", 503), ("POST", "/swarm/leave", 503),
        ("POST", "/swarm/init", 501), ("POST", "/build", 501), ("POST", "/session", 501),
        ("POST", "/grpc", 501), ("GET", "/plugins", 200), ("GET", "/plugins/x/json", 404),
        ("POST", "/build/prune", 200), ("GET", "/containers/c/checkpoints", 501),
        ("POST", "/containers/c/checkpoints", 501),
        ("DELETE", "/containers/c/checkpoints/x", 501),
        ("PUT", "/volumes/x", 503), ("GET", "/debug/vars", 200),
    ],
)  # fmt: skip
def test_what_is_not_here_yet(tmp_path: Path, method: str, path: str, status: int) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.client.request(method, path)
            assert answer.status == status
            if status == 503 and path not in {"/volumes/x", "/swarm/leave"}:
                assert answer.message.startswith("This node is not a swarm manager. Use ")

    run(main)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", f"/v1.{'9' * 5000}/version"),
        ("GET", f"/containers/json?limit={'9' * 5000}"),
        ("POST", f"/containers/abc/stop?t={'9' * 5000}"),
        ("POST", f"/containers/abc/resize?w=1&h={'9' * 5000}"),
        ("GET", f"/containers/json?filters={'%5B' * 50000}"),
    ],
)
def test_absurd_numbers_are_the_client_s_fault(tmp_path: Path, method: str, target: str) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.client.request(method, target)
            assert answer.status == 400
            assert (
                "range" in answer.message
                or "too new" in answer.message
                or "filter" in (answer.message)
            )

    run(main)
