"""Attach, exec, logs, events, progress: what streams, and how it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from aiohttp import ClientSession, UnixConnector
from tests.unit.api.fake_engine import Served, engine
from tests.unit.http.wire_client import connected, run

from gantry.api.versions.progress import bar
from gantry.model.errors import Conflict, InvalidParameter, NotFound, StartFailed
from gantry.testing.api import FakeAttachment

UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


def ask(target: str, headers: str = UPGRADE, body: bytes = b"") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_attach_answers_before_the_start_and_pumps_both_ways(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            served.client.send(ask("/containers/c/attach?stdin=1&stdout=1&stream=1"))
            status, headers = await served.client.head()
            assert status == 101
            assert headers["upgrade"] == "tcp"
            assert headers["connection"] == "Upgrade"
            assert headers["content-type"] == MULTIPLEXED
            served.client.send(b"early")
            fake.attachment.started.set()
            await fake.process.hear(b"early")
            fake.process.say(b"out")
            assert await served.client.reader.readexactly(3) == b"out"
            served.client.half_close()
            await fake.process.until_stdin_closed()
            fake.process.say(b"late")
            fake.process.end()
            assert await served.client.reader.read() == b"late"
            await fake.process.closed.wait()
            await fake.attachment.closed.wait()

    run(main)


def test_attach_heads_by_version_and_terminal(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            for version, tty, headers, status, kind in (
                (41, False, UPGRADE, 101, RAW),
                (42, False, UPGRADE, 101, MULTIPLEXED),
                (42, True, UPGRADE, 101, RAW),
                (50, False, "", 200, RAW),
            ):
                fake.attachment = FakeAttachment(fake.process, tty=tty)
                fake.attachment.started.set()
                fake.process.say(b"x")
                fake.process.end()
                async with connected(served.path) as client:
                    client.send(ask(f"/v1.{version}/containers/c/attach?stdout=1", headers))
                    found, head = await client.head()
                    assert (found, head["content-type"]) == (status, kind)
                    assert "content-length" not in head
                    assert await client.reader.read() == b"x"

    run(main)


def test_attach_errors_have_a_status(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            served.client.send(ask("/containers/zzz/attach?stdout=1"))
            assert (await served.client.answer()).status == 404
            served.fakes.recorder.errors["attach"] = Conflict("container c is paused")
            served.client.send(ask("/containers/c/attach?stdout=1"))
            assert (await served.client.answer()).body == b"container c is paused\r\n"

    run(main)


def test_end_of_input_leaves_what_keeps_its_stdin(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            for tty, once in ((True, True), (False, False)):
                attachment = FakeAttachment(fake.process, tty=tty, stdin_once=once)
                fake.attachment = attachment
                attachment.started.set()
                async with connected(served.path) as client:
                    client.send(ask("/containers/c/attach?stdin=1&stdout=1&stream=1"))
                    await client.head()
                    client.half_close()
                    assert await client.reader.read() == b""
                    await attachment.closed.wait()
                assert not fake.process.stdin_closed

    run(main)


def test_end_of_input_nobody_reads_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            fake.attachment = FakeAttachment(fake.process, tty=True)
            fake.attachment.stdin = False
            fake.attachment.started.set()
            served.client.send(ask("/containers/c/attach?stdout=1&stream=1"))
            await served.client.head()
            served.client.half_close()
            fake.process.say(b"still")
            fake.process.end()
            assert await served.client.reader.read() == b"still"

    run(main)


def test_a_stream_that_saw_detach_keys_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            fake.attachment = FakeAttachment(fake.process, tty=True)
            fake.attachment.started.set()
            fake.process.detached = True  # type: ignore[attr-defined]  # as a stream with keys has
            served.client.send(ask("/containers/c/attach?stdin=1&stream=1&detachKeys=ctrl-a"))
            await served.client.head()
            served.client.send(b"\x01")
            assert await served.client.reader.read() == b""
            assert served.fakes.recorder.last("attach")["detach_keys"] == "ctrl-a"

    run(main)


def test_a_client_that_leaves_is_detached(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            for started in (False, True):
                attachment = fake.attachment = FakeAttachment(fake.process, tty=False)
                if started:
                    attachment.started.set()
                async with connected(served.path) as client:
                    client.send(ask("/containers/c/attach?stdout=1&stream=1"))
                    await client.head()
                await attachment.closed.wait()

    run(main)


def test_a_process_that_reads_no_more_is_still_heard(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            fake.attachment.started.set()
            await fake.process.close_stdin()
            served.client.send(ask("/containers/c/attach?stdin=1&stdout=1&stream=1") + b"lost")
            await served.client.head()
            fake.process.say(b"out")
            fake.process.end()
            assert await served.client.reader.read() == b"out"

    run(main)


async def start_exec(served: Served, body: bytes, version: int = 50) -> tuple[int, dict[str, str]]:
    served.client.send(ask(f"/v1.{version}/exec/e/start", body=body))
    return await served.client.head()


def test_exec(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.post(
                "/v1.41/containers/c/exec", {"Cmd": ["x"], "ConsoleSize": [1, 2]}
            )
            assert (answer.status, answer.json()) == (201, {"Id": "e"})
            request = served.fakes.recorder.last("exec_create")["request"]
            assert (request.cmd, request.console_size) == (["x"], None)
            fake = served.fakes.execs
            status, headers = await start_exec(served, b'{"Tty":false,"ConsoleSize":[1,2]}')
            assert (status, headers["content-type"]) == (101, MULTIPLEXED)
            assert headers["api-version"] == "1.55"
            served.client.send(b"in")
            await fake.process.hear(b"in")
            served.client.half_close()
            await fake.process.until_stdin_closed()
            fake.process.say(b"out")
            fake.process.end()
            assert await served.client.reader.read() == b"out"
            assert served.fakes.recorder.last("exec_start") == {
                "exec_id": "e", "detach": False, "tty": False, "size": None,
            }  # fmt: skip

    run(main)


def test_exec_errors(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.post("/containers/c/exec", {"Cmd": []})
            assert (answer.status, answer.message) == (400, "No exec command specified")
            served.client.send(ask("/exec/zzz/start", body=b"{}"))
            assert (await served.client.answer()).message == "No such exec instance: zzz"
            served.fakes.recorder.errors["exec_start"] = StartFailed("no such file", 127)
            answer = await served.post("/exec/e/start", {"Detach": True})
            assert (answer.status, answer.message) == (400, "no such file")
            await start_exec(served, b"{}")
            text = b"no such file\r\n"
            assert (
                await served.client.reader.read() == b"\x01\0\0\0\0\0\0" + bytes([len(text)]) + text
            )

    run(main)


def test_exec_detached_with_a_size(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            answer = await served.post(
                "/exec/e/start", {"Detach": True, "Tty": True, "ConsoleSize": [3, 4]}
            )
            assert (answer.status, answer.body) == (200, b"")
            assert served.fakes.recorder.last("exec_start")["size"] == [3, 4]
            assert (await served.post("/exec/e/resize?h=1&w=2")).status == 200
            assert (await served.post("/exec/e/resize?h=1")).status == 400
            assert (await served.get("/exec/e/json")).json()["ID"] == "e"

    run(main)


def test_logs(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            fake.log_items = [b"one", b"two"]
            for version, tty, kind in ((41, False, RAW), (42, False, MULTIPLEXED), (42, True, RAW)):
                fake.attachment = FakeAttachment(fake.process, tty=tty)
                answer = await served.get(f"/v1.{version}/containers/c/logs?stdout=1&tail=3")
                assert answer.headers["content-type"] == kind
                assert answer.body == b"onetwo"
            assert served.fakes.recorder.last("logs")["tail"] == "3"
            for target, message in (
                ("/containers/c/logs", "must specify at least one of 'stdout' or 'stderr'"),
                (
                    "/containers/c/logs?stdout=1&since=x",
                    'invalid value for "since": invalid timestamp "x": invalid seconds "x": '
                    "invalid syntax",
                ),
            ):
                answer = await served.get(target)
                assert (answer.status, answer.message) == (400, message)
            assert (await served.get("/containers/zzz/logs?stdout=1")).status == 404

    run(main)


def test_followed_logs_of_a_silent_container(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            fake.log_gate = asyncio.Event()
            async with connected(served.path) as client:
                client.send(b"GET /containers/c/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n")
                assert (await client.head())[0] == 200
                assert not fake.log_closed.is_set()
            await fake.log_closed.wait()

    run(main)


def test_an_error_of_the_first_piece_is_a_status_a_later_one_cuts_the_stream(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.containers
            fake.log_items = [InvalidParameter("no reading")]
            assert (await served.get("/containers/c/logs?stdout=1")).status == 400
            fake.log_items = [b"one", RuntimeError("broken")]
            served.client.send(b"GET /containers/c/logs?stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n")
            assert (await served.client.head())[0] == 200
            rest = await served.client.reader.read()
            assert rest == b"3\r\none\r\n"

    run(main)


def test_events(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            image = {"Type": "image", "Action": "create", "Actor": {"ID": "i", "Attributes": {}}}
            start = {
                "Type": "container",
                "Action": "start",
                "Actor": {"ID": "c", "Attributes": {"image": "busybox"}},
            }
            for version, accept, kind, count, legacy in (
                (45, "", "application/json", 1, True),
                (51, "*/*", "application/json", 2, True),
                (52, "", "application/jsonl", 2, False),
                (52, "application/json-seq", "application/json-seq", 2, False),
                (50, "text/x, application/x-ndjson;q=0.5", "application/x-ndjson", 2, True),
            ):
                for message in (image, start, None):
                    served.fakes.system.messages.put_nowait(message)
                headers = f"Accept: {accept}\r\n" if accept else ""
                answer = await served.get(f"/v1.{version}/events", headers)
                assert answer.headers["content-type"] == kind
                lines = answer.body.replace(b"\x1e", b"").splitlines()
                assert (b"\x1e" in answer.body) == (kind == "application/json-seq")
                found = [msgspec.json.decode(line) for line in lines]
                assert len(found) == count
                last = found[-1]
                assert (last.get("status"), last.get("id"), last.get("from")) == (
                    ("start", "c", "busybox") if legacy else (None, None, None)
                )

    run(main)


def test_events_are_subscribed_before_the_head(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            async with connected(served.path) as client:
                client.send(
                    b"GET /events?filters=%7B%22type%22%3A%7B%22image%22%3Atrue%7D%7D"
                    b" HTTP/1.1\r\nHost: d\r\n\r\n"
                )
                await client.head()
                given = served.fakes.recorder.last("events")
                assert given == {"since": "", "until": "", "filters": {"type": ["image"]}}
            await served.fakes.system.events_closed.wait()
            for query, message in (
                ("since=2&until=1", "`since` time (2) cannot be after `until` time (1)"),
                (
                    "since=x",
                    'invalid value for \'since\': invalid timestamp "x": invalid seconds "x": '
                    "invalid syntax",
                ),
            ):
                assert (await served.get(f"/events?{query}")).message == message

    run(main)


def test_progress(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            fake = served.fakes.images
            auth = "X-Registry-Auth: eyJ1c2VybmFtZSI6InUifQ==\r\n"
            answer = await served.post("/images/create?fromImage=a%2Fb:&tag=t", headers=auth)
            assert answer.headers["content-type"] == "application/json"
            assert answer.body == b'{"status":"Pulling"}\r\n{"status":"Done"}\r\n'
            assert served.fakes.recorder.last("pull") == {
                "ref": "a/b", "tag": "t", "platform": "", "auth": {"username": "u"},
            }  # fmt: skip
            fake.messages = [{"status": "Pulling"}, NotFound("manifest unknown")]
            answer = await served.post("/images/create?fromImage=a")
            assert answer.status == 200
            assert msgspec.json.decode(answer.body.splitlines()[1]) == {
                "errorDetail": {"message": "manifest unknown"},
                "error": "manifest unknown",
            }
            fake.messages = [NotFound("no such image")]
            answer = await served.post("/images/create?fromImage=a")
            assert (answer.status, answer.message) == (404, "no such image")

    run(main)


def test_bars_for_older_clients(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            detail = {"current": 65_536, "total": 5_007_360}
            sent = {"status": "Loading", "progressDetail": detail, "id": "a"}
            served.fakes.images.messages = [sent, {"status": "x", "progressDetail": {}}]
            for version, text in ((51, f"[>{' ' * 50}]  65.54kB/5.007MB"), (52, None)):
                answer = await served.post(f"/v1.{version}/images/create?fromImage=a")
                first, second = map(msgspec.json.decode, answer.body.splitlines())
                assert first == sent | ({"progress": text} if text else {})
                assert "progress" not in second

    run(main)
    assert bar(5_007_360, 5_007_360) == f"[{'=' * 50}>]  5.007MB/5.007MB"
    assert bar(1, 4) == f"[{'=' * 12}>{' ' * 38}]       1B/4B"
    assert bar(5, 4) == f"[{'=' * 50}>]       5B"
    assert bar(1500, 0) == "   1.5kB"


def test_load_and_import_read_the_body(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as served:
            tar = b"POST /x/attach HTTP/1.1\r\n\r\n" * 40_000
            kind = "Content-Type: application/x-tar\r\n"
            answer = await served.post("/images/load?quiet=0", tar, kind)
            assert answer.status == 200
            assert served.fakes.images.uploaded == tar
            assert served.fakes.recorder.last("load") == {"quiet": False}
            await served.post("/images/create?fromSrc=-&repo=r&changes=A&changes=B", tar, kind)
            assert served.fakes.images.uploaded == tar
            given = served.fakes.recorder.last("import")
            assert (given["changes"], given["message"]) == (["A", "B"], "Imported from -")

    run(main)


def test_websocket_attach(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            engine(tmp_path) as served,
            ClientSession(connector=UnixConnector(str(served.path))) as session,
        ):
            fake = served.fakes.containers
            fake.attachment.started.set()
            for version in (27, 50):
                target = f"http://d/v1.{version}/containers/c/attach/ws?stdout=1&stdin=1&stream=1"
                async with session.ws_connect(target) as socket:
                    await socket.send_bytes(b"in")
                    await fake.process.hear(b"in")
                    fake.process.say(b"\x01\0\0\0\0\0\0\x05he")
                    fake.process.say(b"llo\x02\0\0")
                    fake.process.say(b"\0\0\0\0\x01!")
                    fake.process.end()
                    text = ""
                    async for message in socket:
                        data = message.data
                        assert isinstance(data, str if version < 28 else bytes)
                        text += data if isinstance(data, str) else data.decode()
                    assert text == "hello!"
            assert (await served.get("/containers/c/attach/ws")).status == 400

    run(main)
