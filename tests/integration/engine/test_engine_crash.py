"""Nothing is lost: gantryd, its launcher or a shim is killed at any moment."""

from __future__ import annotations

import functools
import random
import re
import threading
from pathlib import Path

import pytest
from tests.support import image
from tests.support.api import Api, ApiError, Json, stream_of
from tests.support.engine import Engine, read, wait_gone
from tests.support.machine import HOST_ADDRESS
from tests.support.parts import kill, launcher, shim
from tests.support.wait import eventually

TICK = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"


def make(api: Api, *command: str, start: bool = True, **more: Json) -> str:
    body: dict[str, Json] = {"Image": "busybox", "Cmd": list(command), **more}
    name = api.post("/containers/create", body=body).expect(201).text("Id")
    if start:
        api.post(f"/containers/{name}/start").expect(204)
    return name


def state(api: Api, name: str) -> dict[str, Json]:
    found = api.get(f"/containers/{name}/json").expect(200).obj()["State"]
    assert isinstance(found, dict)
    return found


def pid_of(api: Api, name: str) -> int:
    found = state(api, name)["Pid"]
    assert isinstance(found, int)
    return found


def logged(api: Api, name: str) -> list[bytes]:
    answer = api.get(f"/containers/{name}/logs", {"stdout": 1}).expect(200)
    return stream_of(answer.body, 1).split()


class TestDaemon:
    def test_containers_run_on_and_are_found_again(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            name = make(api, "sleep", "600")
            pid = pid_of(api, name)
        own_engine.kill()
        assert Path(f"/proc/{pid}").exists()
        own_engine.start()
        with own_engine.api() as api:
            found = state(api, name)
            assert (found["Running"], found["Pid"]) == (True, pid)
            assert [entry["Id"] for entry in api.get("/containers/json").array()] == [name]

    def test_logs_go_on_meanwhile(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            name = make(api, "sh", "-c", TICK)
            log = Path(api.get(f"/containers/{name}/json").text("LogPath"))
            eventually(lambda: logged(api, name))
        own_engine.kill()
        lines = read(log).count("\n")
        eventually(lambda: read(log).count("\n") > lines + 20)
        own_engine.start()
        with own_engine.api() as api:
            before = len(logged(api, name))
            eventually(lambda: len(logged(api, name)) > before + 20)
            numbers = [int(word) for word in logged(api, name)]
            assert numbers == list(range(1, len(numbers) + 1))

    def test_exit_codes_of_those_that_ended_meanwhile(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            names = [
                make(api, "sh", "-c", f"while [ ! -e /go ]; do sleep 0.02; done; exit {code}")
                for code in range(5)
            ]
            pids = [pid_of(api, name) for name in names]
        own_engine.kill()
        for pid in pids:
            Path(f"/proc/{pid}/root/go").touch()
        for pid in pids:
            wait_gone(pid)
        own_engine.start()
        with own_engine.api() as api:
            for code, name in enumerate(names):
                found = state(api, name)
                assert (found["Status"], found["ExitCode"]) == ("exited", code)
                answer = api.post(f"/containers/{name}/wait")
                assert answer.obj()["StatusCode"] == code
                assert found["FinishedAt"] > found["StartedAt"]  # type: ignore[operator] # strings

    def test_streams_wait_and_exec_work_again(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            name = make(api, "cat", OpenStdin=True)
        own_engine.kill()
        own_engine.start()
        with own_engine.api() as api:
            attach: dict[str, str | int | bool | dict[str, list[str]]]
            attach = {"stream": 1, "stdin": 1, "stdout": 1}
            with api.hijack(f"/containers/{name}/attach", attach) as answer:
                answer.wire.sock.sendall(b"still here\n")
                assert answer.wire.frame() == (1, b"still here\n")
            body: Json = {"Cmd": ["echo", "x"], "AttachStdout": True}
            made = api.post(f"/containers/{name}/exec", body=body).expect(201).text("Id")
            with api.hijack(f"/exec/{made}/start", body={}) as answer:
                assert stream_of(answer.wire.rest(), 1) == b"x\n"
            with api.hijack(f"/containers/{name}/wait", upgrade=False) as waiting:
                api.post(f"/containers/{name}/kill").expect(204)
                assert b'"StatusCode":137' in waiting.wire.until(b"}")
            api.delete(f"/containers/{name}").expect(204)

    def test_stop_and_restart_work_again(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            name = make(api, "sleep", "600")
        own_engine.kill()
        own_engine.start()
        with own_engine.api() as api:
            api.post(f"/containers/{name}/restart", {"t": 0}).expect(204)
            assert state(api, name)["Running"] is True
            api.post(f"/containers/{name}/stop", {"t": 0}).expect(204)
            assert state(api, name)["ExitCode"] == 137

    def test_published_ports_work_again(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            name = make(
                api,
                *("httpd", "-f", "-h", "/www"),
                ExposedPorts={"80/tcp": {}},
                HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}},
            )
            lan = own_engine.machine.lan
            eventually(lambda: lan.fetch(HOST_ADDRESS, 8080))
        own_engine.kill()
        own_engine.start()
        page = b"a page from a container\n"
        assert eventually(lambda: lan.fetch(HOST_ADDRESS, 8080)) == page
        assert eventually(lambda: own_engine.machine.host.fetch("127.0.0.1", 8080)) == page
        with own_engine.api() as api:
            api.delete(f"/containers/{name}", {"force": 1}).expect(204)
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            lan.fetch(HOST_ADDRESS, 8080)

    def test_auto_remove_of_those_that_ended_meanwhile(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            program = "while [ ! -e /go ]; do sleep 0.02; done"
            name = make(api, "sh", "-c", program, HostConfig={"AutoRemove": True})
            pid = pid_of(api, name)
        own_engine.kill()
        Path(f"/proc/{pid}/root/go").touch()
        wait_gone(pid)
        own_engine.start()
        with own_engine.api() as api:
            eventually(lambda: api.get(f"/containers/{name}/json").status == 404)
        eventually(lambda: not own_engine.usage({name}).cgroups)

    def test_restart_policy_of_those_that_ended_meanwhile(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            policy: Json = {"RestartPolicy": {"Name": "always"}}
            name = make(api, "sleep", "600", HostConfig=policy)
            pid = pid_of(api, name)
        own_engine.kill()
        kill(pid)
        wait_gone(pid)
        own_engine.start()
        with own_engine.api() as api:
            eventually(lambda: state(api, name)["Running"])
            assert pid_of(api, name) != pid

    def test_names_and_settings_are_kept(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            body: Json = {"Image": "busybox", "Env": ["A=1"], "Labels": {"b": "2"}}
            api.post("/containers/create", {"name": "kept"}, body).expect(201)
            api.post("/containers/kept/rename", {"name": "renamed"}).expect(204)
            before = api.get("/containers/renamed/json").obj()
        own_engine.kill()
        own_engine.start()
        with own_engine.api() as api:
            after = api.get("/containers/renamed/json").obj()
            assert after["Id"] == before["Id"]
            assert after["Config"] == before["Config"]
            assert after["HostConfig"] == before["HostConfig"]
            assert after["Created"] == before["Created"]
            assert api.get("/containers/kept/json").status == 404


def storm(engine: Engine, stopped: threading.Event, made: list[str]) -> None:
    """Create, start, exec and remove until the engine is gone."""
    try:
        with engine.api() as api:
            while not stopped.is_set():
                name = make(api, "sh", "-c", "echo x; exit 3", start=False)
                made.append(name)
                api.post(f"/containers/{name}/start")
                other = make(api, "sleep", "600")
                made.append(other)
                api.post(f"/containers/{other}/exec", body={"Cmd": ["true"]})
                api.delete(f"/containers/{other}", {"force": 1})
    except (OSError, ApiError, ValueError):
        pass  # killed under us: what it answered last does not matter


class TestAnyMoment:
    @pytest.mark.parametrize("seed", range(6))
    def test_killed_in_a_storm(self, own_engine: Engine, seed: int) -> None:
        chance = random.Random(seed)
        with own_engine.api() as api:
            old = make(api, "sleep", "600")
            empty = own_engine.usage(set())
        made: list[str] = []
        stopped = threading.Event()
        storms = [
            threading.Thread(target=storm, args=(own_engine, stopped, made)) for _ in range(3)
        ]
        for thread in storms:
            thread.start()
        eventually(lambda: len(made) > chance.randint(3, 20))
        threading.Event().wait(chance.random() * 0.05)  # anywhere in an operation
        own_engine.kill()
        stopped.set()
        for thread in storms:
            thread.join()
        own_engine.start()
        with own_engine.api() as api:
            assert state(api, old)["Running"] is True
            for entry in api.get("/containers/json", {"all": 1}).array():
                shown = api.get(f"/containers/{entry['Id']}/json").expect(200).obj()
                assert re.fullmatch("/[a-z]+_[a-z]+[0-9]?", str(shown["Name"]))
                if entry["Id"] != old:
                    api.delete(f"/containers/{entry['Id']}", {"force": 1, "v": 1}).expect(204)
            ids = set(made)

            def nothing_left() -> bool:
                now = own_engine.usage(ids)
                assert now.cgroups == frozenset()
                assert now.mounts == empty.mounts
                assert now.nft == empty.nft
                left = {path for path in now.files if any(name in path for name in ids)}
                assert left == set()
                return True

            eventually(nothing_left)
            again = make(api, "true")
            assert api.post(f"/containers/{again}/wait").obj()["StatusCode"] == 0

    @pytest.mark.parametrize("seed", range(3))
    def test_killed_in_a_load(self, own_engine: Engine, seed: int) -> None:
        data = image.docker_archive("loaded:1", [image.rootfs(), b"\0" * 10240])
        with own_engine.api() as api:
            before = api.get("/images/json").array()

        def load() -> None:
            try:
                with own_engine.api() as api:
                    api.request("POST", "/images/load", {}, data)
            except (OSError, ValueError):
                pass  # killed under us

        thread = threading.Thread(target=load)
        thread.start()
        threading.Event().wait(random.Random(seed).random() * 0.1)
        own_engine.kill()
        thread.join()
        own_engine.start()
        with own_engine.api() as api:
            after = api.get("/images/json").array()
            assert after in (
                before,
                [*before, *[e for e in after if e["RepoTags"] == ["loaded:1"]]],
            )
            answer = api.request("POST", "/images/load", {}, data).expect(200)
            assert b"Loaded image: loaded:1" in answer.body
            name = make(api, "true", Image="loaded:1")
            assert api.post(f"/containers/{name}/wait").obj()["StatusCode"] == 0


class TestLauncher:
    def test_the_next_start_works(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            running = make(api, "sleep", "600")
            old = launcher(own_engine)
            kill(old)
            wait_gone(old)
            name = make(api, "sh", "-c", "exit 3")
            assert api.post(f"/containers/{name}/wait").obj()["StatusCode"] == 3
            assert launcher(own_engine) != old
            assert state(api, running)["Running"] is True
            api.delete(f"/containers/{running}", {"force": 1}).expect(204)

    def test_killed_under_load(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            codes = []
            for number in range(12):
                name = make(api, "sh", "-c", f"exit {number}", start=False)
                if number % 3 == 1:
                    kill(launcher(own_engine))
                # One that was in the dead launcher's hands may have to be started again.
                eventually(functools.partial(_started, api, name))
                codes.append(api.post(f"/containers/{name}/wait").obj()["StatusCode"])
            assert codes == list(range(12))


def _started(api: Api, name: str) -> bool:
    return api.post(f"/containers/{name}/start").status in (204, 304)


class TestShim:
    def test_its_container_ends_and_is_reported(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            other = make(api, "sleep", "600")
            before = own_engine.usage(set())
            name = make(api, "sh", "-c", "sleep 500 & sleep 600")
            pid = pid_of(api, name)
            with api.hijack(f"/containers/{name}/wait", upgrade=False) as waiting:
                kill(shim(own_engine, pid))
                assert b'"StatusCode":137' in waiting.wire.until(b"}")
            wait_gone(pid)
            found = state(api, name)
            assert (found["Status"], found["ExitCode"]) == ("exited", 137)
            assert state(api, other)["Running"] is True
            eventually(lambda: own_engine.usage({name}).mounts == before.mounts)
            eventually(lambda: not own_engine.usage({name}).cgroups)
            api.post(f"/containers/{name}/start").expect(204)
            assert state(api, name)["Running"] is True
            api.delete(f"/containers/{name}", {"force": 1}).expect(204)

    def test_killed_while_the_daemon_is_away(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            name = make(api, "sleep", "600")
            pid = pid_of(api, name)
            its = shim(own_engine, pid)
        own_engine.kill()
        kill(its)
        wait_gone(its)
        own_engine.start()
        wait_gone(pid)  # the next daemon's first work, if it was not at once
        with own_engine.api() as api:
            found = state(api, name)
            assert (found["Status"], found["ExitCode"]) == ("exited", 137)
            eventually(lambda: not own_engine.usage({name}).cgroups)
            api.delete(f"/containers/{name}").expect(204)


class TestAllAtOnce:
    def test_daemon_launcher_and_shims(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            names = [make(api, "sleep", "600") for _ in range(4)]
            pids = [pid_of(api, name) for name in names]
            empty = own_engine.processes()
        for pid in empty:
            kill(pid)
        assert own_engine.process is not None
        own_engine.process.wait(10)
        for pid in empty:
            wait_gone(pid)
        own_engine.start()
        for pid in pids:
            wait_gone(pid)
        with own_engine.api() as api:
            for name in names:
                found = state(api, name)
                assert (found["Status"], found["ExitCode"]) == ("exited", 137)
                api.post(f"/containers/{name}/start").expect(204)
                api.delete(f"/containers/{name}", {"force": 1}).expect(204)
            eventually(lambda: not own_engine.usage(set(names)).cgroups)

    def test_stop_of_the_daemon_ends_what_it_started(self, own_engine: Engine) -> None:
        with own_engine.api() as api:
            name = make(api, "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.02; done")
            eventually(lambda: pid_of(api, name))
        assert own_engine.stop() == 0
        eventually(lambda: not own_engine.processes())
        assert not own_engine.pidfile.exists()
        own_engine.start()
        with own_engine.api() as api:
            assert state(api, name)["Status"] == "exited"
