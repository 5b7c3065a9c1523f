"""Containers: list, inspect, and shapes through the versions."""

from __future__ import annotations

import io
import tarfile

import pytest
from tests.support import image
from tests.support.api import Api, Json, Params
from tests.support.wait import eventually

VERSIONS = ["", "1.24", "1.30", "1.40", "1.41", "1.44", "1.47", "1.51", "1.55"]
ZERO = "0001-01-01T00:00:00Z"


@pytest.fixture(params=VERSIONS)
def versioned(request: pytest.FixtureRequest, api: Api) -> Api:
    newest = api.get("/version").text("ApiVersion")
    if request.param and int(request.param[2:]) > int(newest[2:]):
        pytest.skip(f"the engine has no more than {newest}")
    return api.at(str(request.param))


def make(api: Api, *command: str, start: bool = True, **more: Json) -> str:
    body: dict[str, Json] = {"Image": "busybox", "Cmd": list(command), **more}
    name = api.post("/containers/create", body=body).expect(201).text("Id")
    if start:
        api.post(f"/containers/{name}/start").expect(204)
    return name


def part(value: Json, *keys: str) -> Json:
    """Return a nested field."""
    for key in keys:
        assert isinstance(value, dict), (key, value)
        value = value[key]
    return value


def strings(value: Json) -> list[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]


class TestWholeLife:
    def test_in_every_version(self, versioned: Api) -> None:
        name = make(versioned, "sh", "-c", "exit 3")
        assert versioned.post(f"/containers/{name}/wait").obj()["StatusCode"] == 3
        state = versioned.get(f"/containers/{name}/json").obj()["State"]
        assert (part(state, "Status"), part(state, "ExitCode")) == ("exited", 3)
        assert versioned.delete(f"/containers/{name}").status == 204
        assert versioned.get(f"/containers/{name}/json").status == 404


class TestInspect:
    def test_fields(self, versioned: Api) -> None:
        name = make(versioned, "sleep", "600")
        got = versioned.get(f"/containers/{name}/json").expect(200).obj()
        expected = {
            "Id",
            "Created",
            "Path",
            "Args",
            "State",
            "Image",
            "ResolvConfPath",
            "HostnamePath",
            "HostsPath",
            "LogPath",
            "Name",
            "RestartCount",
            "Driver",
            "Platform",
            "MountLabel",
            "ProcessLabel",
            "AppArmorProfile",
            "ExecIDs",
            "HostConfig",
            "Mounts",
            "Config",
            "NetworkSettings",
        }
        assert expected - set(got) == set()
        assert (got["Id"], got["Path"], got["Args"]) == (name, "sleep", ["600"])
        assert isinstance(got["Created"], str)
        assert got["Created"].endswith("Z")

    def test_state(self, api: Api) -> None:
        name = make(api, "true", start=False)
        state = api.get(f"/containers/{name}/json").obj()["State"]
        assert isinstance(state, dict)
        expected: dict[str, Json] = {
            "Status": "created",
            "Running": False,
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "Dead": False,
            "Pid": 0,
            "ExitCode": 0,
            "Error": "",
            "StartedAt": ZERO,
            "FinishedAt": ZERO,
        }
        assert {key: state[key] for key in expected} == expected

    def test_host_config_defaults(self, api: Api) -> None:
        name = make(api, "true", start=False)
        got = api.get(f"/containers/{name}/json").obj()["HostConfig"]
        assert isinstance(got, dict)
        assert got["ShmSize"] == 64 << 20
        assert got["IpcMode"] == "private"
        assert part(got["LogConfig"], "Type") == "json-file"
        assert part(got["RestartPolicy"], "Name") in ("", "no")
        assert got["NetworkMode"] in ("default", "bridge")
        assert len(strings(got["MaskedPaths"])) >= 8
        assert len(strings(got["ReadonlyPaths"])) >= 5
        assert got["Binds"] is None
        assert got["PortBindings"] in (None, {})

    def test_network_settings(self, versioned: Api) -> None:
        name = make(versioned, "sleep", "600")
        got = versioned.get(f"/containers/{name}/json").obj()["NetworkSettings"]
        endpoint = part(got, "Networks", "bridge")
        assert isinstance(endpoint, dict)
        assert {"IPAddress", "Gateway", "MacAddress", "NetworkID", "EndpointID"} <= set(endpoint)
        assert endpoint["IPPrefixLen"] in range(8, 31)

    def test_ports(self, api: Api) -> None:
        name = make(
            api,
            "sleep",
            "600",
            ExposedPorts={"80/tcp": {}, "81/udp": {}},
            HostConfig={"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18077"}]}},
        )
        got = api.get(f"/containers/{name}/json").obj()
        ports = part(got, "NetworkSettings", "Ports")
        assert ports == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18077"}], "81/udp": None}
        (listed,) = api.get("/containers/json").array()
        entries = listed["Ports"]
        assert isinstance(entries, list)
        assert {"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 18077, "Type": "tcp"} in entries
        assert {"PrivatePort": 81, "Type": "udp"} in entries

    def test_by_name_and_prefix(self, api: Api) -> None:
        body: Json = {"Image": "busybox"}
        name = api.post("/containers/create", {"name": "by-name"}, body).text("Id")
        for reference in ("by-name", name[:10], name):
            assert api.get(f"/containers/{reference}/json").text("Id") == name, reference

    def test_size(self, api: Api) -> None:
        name = make(api, "true", start=False)
        got = api.get(f"/containers/{name}/json", {"size": 1}).obj()
        assert isinstance(got["SizeRw"], int)
        assert isinstance(got["SizeRootFs"], int)
        assert "SizeRw" not in api.get(f"/containers/{name}/json").obj()

    def test_config_round_trip(self, api: Api) -> None:
        config: dict[str, Json] = {
            "Env": ["A=1"],
            "WorkingDir": "/www",
            "User": "user",
            "Labels": {"a": "b"},
            "StopSignal": "SIGUSR1",
            "Tty": True,
            "OpenStdin": True,
            "Hostname": "h",
            "Entrypoint": ["sleep"],
        }
        name = make(api, "600", start=False, **config)
        got = api.get(f"/containers/{name}/json").obj()["Config"]
        assert isinstance(got, dict)
        for key, value in config.items():
            if key == "Env":
                assert "A=1" in strings(got[key])
            else:
                assert got[key] == value, key

    def test_string_for_command(self, api: Api) -> None:
        name = make(api, start=False, Cmd="sleep")
        assert part(api.get(f"/containers/{name}/json").obj(), "Config", "Cmd") == ["sleep"]


class TestList:
    def test_fields(self, versioned: Api) -> None:
        name = make(versioned, "sleep", "600", Labels={"a": "b"})
        (got,) = versioned.get("/containers/json").array()
        expected = {"Id", "Names", "Image", "ImageID", "Command", "Created", "Ports", "Labels"}
        assert expected | {"State", "Status", "HostConfig", "NetworkSettings", "Mounts"} <= set(got)
        assert got["Id"] == name
        assert got["Command"] == "sleep 600"
        assert got["State"] == "running"
        assert isinstance(got["Created"], int)
        assert part(got, "NetworkSettings", "Networks", "bridge", "IPAddress")
        assert got["Labels"] == {"a": "b"}

    def test_order_and_limit(self, api: Api) -> None:
        names = [make(api, "true", start=False) for _ in range(4)]
        listed = [entry["Id"] for entry in api.get("/containers/json", {"all": 1}).array()]
        assert listed == names[::-1]
        listed = [entry["Id"] for entry in api.get("/containers/json", {"limit": 2}).array()]
        assert listed == names[:1:-1]

    def test_empty_is_an_array(self, api: Api) -> None:
        assert api.get("/containers/json").body.strip() == b"[]"

    def test_filters_of_both_forms(self, api: Api) -> None:
        name = make(api, "true", start=False, Labels={"k": "v"})
        make(api, "true", start=False)
        for text in ('{"label":["k=v"]}', '{"label":{"k=v":true}}'):
            params: Params = {"all": 1, "filters": text}
            assert [e["Id"] for e in api.get("/containers/json", params).array()] == [name]


class TestChange:
    def test_stop_with_signal(self, api: Api, is_gantry: bool) -> None:
        if not is_gantry:
            pytest.skip("since 1.42")
        name = make(api, "sh", "-c", "trap 'exit 4' USR1; while :; do sleep 0.02; done")
        eventually(lambda: api.get(f"/containers/{name}/top").obj()["Processes"])
        params: Params = {"signal": "USR1", "t": 5}
        api.post(f"/containers/{name}/stop", params).expect(204)
        code = part(api.get(f"/containers/{name}/json").obj(), "State", "ExitCode")
        assert code in (4, 137)

    def test_update(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        body: Json = {"Memory": 32 << 20, "MemorySwap": 64 << 20}
        answer = api.post(f"/containers/{name}/update", body=body).expect(200)
        assert set(answer.obj()) == {"Warnings"}
        host = part(api.get(f"/containers/{name}/json").obj(), "HostConfig")
        assert part(host, "Memory") == 32 << 20

    def test_prune(self, api: Api) -> None:
        name = make(api, "true", start=False)
        got = api.post("/containers/prune").expect(200).obj()
        assert got["ContainersDeleted"] == [name]
        assert isinstance(got["SpaceReclaimed"], int)
        assert api.post("/containers/prune").obj()["ContainersDeleted"] is None

    def test_top(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        got = api.get(f"/containers/{name}/top", {"ps_args": "-o pid,args"}).expect(200).obj()
        assert got["Titles"] == ["PID", "COMMAND"]
        rows = got["Processes"]
        assert isinstance(rows, list)
        assert strings(rows[0])[1] == "sleep 600"

    def test_stats(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        params: Params = {"stream": 0, "one-shot": 1}
        got = api.get(f"/containers/{name}/stats", params).expect(200).obj()
        assert {"read", "cpu_stats", "precpu_stats", "memory_stats", "pids_stats"} <= set(got)
        assert part(got, "pids_stats", "current") == 1
        assert isinstance(part(got, "cpu_stats", "cpu_usage", "total_usage"), int)


class TestArchive:
    def test_put_stat_get(self, api: Api) -> None:
        name = make(api, "true", start=False)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            image.add_file(tar, "put", b"through the archive")
        path = f"/containers/{name}/archive"
        headers = {"Content-Type": "application/x-tar"}
        answer = api.request("PUT", path, {"path": "/tmp"}, out.getvalue(), headers)
        assert answer.status == 200
        head = api.request("HEAD", path, {"path": "/tmp/put"})
        assert "x-docker-container-path-stat" in head.headers
        answer = api.get(path, {"path": "/tmp/put"}).expect(200)
        assert answer.headers["content-type"] == "application/x-tar"
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
            found = tar.extractfile("put")
            assert found is not None
            assert found.read() == b"through the archive"

    def test_missing_path(self, api: Api) -> None:
        name = make(api, "true", start=False)
        answer = api.get(f"/containers/{name}/archive", {"path": "/no/such"})
        assert answer.status == 404
        assert answer.message == f"Could not find the file /no/such in container {name}"

    def test_export(self, api: Api) -> None:
        name = make(api, "true", start=False)
        answer = api.get(f"/containers/{name}/export").expect(200)
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
            assert "bin/busybox" in tar.getnames()
