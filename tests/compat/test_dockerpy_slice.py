"""docker-py on the engine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support import image
from tests.support.engine import Engine

docker = pytest.importorskip("docker")

if TYPE_CHECKING:
    from docker import DockerClient


@pytest.fixture(params=["auto", "1.24", "1.41"])
def client(engine: Engine, request: pytest.FixtureRequest) -> Iterator[DockerClient]:
    made = docker.DockerClient(base_url=f"unix://{engine.socket}", version=request.param)
    yield made
    made.close()


class TestRun:
    def test_output(self, client: DockerClient) -> None:
        assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"

    def test_both_streams(self, client: DockerClient) -> None:
        command = ["sh", "-c", "echo a; echo b >&2"]
        got = client.containers.run("busybox", command, remove=True, stderr=True)
        assert sorted(got.split()) == [b"a", b"b"]

    def test_failing_command(self, client: DockerClient) -> None:
        with pytest.raises(docker.errors.ContainerError) as caught:
            client.containers.run("busybox", ["sh", "-c", "echo no >&2; exit 3"], remove=True)
        assert caught.value.exit_status == 3
        assert caught.value.stderr == b"no\n"

    def test_missing_image(self, client: DockerClient) -> None:
        with pytest.raises(docker.errors.ImageNotFound):
            client.images.get("nope")

    def test_missing_program(self, client: DockerClient) -> None:
        with pytest.raises(docker.errors.APIError, match="executable file not found"):
            client.containers.run("busybox", "no-such", remove=True)

    def test_options(self, client: DockerClient, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("bound")
        for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            folder.chmod(0o755)
        got = client.containers.run(
            "busybox",
            ["sh", "-c", "cat /d/f; echo; id -u; pwd; echo $A; hostname"],
            remove=True,
            user="1000",
            working_dir="/www",
            environment={"A": "1"},
            hostname="h",
            mem_limit="64m",
            pids_limit=50,
            volumes={str(tmp_path): {"bind": "/d", "mode": "ro"}},
        )
        assert got.decode().split()[-5:] == ["bound", "1000", "/www", "1", "h"]


class TestLife:
    def test_states(self, client: DockerClient) -> None:
        container = client.containers.run("busybox", ["sleep", "600"], detach=True, name="life")
        assert client.containers.get("life").id == container.id
        assert client.containers.list()[0].name == "life"
        container.pause()
        container.reload()
        assert container.status == "paused"
        container.unpause()
        container.rename("other")
        container.restart(timeout=0)
        container.kill()
        assert container.wait()["StatusCode"] == 137
        container.reload()
        assert (container.status, container.name) == ("exited", "other")
        container.remove()
        with pytest.raises(docker.errors.NotFound):
            client.containers.get("other")

    def test_name_conflict(self, client: DockerClient) -> None:
        client.containers.create("busybox", name="twice")
        with pytest.raises(docker.errors.APIError) as caught:
            client.containers.create("busybox", name="twice")
        assert caught.value.status_code == 409

    def test_logs(self, client: DockerClient) -> None:
        container = client.containers.run("busybox", ["seq", "5"], detach=True)
        container.wait()
        assert container.logs() == b"1\n2\n3\n4\n5\n"
        assert container.logs(tail=2) == b"4\n5\n"
        assert list(container.logs(stream=True, follow=True))[-1].endswith(b"5\n")
        assert container.logs(timestamps=True, tail=1).split()[1] == b"5"

    def test_exec(self, client: DockerClient) -> None:
        container = client.containers.run("busybox", ["sleep", "600"], detach=True)
        code, output = container.exec_run(["sh", "-c", "echo x; exit 3"])
        assert (code, output) == (3, b"x\n")
        code, (out, err) = container.exec_run(["sh", "-c", "echo a; echo b >&2"], demux=True)
        assert (code, out, err) == (0, b"a\n", b"b\n")
        _, stream = container.exec_run(["seq", "3"], stream=True)
        assert b"".join(stream) == b"1\n2\n3\n"

    def test_exec_socket(self, client: DockerClient) -> None:
        container = client.containers.run("busybox", ["sleep", "600"], detach=True)
        _, stream = container.exec_run("cat", stdin=True, socket=True, tty=True)
        sock = getattr(stream, "_sock", stream)
        sock.sendall(b"line\n")
        got = b""
        while got.count(b"line") < 2:
            got += sock.recv(1024)
        sock.close()

    def test_attach(self, client: DockerClient) -> None:
        container = client.containers.create("busybox", ["sh", "-c", "echo a; echo b"])
        stream = container.attach(stream=True, stdout=True, logs=True)
        container.start()
        assert b"".join(stream) == b"a\nb\n"

    def test_top_stats_diff(self, client: DockerClient) -> None:
        container = client.containers.run(
            "busybox", ["sh", "-c", "touch /x; sleep 600"], detach=True
        )
        code, _ = container.exec_run(["sh", "-c", "while [ ! -e /x ]; do sleep 0.05; done"])
        assert code == 0
        assert container.top()["Processes"]
        assert container.stats(stream=False)["pids_stats"]["current"] >= 1
        assert {"Path": "/x", "Kind": 1} in container.diff()

    def test_archive(self, client: DockerClient) -> None:
        container = client.containers.create("busybox")
        chunks, stat = container.get_archive("/etc/passwd")
        assert stat["name"] == "passwd"
        assert image.PASSWD.encode() in b"".join(chunks)

    def test_events(self, client: DockerClient) -> None:
        events = client.events(decode=True, filters={"type": "container"})
        container = client.containers.run("busybox", "true", detach=True)
        container.wait()
        seen = []
        for event in events:
            seen.append(event["Action"])
            if event["Action"] == "die":
                break
        events.close()
        assert [name for name in seen if name in ("create", "start", "die")] == [
            "create",
            "start",
            "die",
        ]


class TestImages:
    def test_load_tag_remove(self, client: DockerClient) -> None:
        (loaded,) = client.images.load(io.BytesIO(image.docker_archive("py:1")).getvalue())
        assert loaded.tags == ["py:1"]
        assert loaded.tag("py", "2")
        loaded.reload()
        assert set(loaded.tags) == {"py:1", "py:2"}
        saved = b"".join(loaded.save(named=True))
        client.images.remove("py:1")
        client.images.remove("py:2")
        (again,) = client.images.load(saved)
        assert again.id == loaded.id
        client.images.remove(again.id, force=True)

    def test_list_and_history(self, client: DockerClient) -> None:
        assert client.images.list(name="busybox")[0].tags == ["busybox:latest"]
        assert client.images.get("busybox").history()


class TestSystem:
    def test_ping_version_info(self, client: DockerClient) -> None:
        assert client.ping() is True
        assert client.version()["ApiVersion"]
        assert client.info()["OSType"] == "linux"
        if client.api._version != "1.24":
            assert "Images" in client.df()

    def test_volumes_and_networks(self, client: DockerClient) -> None:
        volume = client.volumes.create("gt-py", labels={"a": "1"})
        try:
            mounts = {"gt-py": {"bind": "/d", "mode": "rw"}}
            client.containers.run("busybox", ["touch", "/d/x"], remove=True, volumes=mounts)
            got = client.containers.run("busybox", ["ls", "/d"], remove=True, volumes=mounts)
            assert got == b"x\n"
        finally:
            volume.remove()
        assert {"bridge", "host", "none"} <= {found.name for found in client.networks.list()}


class TestEdges:
    """What docker-py's own suite asks for."""

    def test_log_of_one_that_just_ended(self, client: DockerClient) -> None:
        for _ in range(5):
            container = client.containers.create("busybox", ["echo", "hello"])
            container.start()
            container.wait()
            assert client.api.attach(container.id, stream=False, logs=True) == b"hello\n"
            container.remove()

    def test_exec_with_a_terminal_read_without_one(self, client: DockerClient) -> None:
        container = client.containers.run("busybox", ["sleep", "60"], detach=True)
        made = client.api.exec_create(container.id, ["echo", "hello"], tty=True)
        assert client.api.exec_start(made["Id"]) == b"hello\r\n"
        made = client.api.exec_create(container.id, ["sh", "-c", "echo a; echo b >&2"])
        assert sorted(client.api.exec_start(made["Id"], tty=True)) == sorted(b"a\nb\n")
        container.remove(force=True)

    def test_a_link_is_removed_by_its_name(self, client: DockerClient) -> None:
        target = client.containers.run("busybox", ["sleep", "60"], detach=True)
        user = client.containers.create("busybox", ["true"], links={target.name: "db"})
        assert user.attrs["HostConfig"]["Links"] == [f"/{target.name}:/{user.name}/db"]
        rows = {row["Id"]: row["Names"] for row in client.api.containers(all=True)}
        assert f"/{user.name}/db" in rows[target.id]
        client.api.remove_container(f"{user.name}/db", link=True)
        user.reload()
        assert user.attrs["HostConfig"]["Links"] is None
        user.remove()
        target.remove(force=True)

    def test_wait_is_over_before_a_restart(self, client: DockerClient) -> None:
        container = client.containers.run(
            "busybox", ["sleep", "0.2"], detach=True, restart_policy={"Name": "always"}
        )
        assert container.wait(timeout=20)["StatusCode"] == 0
        with pytest.raises(docker.errors.APIError, match="stop the container before"):
            container.remove()
        container.remove(force=True)
