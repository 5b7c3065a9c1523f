"""exec: more processes in a running container."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime, wait_for


@pytest.fixture
def running(runtime: Runtime, bundle: Bundle) -> str:
    return runtime.detached(bundle.args("sleep", "1000"))


def test_output_and_status(runtime: Runtime, running: str) -> None:
    result = runtime(
        "exec", running, "sh", "-c", "cat; echo out; echo err >&2; exit 9", stdin="in\n"
    )
    assert (result.code, result.out, result.err) == (9, "in\nout\n", "err\n")


def test_it_is_in_every_namespace(runtime: Runtime, running: str) -> None:
    kinds = ("pid", "net", "ipc", "uts", "mnt")
    script = " ".join(f"readlink /proc/self/ns/{kind};" for kind in kinds)
    pid = runtime.pid(running)
    assert runtime("exec", running, "sh", "-c", script).out.split() == [
        os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds
    ]


def test_it_is_in_the_cgroup(runtime: Runtime, running: str) -> None:
    mine = Path(f"/proc/{runtime.pid(running)}/cgroup").read_text()
    # Without a cgroup namespace both read the same paths.
    assert runtime("exec", running, "cat", "/proc/self/cgroup").out == mine


def test_same_rights_as_init(runtime: Runtime, running: str) -> None:
    fields = "Cap|NoNewPrivs|Groups|Uid"
    init = runtime("exec", running, "grep", "-E", fields, "/proc/1/status").out
    mine = runtime("exec", running, "grep", "-E", fields, "/proc/self/status").out
    assert mine == init


def test_flags(runtime: Runtime, running: str) -> None:
    result = runtime(
        "exec", "-e", "A=1", "-e", "B=2", "-u", "3:4", "-g", "5", "--cwd", "/var", running,
        "sh", "-c", "echo $A $B; id -u; id -g; id -G; pwd",
    )  # fmt: skip
    assert result.out.split() == ["1", "2", "3", "4", "4", "5", "/var"], result.err


def test_flags_after_the_name_are_the_command_s(runtime: Runtime, running: str) -> None:
    assert runtime("exec", running, "echo", "-n", "x").out == "x"


def test_added_capabilities(runtime: Runtime, running: str) -> None:
    result = runtime("exec", "--cap", "CAP_NET_RAW", running, "grep", "CapEff", "/proc/self/status")
    assert int(result.out.split()[1], 16) == 1 << 13 | 1 << 5 | 1 << 0 | 1 << 7


def test_process_file(runtime: Runtime, running: str, tmp_path: Path) -> None:
    (tmp_path / "process.json").write_text(
        json.dumps(
            {
                "cwd": "/tmp",
                "args": ["sh", "-c", "pwd; echo $X; id -u"],
                "env": ["PATH=/bin", "X=y"],
                "user": {"uid": 12, "gid": 12},
            }
        )
    )
    result = runtime("exec", "-p", str(tmp_path / "process.json"), running)
    assert result.out.split() == ["/tmp", "y", "12"], result.err


def test_detached_with_pid_file(
    runtime: Runtime, running: str, bundle: Bundle, tmp_path: Path
) -> None:
    result = runtime(
        "exec", "-d", "--pid-file", str(tmp_path / "pid"), running,
        "sh", "-c", "echo done > /done; exec sleep 1000 > /dev/null 2>&1",
    )  # fmt: skip
    assert result.code == 0, result.err
    wait_for((bundle.rootfs / "done").exists)
    pid = int((tmp_path / "pid").read_text())
    assert pid in json.loads(runtime("ps", "-f", "json", running).out)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nonesuch"], 'exec: "nonesuch": executable file not found in $PATH'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_what_cannot_be_executed(
    runtime: Runtime, running: str, words: list[str], text: str
) -> None:
    result = runtime("exec", running, *words)
    assert result.code == 255
    assert text in result.err.replace('\\"', '"')
    assert "exec failed: unable to start container process: " in result.err


def test_a_missing_working_directory(runtime: Runtime, running: str) -> None:
    result = runtime("exec", "--cwd", "/nonesuch", running, "true")
    assert result.code == 255
    assert "no such file or directory" in result.err


def test_in_a_stopped_container(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(bundle)
    runtime.wait_status(name, "stopped")
    result = runtime("exec", name, "true")
    assert result.code == 255
    assert "cannot exec in a stopped container" in result.err


def test_ignore_paused(runtime: Runtime, running: str, tmp_path: Path) -> None:
    if runtime.name == "runc":
        pytest.skip("runc waits for the frozen process")
    assert runtime("pause", running).code == 0
    result = runtime("exec", running, "true")
    assert "cannot exec in a paused container" in result.err
    assert runtime("resume", running).code == 0


def test_in_a_created_container(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.create(bundle.args("sleep", "1000"))
    assert runtime("exec", name, "echo", "early").out == "early\n"


def test_init_s_end_ends_it(runtime: Runtime, running: str) -> None:
    process = runtime.popen("exec", running, "sleep", "1000")
    wait_for(lambda: len(json.loads(runtime("ps", "-f", "json", running).out)) == 2)
    runtime("kill", running, "KILL")
    assert process.wait(10) == 137


def test_rlimits_and_seccomp_apply(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]
    bundle.part("linux")["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    name = runtime.detached(bundle.args("sleep", "1000"))
    result = runtime("exec", name, "sh", "-c", "ulimit -n; mkdir /x")
    if runtime.name != "runc":  # the Go of runc 1.1 raises the soft limit
        assert result.out.strip() == "77"
    assert "No space left on device" in result.err


def test_bad_user(runtime: Runtime, running: str) -> None:
    result = runtime("exec", "-u", "nobody", running, "true")
    assert result.code == 255
    assert "bad uid" in result.err or "parsing" in result.err


@pytest.mark.parametrize("word", ["NONE", "=x"])
def test_an_environment_variable_that_is_none(runtime: Runtime, running: str, word: str) -> None:
    if word == "=x" and runtime.name == "runc":
        pytest.skip("runc 1.1 takes it")
    result = runtime("exec", "-e", word, running, "true")
    assert result.code == 255
    assert "unable to start container process: invalid environment variable" in result.err


def test_an_unknown_capability_is_told(runtime: Runtime, running: str) -> None:
    result = runtime("exec", "--cap", "CAP_NONE", running, "true")
    assert result.code == 0, result.err
    assert "level=warning" in result.err
    assert "ignoring unknown or unavailable capabilities: [CAP_NONE]" in result.err
