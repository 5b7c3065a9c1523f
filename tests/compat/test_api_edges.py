"""What moby's own integration tests ask of an engine, and clients rely on, at the edges."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import time
from pathlib import Path

import pytest
from tests.support.api import Api, Json, Params, stream_of
from tests.support.wait import eventually


def make(api: Api, *command: str, start: bool = True, **more: Json) -> str:
    body: dict[str, Json] = {"Image": "busybox", "Cmd": list(command), **more}
    name = api.post("/containers/create", body=body).expect(201).text("Id")
    if start:
        api.post(f"/containers/{name}/start").expect(204)
    return name


def exec_in(api: Api, name: str, *command: str) -> str:
    return api.post(f"/containers/{name}/exec", body={"Cmd": list(command)}).expect(201).text("Id")


def logged(api: Api, name: str) -> bytes:
    answer = api.get(f"/containers/{name}/logs", {"stdout": 1, "stderr": 1}).expect(200)
    return stream_of(answer.body, 1)


def host_config(api: Api, name: str) -> dict[str, Json]:
    found = api.get(f"/containers/{name}/json").expect(200).obj()["HostConfig"]
    assert isinstance(found, dict)
    return found


def test_a_slow_client_gets_all_of_it(api: Api) -> None:
    name = make(api, "sh", "-c", "dd if=/dev/zero bs=1024 count=1500 | cat -v", start=False)
    params: Params = {"stream": 1, "stdout": 1}
    with api.hijack(f"/containers/{name}/attach", params) as answer:
        api.post(f"/containers/{name}/start").expect(204)
        size = 0
        while frame := answer.wire.frame():
            size += len(frame[1])
            time.sleep(0.005)  # reading slowly is what is tested
    assert size == 2 * 1024 * 1500


def test_execs_of_a_container_that_ended(api: Api) -> None:
    name = make(api, "sleep", "100")
    never = exec_in(api, name, "true")
    api.post(f"/containers/{name}/stop", {"t": 0}).expect(204)
    assert api.post(f"/exec/{never}/start", body={"Detach": True}).status in (404, 409)
    api.post(f"/containers/{name}/start").expect(204)
    api.post(f"/exec/{never}/start", body={"Detach": True}).expect(404)


def test_an_exec_that_runs_is_not_resized_after_the_end(api: Api) -> None:
    name = make(api, "sleep", "100")
    one = api.post(f"/containers/{name}/exec", body={"Cmd": ["sleep", "99"], "Tty": True}).text(
        "Id"
    )
    api.post(f"/exec/{one}/start", body={"Detach": True, "Tty": True}).expect(200)
    api.post(f"/containers/{name}/kill").expect(204)
    assert "is not running" in api.post(f"/exec/{one}/resize", {"h": 40, "w": 40}).message


def test_a_pid_namespace_of_nobody(api: Api, is_gantry: bool) -> None:
    if not is_gantry:
        pytest.skip("this dockerd says so at the start only")
    body: dict[str, Json] = {"Image": "busybox", "HostConfig": {"PidMode": "container:nope"}}
    answer = api.post("/containers/create", body=body).expect(400)
    assert answer.message == "No such container: nope"
    other = make(api, "true", start=False)
    name = make(api, "true", start=False, HostConfig={"PidMode": f"container:{other}"})
    answer = api.post(f"/containers/{name}/start").expect(500)
    assert answer.message == f"failed to join PID namespace: container {other} is not running"


def test_a_pids_limit_is_taken_away(api: Api) -> None:
    name = make(api, "sleep", "100", HostConfig={"PidsLimit": 32})
    api.post(f"/containers/{name}/update", body={"PidsLimit": -1}).expect(200)
    assert host_config(api, name)["PidsLimit"] == 0


def test_events_until_now_are_those_before(api: Api) -> None:
    name = make(api, "true", start=False)
    params: Params = {"until": f"{time.time():.9f}", "filters": json.dumps({"container": [name]})}
    actions = [event["Action"] for event in api.get("/events", params).lines()]
    assert actions == ["create"]


def archived(api: Api, name: str, path: str) -> dict[str, bytes]:
    answer = api.get(f"/containers/{name}/archive", {"path": path}).expect(200)
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            found[member.name] = file.read() if file else b""
        return found


def test_files_of_the_engine_can_be_copied_out(api: Api) -> None:
    name = make(api, "true", Hostname="copied")
    api.post(f"/containers/{name}/wait").expect(200)
    assert archived(api, name, "/etc/hostname") == {"hostname": b"copied\n"}


def test_the_working_directory_is_made_at_create(api: Api) -> None:
    name = make(api, "true", start=False, WorkingDir="/home/foo/bar/")
    assert archived(api, name, "/home/foo/bar") == {"bar": b""}
    answer = api.post(
        "/containers/create", body={"Image": "busybox", "WorkingDir": "/etc/passwd/x"}
    )
    assert "not a directory" in answer.message


def test_read_only_binds_of_old_clients_are_shallow(api: Api, is_gantry: bool) -> None:
    command = ("sh", "-c", "grep ' /d/shm ' /proc/self/mountinfo")
    for version, wanted in (("1.43", b" /d/shm rw,"), ("1.44", b" /d/shm ro,")):
        if version == "1.44" and not is_gantry:
            continue
        if version == "1.43" and not is_gantry:
            version = "1.41"
        old = api.at(version)
        name = make(old, *command, HostConfig={"Binds": ["/dev:/d:ro"]})
        api.post(f"/containers/{name}/wait").expect(200)
        if not logged(api, name):
            pytest.skip("nothing is mounted on /dev/shm here")
        assert wanted in logged(api, name)


def test_log_drivers(api: Api, is_gantry: bool, tmp_path: Path) -> None:
    def config(driver: str, **options: str) -> dict[str, Json]:
        return {"LogConfig": {"Type": driver, "Config": dict(options)}}

    for host, text in (
        (config("nope"), 'error looking up logging plugin nope: plugin "nope" not found'),
        (config("syslog", x="y"), "unknown log opt 'x' for syslog log driver"),
    ):
        answer = api.post("/containers/create", body={"Image": "busybox", "HostConfig": host})
        assert text in answer.expect(400).message
    if not is_gantry:
        return
    path = str(tmp_path / "log")  # the engine may have a network of its own
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(10)
        host = config("syslog", **{"syslog-address": f"unixgram://{path}", "tag": "t-{{.Name}}"})
        name = make(api, "echo", "sent", HostConfig=host)
        got = server.recv(1000)
    assert got.endswith(b": sent\n")
    assert b" t-" in got
    assert logged(api, name) == b"sent\n"


def test_a_dead_log_server_stops_nobody_and_loses_nothing(
    api: Api, is_gantry: bool, tmp_path: Path
) -> None:
    if not is_gantry:
        pytest.skip("dockerd does not start such a container")
    path = str(tmp_path / "fluent")
    log: dict[str, Json] = {"Type": "fluentd", "Config": {"fluentd-address": f"unix://{path}"}}
    name = make(api, "sh", "-c", "echo one; echo two", HostConfig={"LogConfig": log})
    api.post(f"/containers/{name}/wait").expect(200)
    assert eventually(lambda: logged(api, name)) == b"one\ntwo\n"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(20)
        client, _ = server.accept()
        with client:
            client.settimeout(10)
            got = b""
            while b"two" not in got:
                got += client.recv(65536)
    assert got.index(b"one") < got.index(b"two")
