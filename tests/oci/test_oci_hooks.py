"""The six kinds of hooks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def hook(script: str, **more: object) -> dict[str, object]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], **more}


def test_order_and_namespaces(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    bundle.mount("/log", "bind", str(log), "bind")
    hooks = bundle.part("hooks")
    for kind in KINDS:
        place = "/log" if kind == "startContainer" else str(log)
        hooks[kind] = [hook(f"echo {kind} $(readlink /proc/self/ns/mnt) >> {place}")]
    bundle.sh("echo process $(readlink /proc/self/ns/mnt) >> /log; sleep 0.1")
    runtime.ok(bundle)
    lines = [line.split() for line in log.read_text().splitlines()]
    order = [line[0] for line in lines]
    # poststart races with the process itself.
    assert [kind for kind in order if kind != "poststart"] == [
        "prestart", "createRuntime", "createContainer", "startContainer", "process", "poststop",
    ]  # fmt: skip
    if runtime.name != "runc":  # 1.1 does not wait for the first to have run
        assert order.index("startContainer") < order.index("poststart")
    where = dict(lines)
    assert where["prestart"] == where["createRuntime"] == where["poststart"] == where["poststop"]
    assert where["createContainer"] == where["startContainer"] == where["process"]
    assert where["prestart"] != where["process"]


def test_state_on_stdin(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    hooks = bundle.part("hooks")
    bundle.config["annotations"] = {"key": "value"}
    for kind in ("createRuntime", "poststop"):
        hooks[kind] = [hook(f"cat > {tmp_path}/{kind}")]
    runtime.ok(bundle)
    found = json.loads((tmp_path / "createRuntime").read_text())
    assert found["id"] == runtime.ids[-1]
    assert found["pid"] > 0
    assert found["bundle"] == str(bundle.folder)
    assert found["annotations"]["key"] == "value"
    assert found["status"] in ("creating", "created")
    assert json.loads((tmp_path / "poststop").read_text())["status"] == "stopped"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_failing_hook_stops_the_start(runtime: Runtime, bundle: Bundle, kind: str) -> None:
    bundle.part("hooks")[kind] = [hook("echo sorry >&2; exit 3")]
    result = runtime.run(bundle.sh("echo ran"))
    if kind == "startContainer" and runtime.name == "runc":
        return  # reported by nobody: runc's run has let go of its init by then
    assert result.code == 1, result.text
    assert "hook" in result.err
    assert "exit status 3" in result.err
    assert "ran" not in result.out
    assert not [p for p in runtime.root.iterdir() if not p.name.startswith(".")]


def test_timeout(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("hooks")["createRuntime"] = [hook("exec sleep 100", timeout=1)]
    result = runtime.run(bundle)
    assert result.code == 1
    assert "hook" in result.err


def test_a_hook_that_is_not_there(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("hooks")["createRuntime"] = [{"path": "/no/such/hook"}]
    result = runtime.run(bundle)
    assert result.code == 1
    assert "/no/such/hook" in result.err


def test_a_failing_poststop_is_passed_over(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    bundle.part("hooks")["poststop"] = [hook("exit 1"), hook(f"touch {tmp_path}/second")]
    assert runtime.run(bundle).code == 0


def test_several_in_order(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.part("hooks")["createRuntime"] = [
        hook(f"echo {number} >> {tmp_path}/n") for number in range(5)
    ]
    runtime.ok(bundle)
    assert (tmp_path / "n").read_text().split() == ["0", "1", "2", "3", "4"]


def test_a_hook_does_not_need_to_read(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["annotations"] = {"long": "x" * 200_000}
    bundle.part("hooks")["createRuntime"] = [hook("exit 0")]
    runtime.ok(bundle)


def test_every_poststop_hook_runs(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 stops at the first that fails")
    bundle.part("hooks")["poststop"] = [hook("exit 4"), hook(f"touch {tmp_path}/second")]
    result = runtime.run(bundle)
    assert result.code == 0
    assert "level=warning" in result.err
    assert "poststop hook #0: exit status 4" in result.err
    assert (tmp_path / "second").exists()


def test_an_environment_that_is_not_given_is_the_caller_s(
    runtime: Runtime, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "yes")
    script = f'echo "$FROM_OUTSIDE" > {tmp_path}/env'
    bundle.part("hooks")["createRuntime"] = [{"path": "/bin/sh", "args": ["sh", "-c", script]}]
    runtime.ok(bundle)
    assert (tmp_path / "env").read_text() == "yes\n"
    bundle.part("hooks")["createRuntime"] = [hook(script, env=["PATH=/bin"])]
    runtime.ok(bundle)
    assert (tmp_path / "env").read_text() == "\n"


@pytest.mark.parametrize("given", [{}, {"LD_LIBRARY_PATH": "/a:/b"}, {"LC_CTYPE": "C.UTF-8"}])
def test_the_caller_s_environment_is_all_that_a_hook_has(
    runtime: Runtime, bundle: Bundle, tmp_path: Path, given: dict[str, str]
) -> None:
    # Not what a runtime has put there for its own start.
    environment = {"PATH": os.environ["PATH"], "A": "1", "PWD": os.getcwd(), **given}
    kinds = ("prestart", "createRuntime", "poststart", "poststop")
    for kind in kinds:
        script = f"cat /proc/$$/environ > {tmp_path}/{kind}"
        bundle.part("hooks")[kind] = [{"path": "/bin/sh", "args": ["sh", "-c", script]}]
    done = runtime("run", "-b", str(bundle.write()), runtime.new_id(), env=environment)
    assert done.code == 0, done.text
    for kind in kinds:
        words = (tmp_path / kind).read_text().rstrip("\0").split("\0")
        assert dict(word.split("=", 1) for word in words) == environment, kind


def test_inside_hooks_have_the_process_s_environment(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 gives them none of it")
    (tmp_path / "log").write_text("")
    bundle.mount("/log", "bind", str(tmp_path / "log"), "bind")
    bundle.entries("process", "env").append("MINE=1")
    bundle.part("hooks")["startContainer"] = [
        {"path": "/bin/sh", "args": ["sh", "-c", "echo $MINE $HOME > /log"]}
    ]
    runtime.ok(bundle)
    assert (tmp_path / "log").read_text() == "1 /root\n"


def test_a_create_container_hook_is_in_the_root(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    bundle.part("hooks")["createContainer"] = [hook(f"ls etc/passwd > {tmp_path}/found")]
    runtime.ok(bundle)
    assert (tmp_path / "found").read_text() == "etc/passwd\n"


def test_what_a_hook_said_is_told(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("hooks")["createRuntime"] = [hook("echo one; echo two >&2; kill -9 $$")]
    result = runtime.run(bundle)
    assert result.code == 1
    assert "killed" in result.err
    if runtime.name != "runc":  # 1.1 shows stderr under both names
        assert "stdout: one, stderr: two" in result.err
