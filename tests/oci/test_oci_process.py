"""What a container's process is, has and may do."""

from __future__ import annotations

import pytest
from tests.oci.bundles import Bundle, Runtime


def status(runtime: Runtime, bundle: Bundle) -> dict[str, str]:
    text = runtime.ok(bundle.sh("cat /proc/self/status"))
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in text.splitlines()}


def test_exit_status_is_the_process_s(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.run(bundle.sh("exit 42")).code == 42


def test_a_signal_is_128_and_its_number(runtime: Runtime, bundle: Bundle) -> None:
    # A pid namespace's init gets no signal from inside that it has no handler for.
    bundle.sh("sh -c 'kill -TERM $$'; echo $?")
    assert runtime.ok(bundle).strip() == "143"


def test_stdin_and_stdout_are_the_caller_s(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.ok(bundle.args("tr", "a-z", "A-Z"), stdin="hello\n") == "HELLO\n"


def test_it_is_pid_1(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.ok(bundle.sh("echo $$")).strip() == "1"


def test_arguments_are_passed_as_they_are(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("echo", "a b", "", "c\td", "ü")
    assert runtime.ok(bundle) == "a b  c\td ü\n"


def test_environment_is_the_spec_s_and_home_is_looked_up(runtime: Runtime, bundle: Bundle) -> None:
    bundle.entries("process", "env").append("A=b c")
    bundle.args("env")
    assert sorted(runtime.ok(bundle).splitlines()) == [
        "A=b c", "HOME=/root", "PATH=/bin", "TERM=xterm",
    ]  # fmt: skip


@pytest.mark.parametrize(("uid", "home"), [(1000, "/home/user"), (4242, "/")])
def test_home_of_other_users(runtime: Runtime, bundle: Bundle, uid: int, home: str) -> None:
    bundle.part("process")["user"] = {"uid": uid, "gid": 1}
    assert runtime.ok(bundle.sh("echo $HOME")).strip() == home


def test_home_that_is_given_stays(runtime: Runtime, bundle: Bundle) -> None:
    bundle.entries("process", "env").append("HOME=/mine")
    assert runtime.ok(bundle.sh("echo $HOME")).strip() == "/mine"


def test_user_group_and_supplementary_groups(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["user"] = {"uid": 5, "gid": 6, "additionalGids": [7, 8]}
    found = status(runtime, bundle)
    assert found["Uid"].split() == ["5"] * 4
    assert found["Gid"].split() == ["6"] * 4
    assert sorted(found["Groups"].split()) == ["7", "8"]


@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_an_id_that_is_none(runtime: Runtime, bundle: Bundle, kind: str) -> None:
    """2**32 - 1 is no user: to the kernel it means to stay who one is, root."""
    bundle.part("process", "user")[kind] = 2**32 - 1
    result = runtime.run(bundle.args("id"))
    assert result.code == 1, result.out
    assert "unable to setup user" in result.err or runtime.name == "runc"
    bundle.part("process", "user")[kind] = 0
    name = runtime.detached(bundle.args("sleep", "1000"))
    words = "4294967295" if kind == "uid" else "1:4294967295"
    result = runtime("exec", "-u", words, name, "id")
    assert result.code == 255, result.out


def test_no_supplementary_group_is_inherited(runtime: Runtime, bundle: Bundle) -> None:
    assert status(runtime, bundle)["Groups"] == ""


def test_umask(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.ok(bundle.sh("umask")).strip() == "0022"
    bundle.part("process", "user")["umask"] = 0o77
    assert runtime.ok(bundle.sh("umask")).strip() == "0077"


def test_working_directory(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["cwd"] = "/var"
    assert runtime.ok(bundle.args("pwd")).strip() == "/var"


def test_a_missing_working_directory_is_made(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["cwd"] = "/made/here"
    assert runtime.ok(bundle.args("pwd")).strip() == "/made/here"


def test_capabilities_are_exactly_the_spec_s(runtime: Runtime, bundle: Bundle) -> None:
    found = status(runtime, bundle)
    wanted = f"{1 << 5 | 1 << 0 | 1 << 7:016x}"
    assert found["CapBnd"] == found["CapPrm"] == found["CapEff"] == wanted
    assert found["CapInh"] == found["CapAmb"] == f"{0:016x}"


def test_a_plain_user_has_no_effective_capability(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["user"] = {"uid": 1000, "gid": 1000}
    bundle.part("process")["capabilities"] = {"bounding": ["CAP_KILL"]}
    found = status(runtime, bundle)
    assert found["CapEff"] == found["CapPrm"] == f"{0:016x}"
    assert found["CapBnd"] == f"{1 << 5:016x}"


def test_ambient_capabilities_reach_a_plain_user(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["user"] = {"uid": 1000, "gid": 1000}
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    bundle.part("process")["capabilities"] = {kind: ["CAP_NET_BIND_SERVICE"] for kind in kinds}
    found = status(runtime, bundle)
    assert found["CapAmb"] == found["CapEff"] == f"{1 << 10:016x}"


def test_no_new_privileges(runtime: Runtime, bundle: Bundle) -> None:
    assert status(runtime, bundle)["NoNewPrivs"] == "1"
    bundle.part("process")["noNewPrivileges"] = False
    assert status(runtime, bundle)["NoNewPrivs"] == "0"


def test_rlimits(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456},
        {"type": "RLIMIT_CORE", "soft": 2**64 - 1, "hard": 2**64 - 1},
    ]
    text = runtime.ok(bundle.sh("cat /proc/self/limits"))
    rows = {line[:26].strip(): line[26:].split() for line in text.splitlines()}
    assert rows["Max open files"][:2] == ["123", "456"]
    assert rows["Max core file size"][:2] == ["unlimited", "unlimited"]


def test_unknown_rlimit_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["rlimits"] = [{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}]
    result = runtime.run(bundle)
    assert result.code == 1
    assert "RLIMIT_FOO" in result.err


def test_oom_score(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["oomScoreAdj"] = 123
    assert runtime.ok(bundle.args("cat", "/proc/self/oom_score_adj")).strip() == "123"


def test_no_fd_but_stdio(runtime: Runtime, bundle: Bundle) -> None:
    # ls itself opens the folder it lists.
    assert runtime.ok(bundle.sh("ls /proc/self/fd")).split() == ["0", "1", "2", "3"]


def test_signals_are_as_a_new_process_has_them(runtime: Runtime, bundle: Bundle) -> None:
    found = status(runtime, bundle)
    assert int(found["SigBlk"], 16) == 0
    # What the caller of the runtime ignores is its own affair: SIGPIPE must not be among it.
    assert not int(found["SigIgn"], 16) & 1 << 12


def test_stdio_belongs_to_the_user(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("process")["user"] = {"uid": 1000, "gid": 1000}
    assert runtime.ok(bundle.sh("echo again > /dev/stdout")) == "again\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nonesuch"], 'exec: "nonesuch": executable file not found in $PATH'),
        (["/bin/nonesuch"], 'exec: "/bin/nonesuch": stat /bin/nonesuch: no such file or directory'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_what_cannot_be_executed(
    runtime: Runtime, bundle: Bundle, words: list[str], text: str
) -> None:
    result = runtime.run(bundle.args(*words))
    assert result.code == 1
    assert text in result.err.replace('\\"', '"')
    assert "runc run failed: unable to start container process: " in result.err


def test_a_folder_cannot_be_executed(runtime: Runtime, bundle: Bundle) -> None:
    result = runtime.run(bundle.args("/etc"))
    assert result.code == 1
    assert "is a directory" in result.err or "permission denied" in result.err


def test_a_file_of_another_format(runtime: Runtime, bundle: Bundle) -> None:
    script = bundle.rootfs / "bin/odd"
    script.write_bytes(b"\x00\x01\x02")
    script.chmod(0o755)
    result = runtime.run(bundle.args("odd"))
    assert "exec format error" in result.err


def test_a_script_runs(runtime: Runtime, bundle: Bundle) -> None:
    script = bundle.rootfs / "bin/script"
    script.write_text("#!/bin/sh\necho script $1\n")
    script.chmod(0o755)
    assert runtime.ok(bundle.args("script", "x")) == "script x\n"


def test_personality(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 has no personality")
    bundle.part("linux")["personality"] = {"domain": "LINUX32"}
    assert runtime.ok(bundle.args("cat", "/proc/self/personality")).strip() == "00000008"


def test_scheduler_and_io_priority(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 has neither")
    bundle.part("process")["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    bundle.part("process")["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    text = runtime.ok(bundle.sh("cat /proc/self/stat"))
    fields = text[text.rindex(")") + 2 :].split()
    assert fields[38] == "3"  # SCHED_BATCH
    assert fields[16] == "7"
