"""Bad input: Docker's codes and messages, and nothing half made.

Where Docker changed a text or a code since the dockerd that Debian has, both are given: the
patterns as alternatives, the codes as (Debian's, today's).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.support.api import Api, Json, Params, Response
from tests.support.engine import Engine


@pytest.fixture
def latest(api: Api, is_gantry: bool) -> Api:
    return api.at("1.51" if is_gantry else "1.41")


@pytest.fixture
def alive(latest: Api) -> Iterator[str]:
    body: Json = {"Image": "busybox", "Cmd": ["sleep", "600"]}
    made = latest.post("/containers/create", {"name": "alive"}, body).expect(201).text("Id")
    latest.post(f"/containers/{made}/start").expect(204)
    yield made


def check(answer: Response, status: int | tuple[int, int], pattern: str, is_gantry: bool) -> None:
    """Check an error's code and text."""
    wanted = status if isinstance(status, int) else status[1 if is_gantry else 0]
    assert answer.status == wanted, (answer.status, answer.body)
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.obj()) == {"message"}
    assert re.search(pattern, answer.message), answer.message


OLD_JSON = (500, 400)

BODIES: list[tuple[bytes, int | tuple[int, int], str]] = [
    (b"{bad", OLD_JSON, "invalid character 'b' looking for beginning of object key string"),
    (b"{", OLD_JSON, "unexpected EOF"),
    (b"\x00", OLD_JSON, "invalid character"),
    (b"{}", 400, "[Cc]onfig cannot be empty in order to create a container"),
    (b"null", 400, "[Cc]onfig cannot be empty in order to create a container"),
    (b"[]", OLD_JSON, "cannot unmarshal array into Go value of type"),
    (b'"x"', OLD_JSON, "cannot unmarshal string into Go value of type"),
    (b'{"Image":5}', OLD_JSON, "cannot unmarshal number into Go struct field .*Image of type"),
    (b'{"Image":"busybox","Cmd":5}', OLD_JSON, "cannot unmarshal number into Go"),
    (b'{"Image":"busybox","Env":{"a":1}}', OLD_JSON, "cannot unmarshal object into Go"),
    (b'{"Image":"busybox","Tty":"yes"}', OLD_JSON, "cannot unmarshal string into Go .*bool"),
    (b'{"Image":"busybox","HostConfig":{"Memory":"x"}}', OLD_JSON, "unmarshal string .*int64"),
    (b'{"Image":"nope:x"}', 404, "^No such image: nope:x$"),
    (b'{"Image":"nope"}', 404, "^No such image: nope(:latest)?$"),
    (b'{"Image":"Bad Ref"}', 400, "invalid reference format"),
    (b'{"Image":"busybox","Env":["=x"]}', 400, "^invalid environment variable: =x$"),
    (b'{"Image":"busybox","StopSignal":"NOPE"}', 400, "[Ii]nvalid signal: NOPE"),
    (b'{"Image":"busybox","Healthcheck":{"Interval":1}}', 400, "Interval in Healthcheck cannot be"),
    (b'{"Image":"busybox","Healthcheck":{"Timeout":-1}}', 400, "Timeout in Healthcheck cannot be"),
    (
        b'{"Image":"busybox","Healthcheck":{"Retries":-1}}',
        400,
        "Retries in Healthcheck cannot be negative",
    ),
    (
        b'{"Image":"busybox","WorkingDir":"rel"}',
        400,
        "the working directory 'rel' is invalid, it needs to be an absolute path",
    ),
]

HOST_CONFIGS: list[tuple[dict[str, Json], int | tuple[int, int], str]] = [
    ({"Memory": 1024}, 400, "Minimum memory limit allowed is 6MB"),
    ({"MemorySwap": 8 << 20, "Memory": 16 << 20}, 400, "Minimum memoryswap limit should be larger"),
    ({"MemorySwap": 8 << 20}, 400, "You should always set the [mM]emory limit when using"),
    ({"MemoryReservation": 64 << 20, "Memory": 16 << 20}, 400, "Minimum memory limit can not be"),
    ({"MemorySwappiness": 101, "Memory": 16 << 20}, 400, "[Ii]nvalid value: 101.*0-100"),
    ({"NanoCpus": 1 << 60}, 400, "Range of CPUs is from 0.01 to"),
    ({"NanoCpus": 10**9, "CpuQuota": 50000}, 400, "Nano CPUs and CPU Quota cannot both be set"),
    ({"NanoCpus": 10**9, "CpuPeriod": 50000}, 400, "Nano CPUs and CPU Period cannot both be set"),
    ({"CpuPeriod": 10}, 400, "CPU cfs period can not be less than 1ms|CPU cfs period"),
    ({"CpuQuota": 10}, 400, "CPU cfs quota can not be less than 1ms"),
    ({"CpusetCpus": "bad"}, 400, "^Invalid value bad for cpuset cpus: invalid format: bad$"),
    ({"CpusetCpus": "999"}, 400, "Requested CPUs are not available"),
    ({"CpusetCpus": "9-8193"}, 400, "for cpuset cpus: value of out range, maximum is 8192$"),
    ({"ConsoleSize": [-1, 2]}, OLD_JSON, "cannot unmarshal number -1 into .* type uint"),
    (
        {"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": -5}]},
        OLD_JSON,
        "cannot unmarshal number -5 into .*BlkioDeviceReadBps.Rate of type uint64",
    ),
    ({"Links": "x"}, OLD_JSON, "cannot unmarshal string into .*Links of type \\[\\]string"),
    ({"Links": ["nope:a:b"]}, (500, 400), "^bad format for links: nope:a:b$"),
    ({"Links": [":"]}, 400, 'for : invalid name or ID supplied: ""$'),
    (
        {"PortBindings": {"80/tcp": [{"HostPort": "8010-8000"}]}},
        400,
        '^invalid port specification: "8010-8000"$',
    ),
    ({"PortBindings": {"80-81/tcp": [{}]}}, 400, "invalid port .*80-81"),
    (
        {
            "LogConfig": {
                "Type": "json-file",
                "Config": {"mode": "non-blocking", "max-buffer-size": "x"},
            }
        },
        400,
        "^error parsing option max-buffer-size: invalid size: 'x'$",
    ),
    ({"LogConfig": {"Type": "local", "Config": {"x": "y"}}}, 400, "'x' for log driver local$"),
    (
        {"OomScoreAdj": 2000},
        400,
        r"[Ii]nvalid value 2000, range for oom score adj",
    ),
    ({"ShmSize": -1}, 400, "SHM size can not be less than 0"),
    ({"RestartPolicy": {"Name": "nope"}}, 400, "invalid restart policy"),
    ({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}, 400, "maximum retry count"),
    (
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}},
        400,
        "maximum retry count cannot be negative",
    ),
    (
        {"AutoRemove": True, "RestartPolicy": {"Name": "always"}},
        400,
        "can't create 'AutoRemove' container with restart policy",
    ),
    ({"Runtime": "nope"}, 400, "[Uu]nknown( or invalid)? runtime (specified|name)"),
    ({"CapAdd": ["NOPE"]}, 400, 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
    ({"CapDrop": ["NOPE"]}, 400, 'invalid CapDrop: unknown capability: "CAP_NOPE"'),
    ({"Binds": ["a b:c:d:e"]}, (500, 400), "invalid volume specification: 'a b:c:d:e'"),
    ({"Binds": ["/x:/d", "/y:/d"]}, 400, "Duplicate mount point: /d"),
    ({"Binds": ["/x:rel"]}, (500, 400), "mount path must be absolute"),
    ({"Binds": ["/x:/"]}, (500, 400), "destination can't be '/'"),
    ({"Mounts": [{"Type": "nope", "Target": "/x"}]}, 400, "mount type unknown"),
    ({"Mounts": [{"Type": "bind", "Target": "/x"}]}, 400, "field Source must not be empty"),
    ({"Mounts": [{"Type": "bind", "Source": "/"}]}, 400, "field Target must not be empty"),
    (
        {"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/x"}]},
        400,
        "bind source path does not exist: /no/such",
    ),
    ({"PortBindings": {"80/tcp": [{"HostPort": "x"}]}}, 400, 'invalid port specification: "x"'),
    ({"LogConfig": {"Type": "json-file", "Config": {"nope": "1"}}}, 400, "unknown log opt 'nope'"),
    ({"VolumesFrom": ["nope"]}, 400, "No such container: nope"),
    (
        {"Links": ["nope:x"], "NetworkMode": "bridge"},
        (400, 400),
        "[Cc]ould not get container for nope",
    ),
    ({"Sysctls": {"kernel.nope.nope": "1"}, "NetworkMode": "host"}, (201, 201), ""),
]

NAMES = ["a/b", "-a", "a", "a b", "ä" * 3, "a$b", "/", ".a"]


class TestCreate:
    @pytest.mark.parametrize(("body", "status", "pattern"), BODIES)
    def test_bodies(
        self,
        latest: Api,
        is_gantry: bool,
        body: bytes,
        status: int | tuple[int, int],
        pattern: str,
    ) -> None:
        check(latest.post("/containers/create", None, body), status, pattern, is_gantry)
        assert latest.get("/containers/json", {"all": 1}).array() == []

    @pytest.mark.parametrize(("config", "status", "pattern"), HOST_CONFIGS)
    def test_host_configs(
        self,
        latest: Api,
        is_gantry: bool,
        config: dict[str, Json],
        status: int | tuple[int, int],
        pattern: str,
    ) -> None:
        answer = latest.post("/containers/create", None, {"Image": "busybox", "HostConfig": config})
        if status == (201, 201):
            assert answer.status == 201
            return
        check(answer, status, pattern, is_gantry)
        assert latest.get("/containers/json", {"all": 1}).array() == []

    def test_unknown_fields_are_ignored(self, latest: Api) -> None:
        body: Json = {"Image": "busybox", "Unknown": 1, "HostConfig": {"Neither": [1]}}
        answer = latest.post("/containers/create", None, body).expect(201).obj()
        assert set(answer) == {"Id", "Warnings"}
        assert answer["Warnings"] in ([], None)

    def test_a_colon_in_a_volume_is_a_part_of_its_path(self, latest: Api) -> None:
        body: Json = {"Image": "busybox", "Cmd": ["touch", "/a:rw/x"], "Volumes": {"/a:rw": {}}}
        made = latest.post("/containers/create", None, body).expect(201).text("Id")
        latest.post(f"/containers/{made}/start").expect(204)
        assert latest.post(f"/containers/{made}/wait").obj()["StatusCode"] == 0
        mounts = latest.get(f"/containers/{made}/json").obj()["Mounts"]
        assert isinstance(mounts, list)
        assert [m["Destination"] for m in mounts if isinstance(m, dict)] == ["/a:rw"]

    def test_field_names_of_any_case(self, latest: Api) -> None:
        body: Json = {"image": "busybox", "hostconfig": {"memory": 64 << 20}, "CMD": ["x"]}
        made = latest.post("/containers/create", None, body).expect(201).text("Id")
        shown = latest.get(f"/containers/{made}/json").obj()
        config, host = shown["Config"], shown["HostConfig"]
        assert isinstance(config, dict)
        assert isinstance(host, dict)
        assert config["Cmd"] == ["x"]
        assert host["Memory"] == 64 << 20

    def test_content_type(self, latest: Api) -> None:
        headers = {"Content-Type": "text/plain"}
        answer = latest.request("POST", "/containers/create", None, {"Image": "busybox"}, headers)
        assert answer.status == 400
        assert "must be 'application/json'" in answer.message

    def test_content_type_with_charset(self, latest: Api) -> None:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answer = latest.request("POST", "/containers/create", None, {"Image": "busybox"}, headers)
        assert answer.status == 201

    @pytest.mark.parametrize("name", NAMES)
    def test_invalid_names(self, latest: Api, name: str, is_gantry: bool) -> None:
        answer = latest.post("/containers/create", {"name": name}, {"Image": "busybox"})
        text = r"Invalid container name \(.*\), only \[a-zA-Z0-9\]\[a-zA-Z0-9_.-\] are allowed"
        check(answer, 400, text, is_gantry)

    def test_name_conflict(self, latest: Api, is_gantry: bool) -> None:
        first = latest.post("/containers/create", {"name": "taken"}, {"Image": "busybox"})
        answer = latest.post("/containers/create", {"name": "taken"}, {"Image": "busybox"})
        assert answer.message == (
            'Conflict. The container name "/taken" is already in use by container '
            f'"{first.text("Id")}". You have to remove (or rename) that container to be able '
            "to reuse that name."
        )
        check(answer, 409, "Conflict", is_gantry)

    def test_leading_slash_is_the_same_name(self, latest: Api) -> None:
        latest.post("/containers/create", {"name": "/taken"}, {"Image": "busybox"}).expect(201)
        latest.post("/containers/create", {"name": "taken"}, {"Image": "busybox"}).expect(409)

    def test_huge_body(self, latest: Api) -> None:
        body = b'{"Image":"busybox","Labels":{"a":"' + b"x" * 2_000_000 + b'"}}'
        assert latest.post("/containers/create", None, body).status in (201, 400, 413)
        assert latest.get("/_ping").status == 200


MISSING: list[tuple[str, str, Params]] = [
    ("GET", "/containers/nope/json", {}),
    ("GET", "/containers/nope/top", {}),
    ("GET", "/containers/nope/logs", {"stdout": 1}),
    ("GET", "/containers/nope/changes", {}),
    ("GET", "/containers/nope/export", {}),
    ("GET", "/containers/nope/stats", {"stream": 0}),
    ("GET", "/containers/nope/archive", {"path": "/"}),
    ("POST", "/containers/nope/start", {}),
    ("POST", "/containers/nope/stop", {}),
    ("POST", "/containers/nope/restart", {}),
    ("POST", "/containers/nope/kill", {}),
    ("POST", "/containers/nope/pause", {}),
    ("POST", "/containers/nope/unpause", {}),
    ("POST", "/containers/nope/rename", {"name": "other"}),
    ("POST", "/containers/nope/wait", {}),
    ("POST", "/containers/nope/resize", {"h": 1, "w": 1}),
    ("DELETE", "/containers/nope", {}),
    ("DELETE", "/containers/nope", {"force": 1}),
]


class TestMissing:
    @pytest.mark.parametrize(("method", "path", "params"), MISSING)
    def test_container(
        self, latest: Api, is_gantry: bool, method: str, path: str, params: Params
    ) -> None:
        answer = latest.request(method, path, params)
        check(
            answer, 404, "^([Cc]annot kill container: nope: )?No such container: nope$", is_gantry
        )

    def test_exec(self, latest: Api, is_gantry: bool) -> None:
        for method, path in (
            ("GET", "/exec/nope/json"),
            ("POST", "/exec/nope/start"),
            ("POST", "/exec/nope/resize"),
        ):
            body: Json = {} if method == "POST" else None
            params: Params = {"h": 1, "w": 1} if path.endswith("resize") else {}
            answer = latest.request(method, path, params, body)
            check(answer, 404, "No such exec instance: nope", is_gantry)
        answer = latest.post("/containers/nope/exec", body={"Cmd": ["x"]})
        check(answer, 404, "^No such container: nope$", is_gantry)

    def test_image(self, latest: Api, is_gantry: bool) -> None:
        for method, path in (
            ("GET", "/images/nope/json"),
            ("GET", "/images/nope/history"),
            ("DELETE", "/images/nope"),
        ):
            answer = latest.request(method, path)
            check(answer, 404, "No such image: nope(:latest)?", is_gantry)
        answer = latest.post("/images/nope/tag", {"repo": "x"})
        check(answer, 404, "No such image: nope(:latest)?", is_gantry)

    def test_network_and_volume(self, latest: Api, is_gantry: bool) -> None:
        check(latest.get("/networks/nope"), 404, "network nope not found", is_gantry)
        check(latest.get("/volumes/nope"), 404, "no such volume", is_gantry)
        check(latest.delete("/volumes/nope"), 404, "no such volume", is_gantry)
        check(latest.delete("/networks/nope"), 404, "network nope not found", is_gantry)


class TestParameters:
    @pytest.mark.parametrize(
        ("method", "path", "params", "status", "pattern"),
        [
            ("GET", "/containers/json", {"filters": "{bad"}, (500, 400), "invalid"),
            (
                "GET",
                "/containers/json",
                {"filters": {"nope": ["x"]}},
                400,
                "[Ii]nvalid filter 'nope",
            ),
            (
                "GET",
                "/containers/json",
                {"filters": {"status": ["nope"]}},
                400,
                "[Ii]nvalid filter 'status=nope'",
            ),
            (
                "GET",
                "/containers/json",
                {"filters": {"is-task": ["x"]}},
                400,
                r"[Ii]nvalid filter 'is-task=\[x\]'",
            ),
            (
                "GET",
                "/containers/json",
                {"filters": {"expose": ["90-70"]}},
                (500, 400),
                "^error while looking up for expose 90-70: .*90-70$",
            ),
            ("GET", "/volumes", {"filters": {"dangling": ["x"]}}, 400, "nvalid filter 'dangling"),
            ("POST", "/commit", {}, 400, '^invalid name or ID supplied: ""$'),
            ("POST", "/auth", {}, (500, 400), "EOF$"),
            ("GET", "/containers/json", {"limit": "x"}, (500, 400), 'parsing "x": invalid syntax'),
            ("GET", "/images/json", {"filters": {"nope": ["x"]}}, 400, "[Ii]nvalid filter 'nope"),
            ("GET", "/events", {"filters": "{bad"}, (500, 400), "invalid"),
            (
                "GET",
                "/events",
                {"since": "x", "until": "0"},
                (500, 400),
                "invalid syntax|failed to parse",
            ),
            ("POST", "/images/busybox/tag", {"repo": "UP"}, (500, 400), "must be lowercase"),
            (
                "GET",
                "/containers/alive/logs",
                {},
                400,
                "at least one( stream|.*stdout)",
            ),
            ("GET", "/containers/alive/logs", {"stdout": 1, "since": "x"}, (500, 400), "x"),
            ("GET", "/containers/alive/top", {"ps_args": "-o args"}, (500, 500), "PID field"),
            ("GET", "/containers/alive/top", {"ps_args": "--nope"}, (500, 500), "ps"),
            ("POST", "/containers/alive/kill", {"signal": "NOPE"}, 400, "[Ii]nvalid signal: NOPE"),
            ("POST", "/containers/nope/kill", {"signal": "NOPE"}, 400, "[Ii]nvalid signal: NOPE"),
            (
                "POST",
                "/containers/alive/kill",
                {"signal": "99"},
                (500, 400),
                "[tT]he linux daemon does not support signal 99$",
            ),
            (
                "POST",
                "/containers/alive/rename",
                {"name": "bad@x"},
                400,
                r"^Error when allocating new name: Invalid container name \(/bad@x\)",
            ),
            (
                "GET",
                "/containers/alive/archive",
                {"path": "/nope"},
                404,
                "^Could not find the file /nope in container alive$",
            ),
            (
                "POST",
                "/containers/alive/rename",
                {"name": "alive"},
                400,
                "Renaming a container with",
            ),
            (
                "POST",
                "/containers/alive/rename",
                {},
                400,
                "[Nn]either old nor new names may be empty",
            ),
            ("POST", "/containers/alive/resize", {"h": "x", "w": 1}, 400, "x"),
            ("POST", "/containers/alive/stop", {"t": "x"}, (500, 400), "x"),
            ("POST", "/containers/alive/unpause", {}, (500, 409), "is not paused"),
            (
                "DELETE",
                "/containers/alive",
                {},
                409,
                "You cannot remove a running|container is running",
            ),
            ("POST", "/containers/alive/exec", {}, 400, "EOF|No exec command specified"),
        ],
    )
    def test_refused(
        self,
        latest: Api,
        alive: str,
        is_gantry: bool,
        method: str,
        path: str,
        params: Params,
        status: int | tuple[int, int],
        pattern: str,
    ) -> None:
        check(latest.request(method, path, params), status, pattern, is_gantry)
        shown = latest.get(f"/containers/{alive}/json").obj()["State"]
        assert isinstance(shown, dict)
        assert shown["Running"] is True

    def test_exec_without_command(self, latest: Api, alive: str, is_gantry: bool) -> None:
        answer = latest.post(f"/containers/{alive}/exec", body={"AttachStdout": True})
        check(answer, 400, "No exec command specified", is_gantry)

    def test_not_modified(self, latest: Api, alive: str) -> None:
        answer = latest.post(f"/containers/{alive}/start")
        assert (answer.status, answer.body) == (304, b"")
        assert "content-type" not in answer.headers
        assert latest.post(f"/containers/{alive}/stop", {"t": 0}).status == 204
        assert latest.post(f"/containers/{alive}/stop").status == 304

    @pytest.mark.parametrize(
        ("method", "action"),
        [("POST", "kill"), ("POST", "pause"), ("GET", "top"), ("POST", "exec"), ("POST", "resize")],
    )
    def test_not_running(self, latest: Api, method: str, action: str, is_gantry: bool) -> None:
        made = latest.post("/containers/create", None, {"Image": "busybox"}).text("Id")
        params: Params = {"h": 1, "w": 1} if action == "resize" else {}
        body: Json = {"Cmd": ["x"]} if action == "exec" else None
        answer = latest.request(method, f"/containers/{made}/{action}", params, body)
        assert answer.status in ((409, 500) if action == "resize" else (409,)), answer.body
        assert re.search(f"[Cc]ontainer {made} is not running", answer.message)

    def test_start_with_a_body(self, latest: Api, is_gantry: bool) -> None:
        made = latest.post("/containers/create", None, {"Image": "busybox"}).text("Id")
        answer = latest.post(f"/containers/{made}/start", None, {"Binds": ["/a:/b"]})
        check(answer, 400, "starting container with non-empty request body", is_gantry)


class TestPorts:
    def test_in_use(self, latest: Api, is_gantry: bool) -> None:
        body: Json = {
            "Image": "busybox",
            "Cmd": ["sleep", "600"],
            "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "18099"}]}},
        }
        first = latest.post("/containers/create", None, body).text("Id")
        second = latest.post("/containers/create", None, body).text("Id")
        latest.post(f"/containers/{first}/start").expect(204)
        answer = latest.post(f"/containers/{second}/start")
        check(answer, 500, "18099 failed: port is already allocated", is_gantry)
        state = latest.get(f"/containers/{second}/json").obj()["State"]
        assert isinstance(state, dict)
        assert (state["Status"], state["Running"], state["Pid"]) == ("created", False, 0)


class TestNetworks:
    def test_connect(self, latest: Api, is_gantry: bool) -> None:
        made = latest.post("/containers/create", None, {"Image": "busybox"}).text("Id")
        for network, pattern in (
            ("host", "connect(ed)? .*to host network"),
            (
                "none",
                "^container cannot be connected to multiple networks with one of the networks",
            ),
        ):
            answer = latest.post(f"/networks/{network}/connect", body={"Container": made})
            check(answer, 400, pattern, is_gantry)
        answer = latest.post("/networks/bridge/connect", body={})
        check(answer, 400, '^invalid name or ID supplied: ""$', is_gantry)
        # One that does not run may be connected again: with other settings.
        latest.post("/networks/bridge/connect", body={"Container": made}).expect(200)

    def test_connect_twice(self, latest: Api, alive: str, is_gantry: bool) -> None:
        answer = latest.post("/networks/bridge/connect", body={"Container": alive})
        text = "^endpoint with name alive already exists in network bridge$"
        check(answer, 403, text, is_gantry)

    def test_disconnect(self, latest: Api, is_gantry: bool) -> None:
        made = latest.post("/containers/create", None, {"Image": "busybox"}).text("Id")
        answer = latest.post("/networks/host/disconnect", body={"Container": made})
        text = f"^container {made} is not connected to the network host$"
        check(answer, (500, 403), text, is_gantry)
        latest.post(
            "/containers/create", {"name": "runs"}, {"Image": "busybox", "Cmd": ["sleep", "9"]}
        )
        latest.post("/containers/runs/start").expect(204)
        answer = latest.post("/networks/host/disconnect", body={"Container": "runs"})
        text = "^container [0-9a-f]{64} is not connected to (the )?network host$"
        check(answer, (500, 403), text, is_gantry)
        body: Json = {"Container": "nope", "Force": True}
        answer = latest.post("/networks/bridge/disconnect", body=body)
        check(answer, 404, "^endpoint nope not found$", is_gantry)

    def test_the_network_of_one_that_ended_is_still_told(self, latest: Api, alive: str) -> None:
        network = latest.get("/networks/bridge").text("Id")
        latest.post(f"/containers/{alive}/stop", {"t": 0}).expect(204)
        for shown in (
            latest.get(f"/containers/{alive}/json").obj(),
            *latest.get("/containers/json", {"all": 1}).array(),
        ):
            settings = shown["NetworkSettings"]
            assert isinstance(settings, dict)
            networks = settings["Networks"]
            assert isinstance(networks, dict)
            bridge = networks["bridge"]
            assert isinstance(bridge, dict)
            assert (bridge["NetworkID"], bridge["EndpointID"]) == (network, "")


class TestConnections:
    def test_garbage(self, engine: Engine, api: Api) -> None:
        for data in (b"garbage\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
            with api.connect(5) as wire:
                wire.sock.sendall(data)
                said = wire.some()
                assert b" 200 " not in said
                assert said.startswith(b"HTTP/1.1 ")
                assert b"\r\nConnection: close\r\n" in said
                assert b"aiohttp" not in said
        assert engine.process is not None
        assert api.get("/_ping").status == 200

    def test_client_goes_away(self, api: Api) -> None:
        for path in ("/events", "/containers/json"):
            with api.connect() as wire:
                wire.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        with api.connect() as wire:
            wire.sock.sendall(b"POST /containers/create HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        assert api.get("/_ping").status == 200

    def test_path_escapes(self, api: Api) -> None:
        for path in ("/containers/..%2f..%2fetc/json", "/../containers/json", "/%00"):
            assert api.request("GET", path).status in (200, 301, 400, 404), path
