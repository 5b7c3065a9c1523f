"""attach, exec, logs and wait: hijacked connections, upgrades and framed streams."""

from __future__ import annotations

import re

import pytest
from tests.support.api import Api, Hijacked, Json, Params, Wire, demultiplex, stream_of
from tests.support.wait import eventually

RAW = "application/vnd.docker.raw-stream"
FRAMED = "application/vnd.docker.multiplexed-stream"
ATTACH: Params = {"stream": 1, "stdin": 1, "stdout": 1, "stderr": 1}
BOTH = "echo out; echo err >&2"


@pytest.fixture(params=["1.24", "1.41", "1.42", "1.51"])
def versioned(request: pytest.FixtureRequest, api: Api) -> Api:
    newest = api.get("/version").text("ApiVersion")
    if int(request.param[2:]) > int(newest[2:]):
        pytest.skip(f"the engine has no more than {newest}")
    return api.at(str(request.param))


def framed(api: Api) -> str:
    """Return the content type of a framed stream in this version."""
    return FRAMED if int((api.version or "1.99")[2:]) >= 42 else RAW


def make(api: Api, *command: str, start: bool = True, **more: Json) -> str:
    body: dict[str, Json] = {"Image": "busybox", "Cmd": list(command), **more}
    name = api.post("/containers/create", body=body).expect(201).text("Id")
    if start:
        api.post(f"/containers/{name}/start").expect(204)
    return name


def exited(api: Api, name: str) -> int:
    code = api.post(f"/containers/{name}/wait").expect(200).obj()["StatusCode"]
    assert isinstance(code, int)
    return code


def execute(api: Api, name: str, *command: str, **more: Json) -> str:
    body: dict[str, Json] = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
    made = api.post(f"/containers/{name}/exec", body={**body, **more}).expect(201)
    assert set(made.obj()) == {"Id"}
    return made.text("Id")


class TestHijack:
    @pytest.mark.parametrize("tty", [False, True])
    def test_upgrade(self, versioned: Api, tty: bool) -> None:
        name = make(versioned, "cat", start=False, OpenStdin=True, Tty=tty)
        with versioned.hijack(f"/containers/{name}/attach", ATTACH) as answer:
            assert answer.status == 101
            assert answer.headers["connection"].lower() == "upgrade"
            assert answer.headers["upgrade"] == "tcp"
            assert answer.headers["content-type"] == (RAW if tty else framed(versioned))

    @pytest.mark.parametrize("tty", [False, True])
    def test_plain(self, versioned: Api, tty: bool) -> None:
        name = make(versioned, "cat", start=False, OpenStdin=True, Tty=tty)
        with versioned.hijack(f"/containers/{name}/attach", ATTACH, upgrade=False) as answer:
            assert answer.status == 200
            assert answer.headers["content-type"] == RAW  # framed or not
            assert "upgrade" not in answer.headers

    def test_reason_of_the_upgrade(self, api: Api) -> None:
        name = make(api, "cat", start=False, OpenStdin=True)
        with api.connect() as wire:
            head = api.head(
                "POST",
                api.url(f"/containers/{name}/attach", ATTACH),
                None,
                {"Connection": "Upgrade", "Upgrade": "tcp"},
            )
            wire.sock.sendall(head)
            assert wire.line() == b"HTTP/1.1 101 UPGRADED"

    def test_bytes_sent_with_the_request_are_input(self, api: Api, is_gantry: bool) -> None:
        name = make(api, "cat", start=False, OpenStdin=True, StdinOnce=True, AttachStdin=True)
        head = api.head(
            "POST",
            api.url(f"/containers/{name}/attach", ATTACH),
            None,
            {"Connection": "Upgrade", "Upgrade": "tcp"},
        )
        with api.connect() as wire:
            wire.sock.sendall(head + b"early ")
            wire.until(b"\r\n\r\n")
            api.post(f"/containers/{name}/start").expect(204)
            wire.sock.sendall(b"late")
            wire.half_close()
            # Debian's version loses what its HTTP server had read already.
            wanted = b"early late" if is_gantry else b"late"
            assert stream_of(wire.rest(), 1) == wanted
        assert exited(api, name) == 0

    def test_missing_container(self, api: Api) -> None:
        with api.hijack("/containers/nope/attach", ATTACH) as answer:
            assert answer.status == 404
            assert b"No such container: nope" in answer.wire.some()


class TestAttach:
    def test_framed_streams(self, versioned: Api) -> None:
        name = make(versioned, "sh", "-c", BOTH, start=False)
        with versioned.hijack(f"/containers/{name}/attach", ATTACH) as answer:
            versioned.post(f"/containers/{name}/start").expect(204)
            data = answer.wire.rest()
        assert stream_of(data, 1) == b"out\n"
        assert stream_of(data, 2) == b"err\n"
        assert {number for number, _ in demultiplex(data)} == {1, 2}

    def test_one_stream(self, api: Api) -> None:
        name = make(api, "sh", "-c", BOTH, start=False)
        params: Params = {"stream": 1, "stderr": 1}
        with api.hijack(f"/containers/{name}/attach", params) as answer:
            api.post(f"/containers/{name}/start").expect(204)
            assert demultiplex(answer.wire.rest()) == [(2, b"err\n")]

    def test_terminal_is_raw(self, api: Api) -> None:
        name = make(api, "sh", "-c", BOTH, start=False, Tty=True)
        with api.hijack(f"/containers/{name}/attach", ATTACH) as answer:
            api.post(f"/containers/{name}/start").expect(204)
            assert answer.wire.rest() == b"out\r\nerr\r\n"

    def test_logs_then_stream(self, api: Api) -> None:
        name = make(api, "sh", "-c", "echo early; cat", OpenStdin=True)
        params: Params = {"stream": 1, "stdin": 1, "stdout": 1, "logs": 1}
        eventually(lambda: api.get(f"/containers/{name}/logs", {"stdout": 1}).body)
        with api.hijack(f"/containers/{name}/attach", params) as answer:
            assert answer.wire.frame() == (1, b"early\n")
            answer.wire.sock.sendall(b"late\n")
            assert answer.wire.frame() == (1, b"late\n")

    def test_logs_only(self, api: Api) -> None:
        name = make(api, "sh", "-c", BOTH)
        exited(api, name)
        params: Params = {"stdout": 1, "stderr": 1, "logs": 1}
        with api.hijack(f"/containers/{name}/attach", params) as answer:
            data = answer.wire.rest()
        assert stream_of(data, 1) + stream_of(data, 2) == b"out\nerr\n"

    def test_half_close_ends_input_of_stdin_once(self, api: Api) -> None:
        name = make(api, "cat", start=False, OpenStdin=True, StdinOnce=True, AttachStdin=True)
        with api.hijack(f"/containers/{name}/attach", ATTACH) as answer:
            api.post(f"/containers/{name}/start").expect(204)
            answer.wire.sock.sendall(b"data")
            answer.wire.half_close()
            assert stream_of(answer.wire.rest(), 1) == b"data"
        assert exited(api, name) == 0

    def test_input_stays_open_otherwise(self, api: Api) -> None:
        name = make(api, "cat", OpenStdin=True)
        for data in (b"one\n", b"two\n"):
            with api.hijack(f"/containers/{name}/attach", ATTACH) as answer:
                answer.wire.sock.sendall(data)
                assert answer.wire.frame() == (1, data)

    def test_large_both_ways(self, api: Api) -> None:
        name = make(api, "cat", start=False, OpenStdin=True, StdinOnce=True, AttachStdin=True)
        data = bytes(range(256)) * 20_000
        with api.hijack(f"/containers/{name}/attach", ATTACH) as answer:
            api.post(f"/containers/{name}/start").expect(204)
            got = both_ways(answer.wire, data)
        assert stream_of(got, 1) == data

    def test_slow_reader_does_not_stop_others(self, api: Api, is_gantry: bool) -> None:
        if not is_gantry:
            pytest.skip("dockerd stops a container whose reader is a megabyte behind")
        name = make(api, "sh", "-c", "seq 1 300000; echo done", start=False)
        with api.hijack(f"/containers/{name}/attach", ATTACH):  # never read
            api.post(f"/containers/{name}/start").expect(204)
            logs: Params = {"stdout": 1, "tail": "1"}
            eventually(lambda: b"done" in api.get(f"/containers/{name}/logs", logs).body)

    def test_detach_keys(self, api: Api) -> None:
        name = make(api, "cat", OpenStdin=True, Tty=True)
        params: Params = {**ATTACH, "detachKeys": "ctrl-a,d"}
        with api.hijack(f"/containers/{name}/attach", params) as answer:
            answer.wire.sock.sendall(b"\x01d")
            rest = answer.wire.rest()
            assert b"x" not in rest
        state = api.get(f"/containers/{name}/json").obj()["State"]
        assert isinstance(state, dict)
        assert state["Running"] is True

    def test_paused(self, api: Api) -> None:
        name = make(api, "cat", OpenStdin=True)
        api.post(f"/containers/{name}/pause").expect(204)
        with api.hijack(f"/containers/{name}/attach", ATTACH) as answer:
            assert answer.status in (101, 409)
            assert b"is paused" in answer.wire.some()
        api.post(f"/containers/{name}/unpause").expect(204)


def both_ways(wire: Wire, data: bytes) -> bytes:
    """Send and receive at the same time."""
    import threading

    def send() -> None:
        wire.sock.sendall(data)
        wire.half_close()

    sender = threading.Thread(target=send)
    sender.start()
    got = wire.rest()
    sender.join()
    return got


class TestExec:
    def start(self, api: Api, made: str, **body: Json) -> Hijacked:
        return api.hijack(f"/exec/{made}/start", body={"Detach": False, "Tty": False, **body})

    def test_framed(self, versioned: Api) -> None:
        name = make(versioned, "sleep", "600")
        made = execute(versioned, name, "sh", "-c", BOTH + "; exit 3")
        with self.start(versioned, made) as answer:
            assert answer.status == 101
            assert answer.headers["content-type"] == framed(versioned)
            data = answer.wire.rest()
        assert (stream_of(data, 1), stream_of(data, 2)) == (b"out\n", b"err\n")
        shown = versioned.get(f"/exec/{made}/json").obj()
        assert (shown["ID"], shown["Running"], shown["ExitCode"]) == (made, False, 3)
        assert shown["ContainerID"] == name
        process = shown["ProcessConfig"]
        assert isinstance(process, dict)
        assert (process["entrypoint"], process["tty"]) == ("sh", False)

    def test_without_upgrade(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        made = execute(api, name, "echo", "x")
        body: Json = {"Detach": False, "Tty": False}
        with api.hijack(f"/exec/{made}/start", body=body, upgrade=False) as answer:
            assert answer.status == 200
            assert demultiplex(answer.wire.rest()) == [(1, b"x\n")]

    def test_terminal(self, versioned: Api) -> None:
        name = make(versioned, "sleep", "600")
        made = execute(versioned, name, "tty", Tty=True, AttachStdin=True)
        with self.start(versioned, made, Tty=True) as answer:
            assert answer.headers["content-type"] == RAW
            assert re.fullmatch(rb"/dev/pts/\d\r\n", answer.wire.rest())

    def test_input(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        made = execute(api, name, "cat", AttachStdin=True)
        with self.start(api, made) as answer:
            got = both_ways(answer.wire, b"z" * 3_000_000)
        assert len(stream_of(got, 1)) == 3_000_000

    def test_detached(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        made = execute(api, name, "sh", "-c", "exit 4")
        api.post(f"/exec/{made}/start", body={"Detach": True}).expect(200)

        def code() -> bool:
            return api.get(f"/exec/{made}/json").obj()["ExitCode"] == 4

        eventually(code)

    def test_twice(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        made = execute(api, name, "true")
        api.post(f"/exec/{made}/start", body={"Detach": True}).expect(200)
        eventually(lambda: not api.get(f"/exec/{made}/json").obj()["Running"])
        answer = api.post(f"/exec/{made}/start", body={"Detach": True})
        assert answer.status == 409
        assert re.search(rf"[Ee]xec command {made} has already run", answer.message)
        running = execute(api, name, "sleep", "60")
        api.post(f"/exec/{running}/start", body={"Detach": True}).expect(200)
        answer = api.post(f"/exec/{running}/start", body={"Detach": True})
        assert answer.status == 409
        assert re.search(rf"[Ee]xec command {running} is already running", answer.message)

    def test_listed_by_the_container(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        made = execute(api, name, "sleep", "60")
        api.post(f"/exec/{made}/start", body={"Detach": True}).expect(200)
        assert api.get(f"/containers/{name}/json").obj()["ExecIDs"] == [made]
        assert isinstance(api.get(f"/exec/{made}/json").obj()["Pid"], int)

    def test_resize(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        program = "until [ \"$(stty size 2>&1)\" = '31 97' ]; do sleep 0.05; done; stty size"
        made = execute(api, name, "sh", "-c", program, Tty=True, AttachStdin=True)
        with self.start(api, made, Tty=True) as answer:
            api.post(f"/exec/{made}/resize", {"h": 31, "w": 97}).expect(200)
            assert answer.wire.rest() == b"31 97\r\n"

    def test_failing_to_start(self, api: Api, is_gantry: bool) -> None:
        name = make(api, "sleep", "600")
        made = execute(api, name, "no-such")
        with self.start(api, made) as answer:
            text = answer.wire.rest()
        assert b"executable file not found in $PATH" in text
        code = api.get(f"/exec/{made}/json").obj()["ExitCode"]
        assert code == (127 if is_gantry else 126)


class TestLogs:
    def test_content_type(self, versioned: Api) -> None:
        name = make(versioned, "echo", "x")
        exited(versioned, name)
        answer = versioned.get(f"/containers/{name}/logs", {"stdout": 1}).expect(200)
        assert demultiplex(answer.body) == [(1, b"x\n")]
        if framed(versioned) == FRAMED:
            assert answer.headers["content-type"] == FRAMED

    def test_terminal_is_raw(self, versioned: Api) -> None:
        name = make(versioned, "echo", "x", Tty=True)
        exited(versioned, name)
        answer = versioned.get(f"/containers/{name}/logs", {"stdout": 1}).expect(200)
        assert answer.body == b"x\r\n"

    def test_of_a_created_container(self, api: Api) -> None:
        name = make(api, "echo", start=False)
        answer = api.get(f"/containers/{name}/logs", {"stdout": 1}).expect(200)
        assert answer.body == b""

    def test_follow_ends_with_the_container(self, api: Api) -> None:
        name = make(api, "sh", "-c", "echo a; read x; echo b", OpenStdin=True)
        with api.stream(f"/containers/{name}/logs", {"stdout": 1, "follow": 1}) as stream:
            chunks = stream.chunks()
            assert next(chunks).endswith(b"a\n")
            with api.hijack(f"/containers/{name}/attach", ATTACH) as answer:
                answer.wire.sock.sendall(b"go\n")
                assert stream_of(b"".join(chunks), 1) == b"b\n"

    def test_odd_tail_means_all(self, api: Api) -> None:
        name = make(api, "seq", "3")
        exited(api, name)
        answer = api.get(f"/containers/{name}/logs", {"stdout": 1, "tail": "x"}).expect(200)
        assert stream_of(answer.body, 1) == b"1\n2\n3\n"


class TestWait:
    def test_answer(self, versioned: Api) -> None:
        name = make(versioned, "sh", "-c", "exit 3")
        got = versioned.post(f"/containers/{name}/wait").expect(200).obj()
        assert got["StatusCode"] == 3
        assert got.get("Error") is None

    def test_headers_come_at_once(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        with api.hijack(f"/containers/{name}/wait", upgrade=False) as answer:
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/json"
            api.post(f"/containers/{name}/kill").expect(204)
            assert b'"StatusCode":137' in answer.wire.until(b"}")

    def test_next_exit(self, api: Api) -> None:
        name = make(api, "sh", "-c", "exit 3", start=False)
        params: Params = {"condition": "next-exit"}
        with api.hijack(f"/containers/{name}/wait", params, upgrade=False) as answer:
            assert answer.status == 200
            api.post(f"/containers/{name}/start").expect(204)
            assert b'"StatusCode":3' in answer.wire.until(b"}")

    def test_removed(self, api: Api) -> None:
        name = make(api, "sh", "-c", "exit 5", start=False, HostConfig={"AutoRemove": True})
        params: Params = {"condition": "removed"}
        with api.hijack(f"/containers/{name}/wait", params, upgrade=False) as answer:
            assert answer.status == 200
            api.post(f"/containers/{name}/start").expect(204)
            assert b'"StatusCode":5' in answer.wire.until(b"}")
        assert api.get(f"/containers/{name}/json").status == 404

    def test_not_running_of_a_created_one(self, api: Api) -> None:
        name = make(api, "true", start=False)
        got = api.post(f"/containers/{name}/wait", {"condition": "not-running"}).obj()
        assert got["StatusCode"] == 0

    def test_unknown_condition(self, api: Api, is_gantry: bool) -> None:
        name = make(api, "true", start=False)
        with api.hijack(f"/containers/{name}/wait", {"condition": "nope"}, upgrade=False) as answer:
            # Debian's version waits for something that never is.
            assert answer.status == (400 if is_gantry else 200)
            if is_gantry:
                assert b"invalid condition" in answer.wire.some()

    def test_client_that_goes_away(self, api: Api) -> None:
        name = make(api, "sleep", "600")
        with api.hijack(f"/containers/{name}/wait", upgrade=False):
            pass
        assert api.get(f"/containers/{name}/json").status == 200
