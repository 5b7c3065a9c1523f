"""gantryd as a process: shutdown, live-restore, reload, locks, and what new containers get."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.api import Api, Json
from tests.support.engine import Engine
from tests.support.wait import eventually

pytestmark = pytest.mark.integration

TRAP = "trap 'exit 7' TERM; while :; do sleep 0.05; done"


@contextmanager
def engine(*flags: str) -> Iterator[Engine]:
    with Engine("gantry", flags) as found:
        found.add_image()
        yield found


def make(api: Api, *command: str, start: bool = True, **host: Json) -> str:
    body: Json = {"Image": "busybox", "Cmd": list(command), "HostConfig": host}
    name = api.post("/containers/create", body=body).expect(201).text("Id")
    if start:
        api.post(f"/containers/{name}/start").expect(204)
    return name


def state(api: Api, name: str) -> dict[str, Json]:
    found = api.get(f"/containers/{name}/json").expect(200).obj()["State"]
    assert isinstance(found, dict)
    return found


def test_sigterm_stops_containers_and_policies_start_them_again() -> None:
    always: Json = {"Name": "always"}
    unless: Json = {"Name": "unless-stopped"}
    with engine() as found:
        with found.api() as api:
            plain = make(api, "sh", "-c", TRAP)
            revived = make(api, "sh", "-c", TRAP, RestartPolicy=always)
            kept = make(api, "sh", "-c", TRAP, RestartPolicy=unless)
            stopped = make(api, "sh", "-c", TRAP, RestartPolicy=unless)
            gone = make(api, "sh", "-c", TRAP, AutoRemove=True)
            api.post(f"/containers/{stopped}/stop").expect(204)
        assert found.stop() == 0
        assert not found.pidfile.exists()
        eventually(lambda: not found.processes(), "all shims have ended")
        found.start()
        with found.api() as api:
            assert (state(api, plain)["Status"], state(api, plain)["ExitCode"]) == ("exited", 7)
            eventually(lambda: state(api, revived)["Running"])
            eventually(lambda: state(api, kept)["Running"])
            assert state(api, stopped)["Status"] == "exited"
            assert api.get(f"/containers/{gone}/json").status == 404


def test_live_restore_leaves_them_running() -> None:
    with engine("--live-restore") as found:
        with found.api() as api:
            name = make(api, "sleep", "600")
            pid = state(api, name)["Pid"]
        assert found.stop() == 0
        assert Path(f"/proc/{pid}").exists()
        found.start()
        with found.api() as api:
            assert state(api, name)["Pid"] == pid
            assert api.get("/info").obj()["LiveRestoreEnabled"] is True
            api.post(f"/containers/{name}/kill").expect(204)
            assert api.post(f"/containers/{name}/wait").obj()["StatusCode"] == 137


def test_shutdown_timeout_bounds_the_stop() -> None:
    with engine("--shutdown-timeout", "1") as found:
        with found.api() as api:
            name = make(api, "sleep", "600")  # process 1 without a handler ignores SIGTERM
        began = time.monotonic()
        assert found.stop() == 0
        assert time.monotonic() - began < 8
        found.start()
        with found.api() as api:
            assert state(api, name)["ExitCode"] == 137


def test_reload(tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text("{}")
    with engine("--config-file", str(config)) as found, found.api() as api:
        before = api.get("/info").obj()
        assert (before["Debug"], before["Labels"]) == (False, [])
        content = {"debug": True, "labels": ["a=b"], "live-restore": True, "init": False}
        config.write_text(json.dumps(content))
        os.kill(found.pid, signal.SIGHUP)
        eventually(lambda: api.get("/info").obj()["Debug"] is True)
        after = api.get("/info").obj()
        assert (after["Labels"], after["LiveRestoreEnabled"]) == (["a=b"], True)
        config.write_text('{"nonsense": 1}')
        os.kill(found.pid, signal.SIGHUP)
        eventually(lambda: "configuration is not reloaded" in found.log.read_text())
        assert api.get("/info").obj()["Labels"] == ["a=b"]
        since = {"since": "0", "until": str(int(time.time()) + 1), "filters": {"type": ["daemon"]}}
        events = api.get("/events", since).lines()  # type: ignore[arg-type]  # lists of words
        assert [event["Action"] for event in events] == ["reload"]


def test_two_daemons_never_share_a_root() -> None:
    with engine() as found:
        for shared in ("--data-root", "--exec-root"):
            own = {"--data-root": str(found.root / "d2"), "--exec-root": str(found.root / "e2")}
            own[shared] = str(found.data_root if shared == "--data-root" else found.exec_root)
            words = [word for pair in own.items() for word in pair]
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "gantry.daemon.main", *words),
                    *("-p", str(found.root / "p2"), "-H", f"unix://{found.root}/s2"),
                ],
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 1
            [line] = done.stderr.strip().splitlines()
            assert "another gantryd is using" in line
        with found.api() as api:
            assert api.get("/_ping").status == 200


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-H", "ftp://x"), "unsupported proto"),
        (("-s", "nothere"), "driver not supported"),
        (("--default-runtime", "odd"), "unknown or invalid runtime name: odd"),
        (("--bip", "nonsense"), "nonsense"),
        (("--oom-score-adjust", "-2000"), "must be between -1000 and 1000"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(
    tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    done = subprocess.run(
        [
            *("unshare", "-n", sys.executable, "-m", "gantry.daemon.main"),
            *("--data-root", str(tmp_path / "d"), "--exec-root", str(tmp_path / "e")),
            *("-p", str(tmp_path / "p"), "-H", f"unix://{tmp_path}/s", *words),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("time=")]
    assert len(errors) == 1, done.stderr
    assert text in errors[0]


def test_a_machine_without_cgroups(tmp_path: Path) -> None:
    """What `ip netns exec` makes of /sys, for example."""
    script = 'umount -l /sys && mount -t sysfs sysfs /sys && exec "$0" "$@"'
    done = subprocess.run(
        [
            *("unshare", "-n", "-m", "sh", "-c", script, sys.executable),
            *("-m", "gantry.daemon.main", "-H", f"unix://{tmp_path}/s", "-p", str(tmp_path / "p")),
            *("--data-root", str(tmp_path / "d"), "--exec-root", str(tmp_path / "e")),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == "gantryd: failed to start daemon: Devices cgroup isn't mounted\n"


def test_defaults_of_the_daemon_reach_containers() -> None:
    flags = (
        *("--default-ulimit", "nofile=77:88", "--log-driver", "local", "--log-opt", "max-size=1m"),
        *("--default-shm-size", "1m", "--cgroup-parent", "/gantry-test-parent", "--label", "x=y"),
        "--no-new-privileges",
    )
    with engine(*flags) as found, found.api() as api:
        script = "ulimit -n; df /dev/shm | tail -1; cat /proc/self/cgroup /proc/self/status"
        name = make(api, "sh", "-c", script)
        api.post(f"/containers/{name}/wait").expect(200)
        shown = api.get(f"/containers/{name}/json").obj()
        host = shown["HostConfig"]
        assert isinstance(host, dict)
        assert host["LogConfig"] == {"Type": "local", "Config": {"max-size": "1m"}}
        text = api.get(f"/containers/{name}/logs", {"stdout": 1}).expect(200).body.decode()
        assert "77\n" in text
        assert "shm" in text
        assert " 1024 " in text
        assert "NoNewPrivs:\t1" in text
        assert f"/gantry-test-parent/{name}" in text
        api.delete(f"/containers/{name}").expect(204)


def test_volumes_start_with_what_the_image_has() -> None:
    with engine() as found, found.api() as api:
        name = make(api, "sh", "-c", "ls /v; stat -c %a /v", Binds=["filled:/v"])
        api.post(f"/containers/{name}/wait").expect(200)
        other = make(api, "ls", "/etc", Binds=["etc:/etc"])
        api.post(f"/containers/{other}/wait").expect(200)
        text = api.get(f"/containers/{other}/logs", {"stdout": 1}).body
        assert b"passwd" in text
        volume = api.get("/volumes/etc").obj()["Mountpoint"]
        assert isinstance(volume, str)
        assert (Path(volume) / "group").read_text().startswith("root:")
        no_copy = make(api, "ls", "/etc", Binds=["bare:/etc:nocopy"])
        api.post(f"/containers/{no_copy}/wait").expect(200)
        assert b"passwd" not in api.get(f"/containers/{no_copy}/logs", {"stdout": 1}).body


def test_a_volume_with_a_device_is_mounted_while_it_is_used() -> None:
    with engine() as found, found.api() as api:
        options: Json = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=5"}
        api.post("/volumes/create", body={"Name": "ram", "DriverOpts": options}).expect(201)
        name = make(api, "sleep", "600", Binds=["ram:/ram"])
        [mounted] = [m for m in found.mounts() if m.endswith("/ram/_data")]
        assert os.stat(mounted).st_uid == 5
        found.kill()
        found.start()
        with found.api() as again:
            other = make(again, "sleep", "600", Binds=["ram:/ram"])
            again.delete(f"/containers/{name}", {"force": 1}).expect(204)
            assert mounted in found.mounts()
            again.delete(f"/containers/{other}", {"force": 1}).expect(204)
            assert mounted not in found.mounts()


def test_copying_cannot_leave_the_container(tmp_path: Path) -> None:
    """CVE-2018-15664: a path that becomes a symlink while it is resolved."""
    secret = tmp_path / "secret"
    secret.write_text("host")
    swap = "mkdir /a; while :; do ln -sfn / /w; rm -rf /w; mkdir /w; ln -s / /w/x; rm -rf /w; done"
    with engine() as found, found.api() as api:
        name = make(api, "sh", "-c", swap)
        for _ in range(150):
            api.get(f"/containers/{name}/archive", {"path": f"/w/x{secret}"}).expect(404)
            api.get(f"/containers/{name}/archive", {"path": f"/w{secret}"}).expect(404)
        body = _tar("evil", b"x")
        for _ in range(50):
            target = f"/w{tmp_path}"
            answer = api.request("PUT", f"/containers/{name}/archive", {"path": target}, body)
            assert answer.status in (404, 400, 200)
        assert not (tmp_path / "evil").exists()


def test_a_hostile_passwd_leads_nowhere(tmp_path: Path) -> None:
    """CVE-2022-23648's class: files of an image that are links to the host's."""
    secret = tmp_path / "passwd"
    secret.write_text("stolen:x:4321:4321::/:/bin/sh\n")
    dockerfile_like = f"rm /etc/passwd; ln -s {secret} /etc/passwd; mkdir -p {tmp_path}"
    with engine() as found, found.api() as api:
        name = make(api, "sh", "-c", dockerfile_like)
        api.post(f"/containers/{name}/wait").expect(200)
        image = api.post("/commit", {"container": name, "repo": "hostile"}).expect(201)
        assert image.text("Id")
        body: Json = {"Image": "hostile", "Cmd": ["id"], "User": "stolen"}
        created = api.post("/containers/create", body=body).expect(201).text("Id")
        answer = api.post(f"/containers/{created}/start")
        assert answer.status >= 400
        assert "unable to find user stolen" in answer.message


def _tar(name: str, data: bytes) -> bytes:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_containers_live_without_what_only_registries_need() -> None:
    """aiohttp and all that it loads would be a quarter of an idle engine's memory."""
    with engine() as found, found.api() as api:
        name = make(api, "sleep", "600")
        body: Json = {"Cmd": ["true"], "AttachStdout": True}
        made = api.post(f"/containers/{name}/exec", body=body).expect(201).text("Id")
        api.post(f"/exec/{made}/start", body={"Detach": True}).expect(200)
        api.get(f"/containers/{name}/logs", {"stdout": "1"}).expect(200)
        api.get("/containers/json").expect(200)
        api.post(f"/containers/{name}/kill").expect(204)
        api.post(f"/containers/{name}/wait").expect(200)
        api.delete(f"/containers/{name}").expect(204)
        maps = Path(f"/proc/{found.pid}/maps").read_text()
        assert "/httptools/" in maps  # the files of modules written in C are seen here
        for module in ("aiohttp", "multidict", "yarl"):
            assert f"/{module}/" not in maps


class Frugal(Engine):
    """Started where a program may open few files, as login shells start them."""

    soft = 1024

    def argv(self) -> list[str]:
        return ["prlimit", f"--nofile={self.soft}:", *super().argv()]


def test_published_ports_do_not_use_up_the_files() -> None:
    """The daemon takes as many as it may; a container gets what the daemon was given."""
    bindings: Json = {f"{n}/tcp": [{"HostPort": str(n)}] for n in range(20000, 21200)}
    with Frugal("gantry") as found:
        found.add_image()
        with found.api() as api:
            one = make(api, "sh", "-c", "ulimit -Sn; sleep 1000", PortBindings=bindings)
            eventually(
                lambda: len(os.listdir(f"/proc/{found.pid}/fd")) > 1200, "the ports are held"
            )
            said = api.get(f"/containers/{one}/logs", {"stdout": 1}).expect(200)
            assert b"1024" in said.body
        found.kill()
        found.start()
        with found.api() as api:
            assert state(api, one)["Running"]


def test_how_soon_the_daemon_is_killed_for_memory() -> None:
    with engine("--oom-score-adjust=200") as found, found.api() as api:
        container = int(str(state(api, make(api, "sleep", "600"))["Pid"]))
        helpers = [pid for pid in found.processes() if pid != container]
        scores = {Path(f"/proc/{pid}/oom_score_adj").read_text().strip() for pid in helpers}
        assert scores == {"200"}
        assert Path(f"/proc/{container}/oom_score_adj").read_text().strip() == "0"


def test_what_the_file_says_of_stops_and_old_clients(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"default-stop-timeout": 0, "min-api-version": "1.44"}))
    with engine("--config-file", str(file)) as found, found.api() as api:
        name = make(api, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
        began = time.monotonic()
        api.post(f"/containers/{name}/stop").expect(204)
        assert time.monotonic() - began < 5
        assert state(api, name)["ExitCode"] == 137
        assert api.get("/version").obj()["MinAPIVersion"] == "1.44"
        refused = api.get("/v1.43/containers/json")
        assert refused.status == 400
        assert "Minimum supported API version is 1.44" in refused.text("message")
        api.get("/v1.44/containers/json").expect(200)
