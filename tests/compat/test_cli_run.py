"""`docker run` and `docker create`: output, exit codes, and what the process gets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.support.cli import Cli
from tests.support.engine import Engine
from tests.support.terminal import Terminal
from tests.support.wait import eventually


def test_foreground_output_and_streams(each_cli: Cli) -> None:
    done = each_cli("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.code, done.out, done.err) == (0, "out\n", "err\n")


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_exit_code_is_the_process_s(cli: Cli, code: int) -> None:
    assert cli("run", "--rm", "busybox", "sh", "-c", f"exit {code}").code == code


def test_exit_code_125_when_the_engine_refuses(each_cli: Cli) -> None:
    done = each_cli("run", "--rm", "--memory", "1k", "busybox", "true")
    done.failed(125, r"Minimum memory limit allowed is \d+MB")


def test_exit_code_126_when_not_executable(each_cli: Cli) -> None:
    each_cli("run", "--rm", "busybox", "/etc/passwd").failed(126, "permission denied")


def test_exit_code_126_when_a_directory(cli: Cli) -> None:
    cli("run", "--rm", "busybox", "/etc").failed(126, "permission denied|is a directory")


def test_exit_code_127_when_not_found(each_cli: Cli) -> None:
    done = each_cli("run", "--rm", "busybox", "no-such-program")
    done.failed(127, r'exec: "no-such-program": executable file not found in \$PATH')
    assert each_cli("ps", "-aq").ok() == ""


def test_exit_code_127_for_a_missing_path(cli: Cli) -> None:
    cli("run", "--rm", "busybox", "/no/such").failed(127, "/no/such: no such file or directory")


def test_exit_code_137_when_killed(cli: Cli) -> None:
    # Nobody inside can kill the first process.
    assert cli("run", "--rm", "busybox", "sh", "-c", "kill -9 $$; exit 4").code == 4
    with cli.start("run", "--rm", "--name", "victim", "busybox", "sleep", "600") as process:
        eventually(lambda: "victim" in cli("ps", "--format", "{{.Names}}").out)
        cli("kill", "victim").ok()
        assert process.wait(20) == 137


def test_exit_code_143_when_terminated(cli: Cli) -> None:
    program = "trap 'exit 143' TERM; while :; do sleep 0.05; done"
    with cli.start("run", "--rm", "--name", "term", "busybox", "sh", "-c", program) as process:
        eventually(lambda: "term" in cli("ps", "--format", "{{.Names}}").out)
        process.terminate()  # the client passes the signal on
        assert process.wait(20) == 143


def test_unknown_image(each_cli: Cli) -> None:
    done = each_cli("create", "--pull", "never", "no-such-image")
    done.failed(1, "No such image: no-such-image:latest")


def test_stdin(each_cli: Cli) -> None:
    data = b"line\n" * 50_000
    done = each_cli("run", "--rm", "-i", "busybox", "sh", "-c", "wc -c; echo end", stdin=data)
    assert done.ok() == f"{len(data)}\nend"


def test_stdin_stays_closed_without_i(cli: Cli) -> None:
    assert cli("run", "--rm", "busybox", "cat", stdin=b"unread").ok() == ""


def test_large_output_is_whole_and_in_order(cli: Cli) -> None:
    out = cli("run", "--rm", "busybox", "seq", "1", "100000").ok()
    assert out == "\n".join(map(str, range(1, 100_001)))


def test_binary_output_goes_through_unchanged(cli: Cli) -> None:
    argv = cli.argv("run", "--rm", "-i", "busybox", "cat")
    data = bytes(range(256)) * 100
    done = subprocess.run(argv, input=data, capture_output=True, env=cli.env())
    assert done.stdout == data


def test_detached_prints_the_id(each_cli: Cli) -> None:
    out = each_cli("run", "-d", "busybox", "sleep", "600").ok()
    assert re.fullmatch("[0-9a-f]{64}", out)
    assert each_cli.field(out, "{{.State.Status}} {{.State.Running}}") == "running true"


def test_rm_removes_at_the_end(each_cli: Cli) -> None:
    each_cli("run", "--rm", "--name", "gone", "busybox", "true").ok()
    each_cli("inspect", "--type", "container", "gone").failed(1, "No such container: gone")


def test_rm_detached(cli: Cli) -> None:
    cli("run", "-d", "--rm", "--name", "gone", "busybox", "true").ok()
    eventually(lambda: cli("ps", "-aq").out == "")


def test_names(cli: Cli) -> None:
    first = cli("create", "--name", "a.b-c_d", "busybox").ok()
    done = cli("create", "--name", "a.b-c_d", "busybox")
    done.failed(1, rf'The container name "/a.b-c_d" is already in use by container "{first}"')
    cli("create", "--name", "-x", "busybox").failed(1, r"Invalid container name \(-x\)")
    cli("create", "--name", "x", "busybox").failed(1, r"Invalid container name \(x\)")


def test_made_up_name(cli: Cli) -> None:
    created = cli("create", "busybox").ok()
    assert re.fullmatch("/[a-z]+_[a-z]+[0-9]?", cli.field(created, "{{.Name}}"))


def test_environment(each_cli: Cli, tmp_path: Path) -> None:
    listed = tmp_path / "env"
    listed.write_text("# a comment\nFROM_FILE=1\n")
    words = ("-e", "A=1", "-e", "B=two words", "-e", "A=3", "--env-file", str(listed))
    out = each_cli("run", "--rm", "--hostname", "h", *words, "busybox", "env").ok()
    got = dict(line.split("=", 1) for line in out.splitlines())
    assert got == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": "h",
        "HOME": "/root",
        "A": "3",
        "B": "two words",
        "FROM_FILE": "1",
    }


def test_environment_of_a_terminal(cli: Cli) -> None:
    with Terminal(cli.argv("run", "--rm", "-t", "busybox", "env"), cli.env()) as terminal:
        assert terminal.wait() == 0
    assert b"TERM=xterm\r" in terminal.seen


def test_working_directory_is_made(cli: Cli) -> None:
    assert cli("run", "--rm", "-w", "/made/for/it", "busybox", "pwd").ok() == "/made/for/it"
    assert cli("run", "--rm", "-w", "/tmp", "busybox", "pwd").ok() == "/tmp"
    cli("run", "--rm", "-w", "relative", "busybox", "pwd").failed(
        125, "the working directory 'relative' is invalid, it needs to be an absolute path"
    )


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "uid=0(root) gid=0(root) groups=0(root)"),
        ("user", "uid=1000(user) gid=1000(user) groups=29(audio),1000(user)"),
        ("1000", "uid=1000(user) gid=1000(user) groups=29(audio),1000(user)"),
        ("1234", "uid=1234 gid=0(root) groups=0(root)"),
        ("1234:5678", "uid=1234 gid=5678 groups=5678"),
        ("user:staff", "uid=1000(user) gid=50(staff) groups=50(staff)"),
    ],
)
def test_user(cli: Cli, user: str, expected: str) -> None:
    words = ("-u", user) if user else ()
    got = cli("run", "--rm", *words, "busybox", "id").ok()
    # busybox leaves the primary group out of the list or not, as its version likes.
    assert got.split(" groups=")[0] == expected.split(" groups=")[0]
    listed = set(got.partition(" groups=")[2].split(",")) - {""}
    assert listed | {got.split()[1].removeprefix("gid=")} == set(
        expected.partition(" groups=")[2].split(",")
    )


def test_user_unknown(cli: Cli) -> None:
    done = cli("run", "--rm", "-u", "nobody-here", "busybox", "id")
    done.failed(12, "") if done.code == 12 else done.failed(
        125, "unable to find user nobody-here: no matching entries in passwd file"
    )


def test_group_add(cli: Cli) -> None:
    out = cli("run", "--rm", "--group-add", "audio", "--group-add", "777", "busybox", "id").ok()
    assert "29(audio)" in out
    assert "777" in out


def test_home_follows_the_user(cli: Cli) -> None:
    out = cli("run", "--rm", "-u", "user", "busybox", "sh", "-c", "echo $HOME").ok()
    assert out == "/home/user"


def test_entrypoint(each_cli: Cli) -> None:
    assert each_cli("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b").ok() == "a b"
    created = each_cli("create", "--entrypoint", "echo", "busybox").ok()
    assert each_cli.field(created, "{{json .Config.Entrypoint}} {{json .Config.Cmd}}") == (
        '["echo"] null'
    )


def test_no_command(engine: Engine, cli: Cli) -> None:
    cli("import", "-", "empty", stdin=_empty_tar()).ok()
    cli("create", "empty").failed(1, "[Nn]o command specified")
    cli("rmi", "empty").ok()


def _empty_tar() -> bytes:
    return bytes(10240)


def test_labels(each_cli: Cli, tmp_path: Path) -> None:
    listed = tmp_path / "labels"
    listed.write_text("from.file=yes\n")
    words = ("-l", "a=1", "--label", "flag", "--label-file", str(listed))
    created = each_cli("create", *words, "busybox").ok()
    got = each_cli.field(created, "{{json .Config.Labels}}")
    assert got == '{"a":"1","flag":"","from.file":"yes"}'


def test_hostname_and_domainname(each_cli: Cli) -> None:
    words = ("--hostname", "myhost", "--domainname", "example.org")
    out = each_cli("run", "--rm", *words, "busybox", "sh", "-c", "hostname; cat /etc/hostname").ok()
    assert out.splitlines()[0] == "myhost"
    assert out.splitlines()[1].startswith("myhost")


def test_hostname_is_the_short_id(cli: Cli) -> None:
    created = cli("run", "-d", "busybox", "hostname").ok()
    cli("wait", created).ok()
    assert cli("logs", created).ok() == created[:12]


def test_cidfile(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "cid"
    created = cli("run", "-d", "--cidfile", str(path), "busybox", "true").ok()
    assert path.read_text() == created


def test_process_tree(cli: Cli) -> None:
    out = cli("run", "--rm", "busybox", "sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'").ok()
    assert out.splitlines()[0] == "1"
    assert int(out.splitlines()[1]) <= 3


def test_init(each_cli: Cli) -> None:
    done = each_cli("run", "--rm", "--init", "busybox", "sh", "-c", "echo $$; exit 7")
    assert done.code == 7, done.err
    assert int(done.out) > 1


def test_init_reaps_and_passes_signals(cli: Cli) -> None:
    # The shell's children are orphaned by its exec; somebody has to wait for them.
    program = "for i in 1 2 3; do sh -c 'true &'; done; exec sleep 600"
    created = cli("run", "-d", "--init", "busybox", "sh", "-c", program).ok()
    eventually(lambda: "sleep" in cli("top", created, "-eo", "pid,args").out)
    assert "defunct" not in cli("top", created, "-eo", "pid,stat,args").ok()
    cli("stop", "-t", "20", created).ok()
    assert cli.field(created, "{{.State.ExitCode}}") == "143"


def test_stop_signal_and_timeout_are_kept(cli: Cli) -> None:
    words = ("--stop-signal", "SIGUSR1", "--stop-timeout", "3")
    created = cli("create", *words, "busybox").ok()
    got = cli.field(created, "{{.Config.StopSignal}} {{.Config.StopTimeout}}")
    assert got == "SIGUSR1 3"


def test_attach_chosen_streams(cli: Cli) -> None:
    done = cli("run", "--rm", "-a", "stderr", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.code, done.err) == (0, "err\n")
    assert "out\n" not in done.out


def test_client_gone_does_not_stop_the_container(cli: Cli) -> None:
    process = cli.start("run", "--name", "left", "busybox", "sleep", "600")
    eventually(lambda: "left" in cli("ps", "--format", "{{.Names}}").out)
    process.kill()
    process.communicate()
    assert cli.field("left", "{{.State.Running}}") == "true"


def test_image_config_is_used(engine: Engine, cli: Cli) -> None:
    words = ["ENV FROM_IMAGE=1", "WORKDIR /www", "USER user", 'ENTRYPOINT ["sh","-c"]']
    changes = [word for change in words for word in ("-c", change)]
    changes += ["-c", 'CMD ["pwd; id -u; echo $FROM_IMAGE"]', "-c", "LABEL kind=test"]
    from tests.support import image

    cli("import", *changes, "-", "configured", stdin=image.rootfs()).ok()
    try:
        assert cli("run", "--rm", "configured").ok() == "/www\n1000\n1"
        created = cli("create", "-l", "own=1", "configured").ok()
        assert cli.field(created, "{{json .Config.Labels}}") == '{"kind":"test","own":"1"}'
        cli("rm", created).ok()
    finally:
        cli("rmi", "-f", "configured").ok()
