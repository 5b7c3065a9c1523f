"""/containers: what the services are asked, by version."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET
from tests.unit.api.fake_engine import Served, engine
from tests.unit.http.wire_client import Answer, run

from gantry.model.container import CreateRequest, MountSpec, PortBinding, UpdateRequest

MAC = "02:42:ac:11:00:02"
SYSCTLS = "com.docker.network.endpoint.sysctls"


async def create(served: Served, version: int, **body: Any) -> tuple[Answer, CreateRequest | None]:
    answer = await served.post(f"/v1.{version}/containers/create", {"Image": "i"} | body)
    calls = [given for name, given in served.fakes.recorder.calls if name == "create"]
    request = calls[-1]["request"] if answer.status == 201 else None
    assert request is None or isinstance(request, CreateRequest)
    return answer, request


def test_create(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.post(
                "/v1.43/containers/create?name=n&platform=linux/amd64",
                {
                    "image": "i",
                    "Cmd": ["a"],
                    "Labels": None,
                    "Volumes": {"/v": {}},
                    "Unknown": 1,
                    "HostConfig": {"Memory": 5, "PortBindings": {"80/tcp": [{"HostPort": "1"}]}},
                    "NetworkingConfig": {"EndpointsConfig": {"n": {"Aliases": ["x"]}}},
                },
            )
            assert answer.status == 201
            assert answer.json()["Warnings"] == []
            request = served.fakes.recorder.last("create")["request"]
            assert (request.name, request.platform) == ("n", "linux/amd64")
            assert (request.config.image, request.config.cmd) == ("i", ["a"])
            assert request.host_config.memory == 5
            assert request.host_config.port_bindings == {"80/tcp": [PortBinding(host_port="1")]}
            assert request.networking_config.endpoints_config["n"].aliases == ["x"]
            await served.post("/v1.40/containers/create?platform=linux/arm64", {"Image": "i"})
            assert served.fakes.recorder.last("create")["request"].platform == ""

    run(main)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "invalid JSON: EOF"),
        (b"{}", "config cannot be empty in order to create a container"),
        (b"null", "config cannot be empty in order to create a container"),
        (b'{"HostConfig":{}}', "config cannot be empty in order to create a container"),
        (
            b"[]",
            "invalid JSON: json: cannot unmarshal array into Go value of type CreateRequest",
        ),
        (
            b'{"Image":5}',
            "invalid JSON: json: cannot unmarshal number into Go struct field "
            "CreateRequest.Image of type string",
        ),
        (
            b'{"Image":"i","HostConfig":{"Memory":"x"}}',
            "invalid JSON: json: cannot unmarshal string into Go struct field "
            "HostConfig.HostConfig.Memory of type int64",
        ),
        (
            b'{"Image":"i","NetworkingConfig":[]}',
            "invalid JSON: json: cannot unmarshal array into Go struct field "
            "CreateRequest.NetworkingConfig of type NetworkingConfig",
        ),
        (b'{"Image":"i"} x', "unexpected content after JSON"),
    ],
)
def test_create_refuses(tmp_path: Path, body: bytes, message: str) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.post("/containers/create", body)
            assert (answer.status, answer.message) == (400, message)
            assert not served.fakes.recorder.calls

    run(main)


def test_content_types(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            for kind, text in (
                (
                    "text/plain",
                    "unsupported Content-Type header (text/plain): must be 'application/json'",
                ),
                (" ", "malformed Content-Type header (): mime: no media type"),
            ):
                answer = await served.post(
                    "/containers/create", b'{"Image":"i"}', f"Content-Type: {kind}\r\n"
                )
                assert (answer.status, answer.message) == (400, text)
            good = "Content-Type: Application/JSON; charset=utf-8\r\n"
            assert (await served.post("/containers/create", b'{"Image":"i"}', good)).status == 201
            # no body needs no type
            assert (await served.post("/containers/c/update")).status == 200
            served.client.send(
                b"POST /containers/c/update HTTP/1.1\r\nHost: d\r\n"
                b"Content-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            )
            answer = await served.client.answer()
            assert answer.message == "invalid JSON: got EOF while reading request body"

    run(main)


def test_a_chunked_body_and_expect_continue(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            served.client.send(
                b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
                b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            assert (await served.client.head())[0] == 100
            served.client.send(b'5\r\n{"Ima\r\n8\r\nge":"i"}\r\n0\r\n\r\n')
            assert (await served.client.answer()).status == 201

    run(main)


def test_a_body_too_large(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            served.client.send(
                b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
                b"Content-Length: 99999999\r\n\r\n"
            )
            answer = await served.client.answer()
            assert answer.status == 413
            assert "request body too large" in answer.message

    run(main)


def test_network_mode_default_is_bridge(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            for mode in (None, "", "default"):
                _, request = await create(
                    served,
                    50,
                    HostConfig={"NetworkMode": mode},
                    NetworkingConfig={"EndpointsConfig": {"default": {"Aliases": ["a"]}}},
                )
                assert request is not None
                assert request.host_config.network_mode == "bridge"
                assert list(request.networking_config.endpoints_config or ()) == ["bridge"]

    run(main)


def test_defaults_and_fields_of_older_versions(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            body = {
                "Healthcheck": {"StartInterval": 7},
                "HostConfig": {
                    "ConsoleSize": [1, 2],
                    "Annotations": {"a": "b"},
                    "PidsLimit": -1,
                },
            }
            _, old = await create(served, 24, **body)
            _, new = await create(served, 44, **body)
            assert old is not None
            assert new is not None
            assert (old.host_config.ipc_mode, new.host_config.ipc_mode) == ("shareable", "")
            assert (old.host_config.cgroupns_mode, new.host_config.cgroupns_mode) == ("host", "")
            assert (old.host_config.console_size, new.host_config.console_size) == ([0, 0], [1, 2])
            assert old.host_config.annotations is UNSET
            assert new.host_config.annotations == {"a": "b"}
            assert old.host_config.pids_limit is None
            assert old.config.healthcheck.start_interval == 0  # type: ignore[union-attr]  # given
            assert new.config.healthcheck.start_interval == 7  # type: ignore[union-attr]  # given
            served.fakes.system.facts = {"CgroupVersion": "2"}
            _, old = await create(served, 40)
            assert old is not None
            assert old.host_config.cgroupns_mode == ""

    run(main)


MOUNT = {"Target": "/t", "Type": "bind", "Source": "/s"}


@pytest.mark.parametrize(
    ("version", "mount", "message"),
    [
        (42, {"VolumeOptions": {}}, 'VolumeOptions must not be specified on mount type "bind"'),
        (42, {"TmpfsOptions": {}}, 'TmpfsOptions must not be specified on mount type "bind"'),
        (
            50,
            {"Type": "volume", "BindOptions": {}},
            'BindOptions must not be specified on mount type "volume"',
        ),
        (
            43,
            {"BindOptions": {"ReadOnlyForceRecursive": True}},
            "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
        ),
        (
            44,
            {"Type": "volume", "VolumeOptions": {"Subpath": "x"}},
            "VolumeOptions.Subpath needs API v1.45 or newer",
        ),
        (47, {"Type": "image"}, 'Mount type "Image" needs API v1.48 or newer'),
    ],
)
def test_mounts_that_a_version_refuses(
    tmp_path: Path, version: int, mount: dict[str, Any], message: str
) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer, _ = await create(served, version, HostConfig={"Mounts": [MOUNT | mount]})
            assert (answer.status, answer.message) == (400, message)

    run(main)


def test_mounts_of_older_versions(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:

            async def made(version: int, **changes: Any) -> MountSpec:
                _, request = await create(served, version, HostConfig={"Mounts": [MOUNT | changes]})
                assert request is not None
                assert isinstance(request.host_config.mounts, list)
                return request.host_config.mounts[0]

            options = {"CreateMountpoint": True, "NonRecursive": True}
            old = (await made(39, BindOptions=options, TmpfsOptions={})).bind_options
            assert old is not None
            assert (old.create_mountpoint, old.non_recursive) == (False, False)
            assert (await made(41, TmpfsOptions={})).tmpfs_options is None
            readonly = (await made(43, ReadOnly=True)).bind_options
            assert readonly is not None
            assert readonly.read_only_non_recursive
            assert (await made(44, ReadOnly=True)).bind_options is None

    run(main)


def test_mac_address_of_the_whole_container(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            for version in (30, 43, 44, 51):
                answer, request = await create(served, version, MacAddress=MAC)
                assert request is not None
                endpoint = (request.networking_config.endpoints_config or {})["bridge"]
                assert endpoint is not None
                assert endpoint.mac_address == MAC
                assert request.config.mac_address is UNSET
                assert bool(answer.json()["Warnings"]) == (version >= 44)
            answer, _ = await create(served, 52, MacAddress=MAC)
            assert answer.message.startswith("container-wide MAC address no longer supported")
            answer, _ = await create(served, 43, MacAddress=MAC, HostConfig={"NetworkMode": "host"})
            assert answer.message == "conflicting options: mac-address and the network mode"
            endpoints = {"EndpointsConfig": {"bridge": {"MacAddress": "02:00:00:00:00:01"}}}
            answer, _ = await create(served, 44, MacAddress=MAC, NetworkingConfig=endpoints)
            assert "must match the endpoint-specific MAC address" in answer.message
            _, request = await create(served, 43, NetworkingConfig=endpoints)
            assert request is not None
            endpoint = (request.networking_config.endpoints_config or {})["bridge"]
            assert endpoint is not None
            assert endpoint.mac_address == ""

    run(main)


def test_several_endpoints_need_1_44(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            endpoints = {"EndpointsConfig": {"a": {"GwPriority": 3}, "b": None}}
            answer, _ = await create(served, 43, NetworkingConfig=endpoints)
            assert answer.message == (
                "Container cannot be created with multiple network endpoints: a, b"
            )
            for version, priority in ((44, 0), (48, 3)):
                _, request = await create(served, version, NetworkingConfig=endpoints)
                assert request is not None
                endpoint = (request.networking_config.endpoints_config or {})["a"]
                assert endpoint is not None
                assert endpoint.gw_priority == priority

    run(main)


def test_sysctls_of_an_interface(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            sysctls = {"net.ipv4.conf.eth0.log_martians": "1", "net.core.somaxconn": "9"}
            answer, request = await create(served, 46, HostConfig={"Sysctls": sysctls})
            assert request is not None
            assert request.host_config.sysctls == {"net.core.somaxconn": "9"}
            endpoint = (request.networking_config.endpoints_config or {})["bridge"]
            assert endpoint is not None
            assert endpoint.driver_opts == {SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1"}
            assert answer.json()["Warnings"][0].startswith("Migrated sysctl ")
            answer, _ = await create(served, 48, HostConfig={"Sysctls": sysctls})
            assert "must be supplied using driver option" in answer.message

    run(main)


def test_empty_port_bindings(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            for version in (51, 52):
                answer, request = await create(
                    served, version, HostConfig={"PortBindings": {"80/tcp": []}}
                )
                assert request is not None
                assert request.host_config.port_bindings == {"80/tcp": [PortBinding()]}
                assert bool(answer.json()["Warnings"]) == (version == 52)

    run(main)


@pytest.mark.parametrize(
    ("config", "host", "message"),
    [
        (
            {},
            {"NetworkMode": "container:"},
            "invalid network mode: invalid container format container:<name|id>",
        ),
        (
            {"Hostname": "h"},
            {"NetworkMode": "container:x"},
            "conflicting options: hostname and the network mode",
        ),
        ({"Hostname": "h"}, {"UTSMode": "host"}, "conflicting options: hostname and the UTS mode"),
        (
            {},
            {"NetworkMode": "container:x", "PublishAllPorts": True},
            "conflicting options: port publishing and the container type network mode",
        ),
        ({}, {"Isolation": "hyperv"}, "invalid isolation (hyperv): linux only supports 'default'"),
        ({}, {"CpuShares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
        (
            {},
            {"IOMaximumIOps": 1},
            "invalid option: QoS maximum IOPs configuration is not supported on linux",
        ),
    ],
)
def test_contradictions(
    tmp_path: Path, config: dict[str, Any], host: dict[str, Any], message: str
) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer, _ = await create(served, 50, **config, HostConfig=host)
            assert (answer.status, answer.message) == (400, message)

    run(main)


def test_listing(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            row = {
                "Id": "a",
                "Health": {},
                "ImageManifestDescriptor": {},
                "HostConfig": {"NetworkMode": "n", "Annotations": {}},
            }
            served.fakes.containers.rows = [msgspec.json.encode(row)] * 2
            for version, top, host in (
                (24, {"Id", "HostConfig"}, {"NetworkMode"}),
                (46, {"Id", "HostConfig"}, {"NetworkMode", "Annotations"}),
                (
                    48,
                    {"Id", "HostConfig", "ImageManifestDescriptor"},
                    {"NetworkMode", "Annotations"},
                ),
                (52, set(row), {"NetworkMode", "Annotations"}),
            ):
                for _ in range(2):
                    found = (await served.get(f"/v1.{version}/containers/json")).json()
                    assert len(found) == 2
                    assert set(found[0]) == top
                    assert set(found[0]["HostConfig"]) == host
            served.fakes.containers.rows = []
            assert (await served.get("/containers/json")).body == b"[]\n"
            await served.get(
                "/containers/json?all=1&limit=-1&size=true&filters=%7B%22id%22%3A%5B%22x%22%5D%7D"
            )
            assert served.fakes.recorder.last("list") == {
                "everything": True,
                "limit": -1,
                "size": True,
                "filters": {"id": ["x"]},
            }
            assert (await served.get("/containers/json?limit=x")).status == 400
            assert (await served.get("/containers/json?filters=x")).message == "invalid filter"

    run(main)


def test_inspect_of_older_versions(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            bridge = {"IPAddress": "172.17.0.2", "MacAddress": MAC, "EndpointID": "e"}
            detail: dict[str, Any] = {
                "Id": "0123456789abcdef",
                "Config": {"Hostname": "h"},
                "HostConfig": {},
                "ImageManifestDescriptor": {},
                "NetworkSettings": {"Networks": {"bridge": bridge, "u": {"Aliases": ["a"]}}},
            }
            served.fakes.containers.detail = detail
            new = (await served.get("/v1.52/containers/c/json")).json()
            assert new == detail
            detail["NetworkSettings"] |= {"IPAddress": "", "HairpinMode": False}
            newest = (await served.get("/containers/c/json")).json()
            assert set(newest["NetworkSettings"]) == {"Networks"}
            detail["NetworkSettings"].pop("IPAddress")
            old = (await served.get("/v1.40/containers/c/json")).json()
            settings = old["NetworkSettings"]
            assert settings["IPAddress"] == "172.17.0.2"
            assert settings["SecondaryIPAddresses"] is None
            assert settings["Networks"]["u"]["Aliases"] == ["a", "0123456789ab", "h"]
            assert old["Config"]["OnBuild"] is None
            assert "ImageManifestDescriptor" not in old
            assert old["HostConfig"]["KernelMemory"] == 0
            later = (await served.get("/v1.45/containers/c/json")).json()
            assert later["NetworkSettings"]["Networks"]["u"]["Aliases"] == ["a"]
            assert "KernelMemory" not in later["HostConfig"]
            missing = await served.get("/containers/zzz/json")
            assert (missing.status, missing.message) == (404, "No such container: zzz")

    run(main)


def test_verbs(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            last = served.fakes.recorder.last
            for target, status, name, arguments in (
                (
                    "/v1.41/containers/c/stop?t=3&signal=INT",
                    204,
                    "stop",
                    {"name": "c", "signal": None, "timeout": 3},
                ),
                (
                    "/v1.42/containers/c/stop?signal=INT",
                    204,
                    "stop",
                    {"name": "c", "signal": "INT", "timeout": None},
                ),
                (
                    "/containers/c/restart?t=-1",
                    204,
                    "restart",
                    {"name": "c", "signal": None, "timeout": -1},
                ),
                ("/containers/c/kill?signal=9", 204, "kill", {"name": "c", "signal": "9"}),
                ("/containers/c/pause", 204, "pause", {"name": "c"}),
                ("/containers/c/unpause", 204, "unpause", {"name": "c"}),
                ("/containers/c/rename?name=d", 204, "rename", {"name": "c", "new_name": "d"}),
                (
                    "/containers/c/resize?h=3&w=4",
                    200,
                    "resize",
                    {"name": "c", "rows": 3, "columns": 4},
                ),
            ):
                assert (await served.post(target)).status == status, target
                assert last(name) == arguments
            assert (await served.post("/containers/c/stop?t=x")).status == 400
            gone = await served.client.request("DELETE", "/containers/c?force=1&v=true")
            assert gone.status == 204
            assert last("remove") == {"name": "c", "force": True, "volumes": True, "link": False}
            answer = await served.post("/containers/zzz/kill")
            assert answer.message == "cannot kill container: zzz: No such container: zzz"
            assert (await served.post("/containers/c/start", b'{"Binds":[]}')).message.startswith(
                "starting container with non-empty request body"
            )
            assert (await served.post("/containers/c/start", b"{}")).status == 204

    run(main)


def test_update(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            body = {
                "Memory": 5,
                "PidsLimit": -1,
                "BlkioWeightDevice": [],
                "Privileged": True,
                "RestartPolicy": {"Name": "always"},
                "Labels": {"a": "b", "c": None},
            }
            answer = await served.post("/v1.55/containers/c/update", body)
            assert answer.json() == {"Warnings": None}
            request: UpdateRequest = served.fakes.recorder.last("update")["request"]
            assert request.resources == {"Memory": 5, "PidsLimit": 0, "BlkioWeightDevice": []}
            assert request.restart_policy is not None
            assert request.restart_policy.name == "always"
            assert request.labels == {"a": "b", "c": None}
            await served.post("/v1.39/containers/c/update", body)
            request = served.fakes.recorder.last("update")["request"]
            assert request.resources == {"Memory": 5}

    run(main)


def test_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            waits = served.fakes.containers.waits
            served.client.send(
                b"POST /containers/c/wait?condition=next-exit HTTP/1.1\r\nHost: d\r\n\r\n"
            )
            status, _ = await served.client.head()  # before the end
            assert status == 200
            waits[-1].done.set_result({"StatusCode": 3})
            assert msgspec.json.decode(await served.client.chunk()) == {"StatusCode": 3}
            assert await served.client.chunk() == b""
            bad = await served.post("/containers/c/wait?condition=x")
            assert (bad.status, bad.message) == (400, 'invalid condition: "x"')
            assert (await served.post("/containers/zzz/wait")).status == 404

    run(main)


def test_archives(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            for method in ("HEAD", "GET"):
                answer = await served.client.request(method, "/containers/c/archive?path=/etc")
                stat = base64.b64decode(answer.headers["x-docker-container-path-stat"])
                assert msgspec.json.decode(stat)["name"] == "etc"
            assert answer.headers["content-type"] == "application/x-tar"
            assert answer.body == b"tar:/etc"
            assert (await served.get("/containers/c/archive?path=/none")).status == 404
            assert (await served.get("/containers/c/archive")).message == (
                "bad parameter: path cannot be empty"
            )
            put = await served.client.request(
                "PUT",
                "/containers/c/archive?path=/t&copyUIDGID=1",
                b"TAR",
                "Content-Type: application/x-tar\r\n",
            )
            assert put.status == 200
            assert served.fakes.containers.uploaded == b"TAR"
            assert served.fakes.recorder.last("archive_put")["copy_uid_gid"] is True

    run(main)


def test_commit_stats_and_the_rest(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.post(
                "/commit?container=c&repo=r&tag=t&changes=A&changes=B&pause=0", {"Cmd": ["x"]}
            )
            assert answer.status == 201
            given = served.fakes.recorder.last("commit")
            assert given["config"] == {"Cmd": ["x"]}
            assert given["changes"] == ["A", "B"]
            assert given["query"]["pause"] == "0"
            for version, there in ((51, False), (52, True)):
                sample = (await served.get(f"/v1.{version}/containers/c/stats?stream=0")).json()
                assert ("os_type" in sample) == there
            assert (await served.get("/containers/c/export")).body == b"tarball"
            assert (await served.get("/containers/c/changes")).json()[0]["Path"] == "/a"
            assert (await served.get("/containers/c/top?ps_args=aux")).json()["Titles"] == ["PID"]
            assert (await served.post("/v1.24/containers/prune")).status == 400
            assert (await served.post("/v1.25/containers/prune")).status == 200

    run(main)
