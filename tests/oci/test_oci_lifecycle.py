"""create, start, state, kill, delete, list, ps, pause: a container's life by commands."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime, wait_for


def test_the_whole_life(runtime: Runtime, bundle: Bundle) -> None:
    bundle.sh("echo ran > /ran; exec sleep 1000")
    name = runtime.create(bundle)
    found = runtime.state(name)
    assert found["status"] == "created"
    assert found["id"] == name
    assert found["bundle"] == str(bundle.folder)
    assert found["rootfs"] == str(bundle.rootfs)
    assert not (bundle.rootfs / "ran").exists()
    assert runtime("start", name).code == 0
    wait_for((bundle.rootfs / "ran").exists)
    assert runtime.state(name)["status"] == "running"
    assert runtime("delete", name).code == 1
    assert runtime("kill", name, "KILL").code == 0
    runtime.wait_status(name, "stopped")
    assert runtime.state(name)["pid"] == 0
    assert runtime("delete", name).code == 0
    result = runtime("state", name)
    assert result.code == 1
    assert "container does not exist" in result.err


def test_pid_file(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    name = runtime.create(bundle.args("sleep", "1000"), "--pid-file", str(tmp_path / "pid"))
    assert int((tmp_path / "pid").read_text()) == runtime.pid(name)


def test_a_name_can_be_used_once(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.create(bundle.args("sleep", "1000"))
    done = runtime.create_process(bundle, name)
    assert done.code == 1
    assert "container with given ID already exists" in done.err
    assert runtime.state(name)["status"] == "created"


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "ä"])
def test_bad_names(runtime: Runtime, bundle: Bundle, name: str) -> None:
    result = runtime("run", "-b", str(bundle.write()), name)
    assert result.code == 1
    assert result.err.strip()


def test_start_twice(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.create(bundle.args("sleep", "1000"))
    assert runtime("start", name).code == 0
    result = runtime("start", name)
    assert result.code == 1
    assert "cannot start an already running container" in result.err


def test_start_of_a_paused_one(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.create(bundle.args("sleep", "1000"))
    assert runtime("pause", name).code == 0
    result = runtime("start", name)
    assert result.code == 1
    assert "cannot start a container in the paused state" in result.err
    result = runtime("pause", name)
    assert result.code == 1
    assert 'msg="container not running"' in result.err


def test_start_of_a_stopped_one(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.create(bundle)
    os.kill(runtime.pid(name), signal.SIGKILL)
    runtime.wait_status(name, "stopped")
    result = runtime("start", name)
    assert result.code == 1
    assert "cannot start a container that has stopped" in result.err


def test_a_created_container_can_be_deleted(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.create(bundle)
    pid = runtime.pid(name)
    assert runtime("delete", name).code == 0
    wait_for(lambda: not os.path.exists(f"/proc/{pid}") or _zombie(pid))


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_delete_force_ends_it(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(bundle.args("sleep", "1000"))
    pid = runtime.pid(name)
    assert runtime("delete", "--force", name).code == 0
    wait_for(lambda: not os.path.exists(f"/proc/{pid}") or _zombie(pid))
    assert runtime("delete", "--force", name).code == 0
    assert runtime("delete", name).code == 1


def test_what_is_left_after_a_run(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("linux")["cgroupsPath"] = f"/{runtime.name}-left/inner"
    runtime.ok(bundle)
    assert [p.name for p in runtime.root.iterdir() if not p.name.startswith(".")] == []
    top = Path("/sys/fs/cgroup")
    places = [top, *top.iterdir()] if not (top / "cgroup.controllers").exists() else [top]
    parents = [place / f"{runtime.name}-left" for place in places]
    assert [parent for parent in parents if (parent / "inner").exists()] == []
    for parent in parents:
        if parent.exists():
            parent.rmdir()


def test_kill_takes_names_and_numbers(runtime: Runtime, bundle: Bundle) -> None:
    bundle.sh(
        "trap 'echo $((n=n+1)) >> /got' USR1; echo ready > /ready; while :; do sleep 0.02; done"
    )
    name = runtime.detached(bundle)
    wait_for((bundle.rootfs / "ready").exists)
    for count, word in enumerate(("USR1", "SIGUSR1", "10"), 1):
        assert runtime("kill", name, word).code == 0
        wait_for(partial(_has_lines, bundle.rootfs / "got", count))
    assert runtime("kill", name, "NONESUCH").code == 1


def _has_lines(path: Path, count: int) -> bool:
    return _lines(path) == count


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("number", ["-1", "999"])
def test_signals_that_are_none(runtime: Runtime, bundle: Bundle, number: str) -> None:
    name = runtime.detached(bundle.args("sleep", "1000"))
    result = runtime("kill", name, number)
    assert result.code == 1
    assert "unable to signal init: invalid argument" in result.err


def test_kill_of_a_stopped_one(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(bundle)
    runtime.wait_status(name, "stopped")
    result = runtime("kill", name)
    assert result.code == 1
    assert "container not running" in result.err


def test_kill_of_a_paused_one(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(bundle.args("sleep", "1000"))
    assert runtime("pause", name).code == 0
    assert runtime("kill", name, "KILL").code == 0
    runtime.wait_status(name, "stopped")


def test_a_shared_pid_namespace_is_killed_whole(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc before 1.2 kills init alone")
    bundle.without("pid").sh("sleep 1000 & echo $! > /child; exec sleep 1000")
    name = runtime.detached(bundle)
    wait_for(lambda: _lines(bundle.rootfs / "child") == 1)
    child = int((bundle.rootfs / "child").read_text())
    assert os.path.exists(f"/proc/{child}")
    assert runtime("kill", name, "KILL").code == 0
    wait_for(lambda: not os.path.exists(f"/proc/{child}") or _zombie(child))


def test_pause_and_resume(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(bundle.sh("while :; do echo >> /n; sleep 0.01; done"))
    wait_for((bundle.rootfs / "n").exists)
    assert runtime("pause", name).code == 0
    assert runtime.state(name)["status"] == "paused"
    before = _lines(bundle.rootfs / "n")
    assert runtime("exec", name, "true").code == 255
    assert _lines(bundle.rootfs / "n") == before
    assert runtime("resume", name).code == 0
    wait_for(lambda: _lines(bundle.rootfs / "n") > before)
    assert runtime("resume", name).code == 1


def test_list(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.create(bundle.args("sleep", "1000"))
    head, row = runtime("list").out.splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert row.split()[:4] == [name, str(runtime.pid(name)), "created", str(bundle.folder)]
    assert row.split()[5] == "root"
    assert runtime("list", "-q").out == f"{name}\n"
    (document,) = json.loads(runtime("list", "--format", "json").out)
    assert document["id"] == name
    assert document["owner"] == "root"
    runtime("delete", "-f", name)
    assert json.loads(runtime("list", "-f", "json").out) is None


def test_ps(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(bundle.sh("sleep 1000 & sleep 1000; true"))
    wait_for(lambda: len(json.loads(runtime("ps", "-f", "json", name).out)) == 3)
    assert runtime.pid(name) in json.loads(runtime("ps", "-f", "json", name).out)
    if subprocess.run(["ps", "-ef"], capture_output=True).returncode:
        pytest.skip("ps does not work here")
    text = runtime("ps", name).out
    assert len(text.splitlines()) == 4
    assert "PID" in text.splitlines()[0]
    assert runtime("ps", name, "-o", "pid,args").out.splitlines()[0].split()[0] == "PID"


def test_annotations_are_shown(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["annotations"] = {"a": "b=c"}
    name = runtime.create(bundle)
    assert runtime.state(name)["annotations"] == {"a": "b=c"}


def test_signals_are_passed_on_in_the_foreground(runtime: Runtime, bundle: Bundle) -> None:
    bundle.sh("trap 'exit 7' TERM; echo ready > /ready; while :; do sleep 0.02; done")
    process = runtime.popen("run", "-b", str(bundle.write()), runtime.new_id())
    wait_for((bundle.rootfs / "ready").exists)
    process.terminate()
    assert process.wait(10) == 7


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nonesuch"], 3, "No help topic for 'nonesuch'"),
        (["state"], 1, '"state" requires exactly 1 argument(s)'),
        (["kill", "a", "9", "9"], 1, '"kill" requires a maximum of 2 argument(s)'),
        (["list", "--nonesuch"], 1, "flag provided but not defined: -nonesuch"),
        (["--log", "/none/such", "list"], 1, "open /none/such: no such file or directory"),
    ],
)
def test_mistakes(runtime: Runtime, words: list[str], code: int, said: str) -> None:
    result = runtime(*words)
    assert result.code == code
    assert said in result.err.replace('\\"', '"')
    if "requires" in said:
        assert result.out.startswith("Incorrect Usage.\n\n")
    elif "flag" in said:
        assert result.out.startswith(f"Incorrect Usage: {said}\n\n")
    if "flag" in said or "requires" in said:
        assert "USAGE:\n" in result.out


def test_log_in_json(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = runtime("--log", str(log), "--log-format", "json", "state", "none")
    assert result.code == 1
    assert result.err.strip() == "container does not exist"
    entry = json.loads(log.read_text().splitlines()[-1])
    assert entry["level"] == "error"
    assert entry["msg"] == "container does not exist"
    assert entry["time"]


def test_preserved_fds(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("from outside")
    bundle.sh("head -c 4 <&3; ls /proc/self/fd | wc -l").write()
    words = [*runtime.command, "--root", str(runtime.root), "run", "--preserve-fds", "1",
             "-b", str(bundle.folder), runtime.new_id()]  # fmt: skip
    command = f"{shlex.join(words)} 3<{tmp_path}/data 4</dev/null"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout == "from5\n"


def test_a_killed_create_leaves_what_delete_removes(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.new_id()
    (runtime.root / name).mkdir(parents=True)
    assert runtime("delete", "--force", name).code == 0
    assert not (runtime.root / name).exists()


def test_a_created_container_holds_nothing_open(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    """Whoever waits for the end of a pipe of the caller's must not wait for it."""
    name = runtime.new_id()
    bundle.args("true").write()
    words = [*runtime.command, "--root", str(runtime.root), "create", "-b", str(bundle.folder)]
    (tmp_path / "mine").write_text("")
    with (tmp_path / "mine").open() as mine:
        subprocess.run(
            [*words, name], check=True, timeout=60, pass_fds=[mine.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    folder = f"/proc/{runtime.pid(name)}/fd"
    held = {int(fd): os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
    rest = [target for fd, target in held.items() if fd > 2]
    assert str(tmp_path / "mine") not in rest
    assert not [target for target in rest if target.startswith(("pid:", "mnt:", "/dev/"))]


@pytest.mark.parametrize("word", ["TERM", "INT", "KILL"])
def test_a_created_container_can_be_ended(runtime: Runtime, bundle: Bundle, word: str) -> None:
    name = runtime.create(bundle.args("sleep", "1000"))
    assert runtime("kill", name, word).code == 0
    runtime.wait_status(name, "stopped")
    assert runtime("start", name).code == 1


def test_debug_tells_the_stages(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    name = runtime.new_id()
    words = ["--debug", "--log", str(log), "run", "-b", str(bundle.args("echo", "x").write())]
    result = runtime(*words, name)
    assert (result.code, result.out) == (0, "x\n")
    assert "level=debug" not in result.err
    text = log.read_text()
    for stage in ("container setup", "child process in init()", "signal completion"):
        assert stage in text


def test_what_the_kernel_will_not_execute(runtime: Runtime, bundle: Bundle) -> None:
    """The container has started then: its own stderr has the one line."""
    script = bundle.rootfs / "lost"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    result = runtime.run(bundle.args("/lost"))
    assert result.code not in (0, 126, 127)
    assert result.err.splitlines()[-1] == "exec /lost: no such file or directory"


def test_a_terminal_s_lines_end_as_the_program_ends_them(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc wants a terminal of its own for that")
    bundle.part("process")["terminal"] = True
    assert runtime.ok(bundle.sh("echo a; echo b")) == "a\nb\n"
