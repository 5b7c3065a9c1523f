"""create, start, stop, kill, restart, wait, pause, rm, rename, ps, top, events, attach, exec."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from tests.support.cli import Cli
from tests.support.wait import eventually


def sleeping(cli: Cli, *words: str) -> str:
    return cli("run", "-d", *words, "busybox", "sleep", "600").ok()


def trapping(cli: Cli, signals: str, *words: str) -> str:
    program = f"trap 'echo got; exit 3' {signals}; echo ready; while :; do sleep 0.05; done"
    created = cli("run", "-d", *words, "busybox", "sh", "-c", program).ok()
    eventually(lambda: "ready" in cli("logs", created).out)
    return created


def now() -> str:
    """Return the time as `--until` takes it; a duration of 0s loses the running second."""
    return f"{time.time():.6f}"


def state(cli: Cli, name: str) -> str:
    return cli.field(name, "{{.State.Status}} {{.State.ExitCode}}")


class TestStart:
    def test_create_then_start(self, each_cli: Cli) -> None:
        created = each_cli(
            "create", "--name", "made", "busybox", "sh", "-c", "echo hi; exit 4"
        ).ok()
        assert state(each_cli, "made") == "created 0"
        assert each_cli("start", "made").ok() == "made"
        assert each_cli("wait", created).ok() == "4"
        assert state(each_cli, "made") == "exited 4"
        assert each_cli("logs", "made").ok() == "hi"

    def test_start_attached(self, each_cli: Cli) -> None:
        created = each_cli("create", "-i", "busybox", "sh", "-c", "cat; exit 5").ok()
        done = each_cli("start", "-ai", created, stdin=b"through")
        assert (done.code, done.out) == (5, "through")

    def test_start_again_keeps_files_and_logs(self, cli: Cli) -> None:
        program = "[ -e /f ] && cat /f; echo kept > /f; echo ran"
        created = cli("run", "-d", "busybox", "sh", "-c", program).ok()
        cli("wait", created).ok()
        assert cli("start", "-a", created).ok() == "kept\nran"
        assert cli("logs", created).ok() == "ran\nkept\nran"

    def test_start_twice_is_fine(self, cli: Cli) -> None:
        created = sleeping(cli)
        assert cli("start", created).ok() == created

    def test_start_failing_leaves_it_created(self, cli: Cli) -> None:
        created = cli("create", "busybox", "/no/such").ok()
        cli("start", created).failed(1, "no such file or directory")
        assert state(cli, created) == "created 127"
        cli("rm", created).ok()

    def test_start_missing(self, cli: Cli) -> None:
        cli("start", "nope").failed(1, "No such container: nope")

    def test_by_prefix_and_ambiguity(self, cli: Cli) -> None:
        created = cli("create", "busybox").ok()
        assert cli.field(created[:6], "{{.Id}}") == created

    def test_dates(self, cli: Cli) -> None:
        created = cli("create", "busybox", "true").ok()
        zero = "0001-01-01T00:00:00Z"
        template = "{{.State.StartedAt}} {{.State.FinishedAt}}"
        assert cli.field(created, template) == f"{zero} {zero}"
        cli("start", "-a", created).ok()
        started, ended = cli.field(created, template).split()
        assert zero < started < ended


class TestStop:
    def test_stop_sends_term(self, each_cli: Cli) -> None:
        created = trapping(each_cli, "TERM")
        assert each_cli("stop", created).ok() == created
        assert state(each_cli, created) == "exited 3"
        assert each_cli("logs", created).ok() == "ready\ngot"

    def test_stop_kills_after_the_timeout(self, cli: Cli) -> None:
        created = cli("run", "-d", "busybox", "sh", "-c", "trap '' TERM; sleep 600").ok()
        cli("stop", "-t", "1", created).ok()
        assert state(cli, created) == "exited 137"

    def test_stop_at_once(self, cli: Cli) -> None:
        created = sleeping(cli)  # pid 1 with no handler: TERM does nothing
        cli("stop", "-t", "0", created).ok()
        assert state(cli, created) == "exited 137"

    def test_stop_signal(self, cli: Cli) -> None:
        created = trapping(cli, "USR2", "--stop-signal", "USR2")
        cli("stop", created).ok()
        assert state(cli, created) == "exited 3"

    def test_stop_stopped_is_fine(self, cli: Cli) -> None:
        created = cli("create", "busybox", "true").ok()
        cli("start", "-a", created).ok()
        assert cli("stop", created).ok() == created

    def test_stop_several(self, cli: Cli) -> None:
        both = [sleeping(cli), sleeping(cli)]
        assert cli("stop", "-t", "0", *both).ok().splitlines() == both


class TestKill:
    @pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "10"])
    def test_signal_names(self, cli: Cli, name: str) -> None:
        created = trapping(cli, "USR1")
        cli("kill", "-s", name, created).ok()
        assert cli("wait", created).ok() == "3"

    def test_kill(self, each_cli: Cli) -> None:
        created = sleeping(each_cli)
        assert each_cli("kill", created).ok() == created
        eventually(lambda: state(each_cli, created) == "exited 137")

    def test_kill_stopped(self, cli: Cli) -> None:
        created = cli("create", "busybox", "true").ok()
        cli("kill", created).failed(1, rf"[Cc]ontainer {created} is not running")

    def test_bad_signal(self, cli: Cli) -> None:
        created = sleeping(cli)
        cli("kill", "-s", "NOPE", created).failed(1, "[Ii]nvalid signal: NOPE")


class TestRestart:
    def test_restart(self, each_cli: Cli) -> None:
        created = trapping(each_cli, "TERM")
        first = each_cli.field(created, "{{.State.Pid}}")
        assert each_cli("restart", created).ok() == created
        assert each_cli.field(created, "{{.State.Running}}") == "true"
        assert each_cli.field(created, "{{.State.Pid}}") != first
        assert each_cli.field(created, "{{.RestartCount}}") == "0"

    def test_restart_starts_a_stopped_one(self, cli: Cli) -> None:
        created = cli("create", "busybox", "sleep", "600").ok()
        cli("restart", "-t", "0", created).ok()
        assert cli.field(created, "{{.State.Running}}") == "true"


class TestWait:
    def test_several(self, each_cli: Cli) -> None:
        one = each_cli("run", "-d", "busybox", "sh", "-c", "exit 1").ok()
        two = each_cli("run", "-d", "busybox", "sh", "-c", "exit 2").ok()
        assert each_cli("wait", one, two).ok() == "1\n2"

    def test_blocks_until_the_end(self, cli: Cli) -> None:
        created = trapping(cli, "TERM")
        with cli.start("wait", created) as process:
            assert process.poll() is None
            cli("stop", created).ok()
            assert process.wait(10) == 0
            assert process.stdout is not None
            assert process.stdout.read() == b"3\n"

    def test_missing(self, cli: Cli) -> None:
        cli("wait", "nope").failed(1, "No such container: nope")


class TestPause:
    def test_pause_and_unpause(self, each_cli: Cli) -> None:
        created = sleeping(each_cli)
        each_cli("pause", created).ok()
        assert state(each_cli, created) == "paused 0"
        each_cli("exec", created, "true").failed(1, f"Container {created} is paused|is paused")
        each_cli("pause", created).failed(1, "is already paused")
        each_cli("unpause", created).ok()
        assert state(each_cli, created) == "running 0"
        each_cli("unpause", created).failed(1, "is not paused")

    def test_stop_of_a_paused_one(self, cli: Cli) -> None:
        created = sleeping(cli)
        cli("pause", created).ok()
        cli("rm", "-f", created).ok()


class TestRemove:
    def test_running_needs_force(self, each_cli: Cli) -> None:
        created = sleeping(each_cli)
        text = r"You cannot remove a running container|container is running: stop the container"
        each_cli("rm", created).failed(1, text)
        assert each_cli("rm", "-f", created).ok() == created
        assert each_cli("ps", "-aq").ok() == ""

    def test_missing(self, cli: Cli) -> None:
        cli("rm", "nope").failed(1, "No such container: nope")

    def test_several(self, cli: Cli) -> None:
        names = [cli("create", "busybox").ok() for _ in range(3)]
        assert sorted(cli("rm", *names).ok().splitlines()) == sorted(names)

    def test_prune(self, cli: Cli) -> None:
        stopped = cli("create", "busybox").ok()
        running = sleeping(cli)
        out = cli("container", "prune", "-f").ok()
        assert stopped in out
        assert running not in out
        assert cli("ps", "-aq", "--no-trunc").ok() == running


class TestRename:
    def test_rename(self, each_cli: Cli) -> None:
        created = sleeping(each_cli, "--name", "before")
        each_cli("rename", "before", "after").ok()
        assert each_cli.field("after", "{{.Id}} {{.Name}}") == f"{created} /after"
        each_cli("inspect", "--type", "container", "before").failed(1, "No such container")
        each_cli("create", "--name", "before", "busybox").ok()

    def test_conflict(self, cli: Cli) -> None:
        cli("create", "--name", "one", "busybox").ok()
        cli("create", "--name", "two", "busybox").ok()
        done = cli("rename", "one", "two")
        done.failed(1, 'The container name "/two" is already in use')
        cli("rename", "one", "one").failed(1, "Renaming a container with the same name")
        cli("rename", "one", "b@d").failed(1, "Invalid container name")


class TestPs:
    def test_columns(self, each_cli: Cli) -> None:
        sleeping(each_cli, "--name", "shown", "-p", "18080:80")
        out = each_cli("ps").ok().splitlines()
        heads = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
        assert re.split(r"\s{2,}", out[0].strip()) == heads
        row = out[1]
        assert '"sleep 600"' in row
        assert re.search(r"Up (Less than a second|\d+ seconds?)", row)
        assert "0.0.0.0:18080->80/tcp" in row
        assert row.rstrip().endswith("shown")

    def test_filters(self, each_cli: Cli) -> None:
        running = sleeping(each_cli, "--name", "up", "-l", "tier=web", "-p", "18081:81")
        ended = each_cli("run", "-d", "--name", "down", "busybox", "sh", "-c", "exit 3").ok()
        each_cli("wait", ended).ok()
        fresh = each_cli("create", "--name", "fresh", "-l", "tier=db", "busybox").ok()
        expected = {
            "status=running": {running},
            "status=exited": {ended},
            "status=created": {fresh},
            "exited=3": {ended},
            "exited=0": set(),
            "name=up": {running},
            "name=^/?(up|down)$": {running, ended},
            f"id={ended[:12]}": {ended},
            "label=tier": {running, fresh},
            "label=tier=db": {fresh},
            "ancestor=busybox": {running, ended, fresh},
            f"before={ended}": {running},
            f"since={ended}": {fresh},
            "publish=18081": {running},
            "expose=81/tcp": {running},
            "network=bridge": {running, ended, fresh},
            "is-task=false": {running, ended, fresh},
            "volume=/none": set(),
        }
        for condition, wanted in expected.items():
            got = each_cli("ps", "-aq", "--no-trunc", "-f", condition).ok().split()
            assert set(got) == wanted, condition

    def test_filters_of_one_kind_are_alternatives(self, cli: Cli) -> None:
        one, two = sleeping(cli, "--name", "n1"), sleeping(cli, "--name", "n2")
        got = cli("ps", "-q", "--no-trunc", "-f", "name=n1", "-f", "name=n2").ok().split()
        assert set(got) == {one, two}

    def test_bad_filter(self, cli: Cli) -> None:
        cli("ps", "-f", "nope=1").failed(1, "[Ii]nvalid filter '?nope")
        cli("ps", "-f", "status=nope").failed(1, "[Ii]nvalid filter")

    def test_last(self, cli: Cli) -> None:
        made = [cli("create", "busybox").ok() for _ in range(3)]
        assert cli("ps", "-lq", "--no-trunc").ok() == made[-1]
        assert cli("ps", "-q", "--no-trunc", "-n", "2").ok().split() == made[:0:-1]

    def test_only_running_without_a(self, cli: Cli) -> None:
        cli("create", "busybox").ok()
        assert cli("ps", "-q").ok() == ""

    def test_sizes(self, cli: Cli) -> None:
        created = cli("run", "-d", "busybox", "sh", "-c", "head -c 1000000 /dev/zero > /f").ok()
        cli("wait", created).ok()
        out = cli("ps", "-as", "--format", "{{.Size}}").ok()
        assert re.match(r"(1MB|1.0\dMB) \(virtual [2-4](\.\d+)?MB\)", out), out

    def test_status_texts(self, cli: Cli) -> None:
        created = cli("create", "busybox", "sh", "-c", "exit 2").ok()
        assert cli("ps", "-a", "--format", "{{.Status}}").ok() == "Created"
        assert cli("start", "-a", created).code == 2
        out = cli("ps", "-a", "--format", "{{.Status}} {{.State}}").ok()
        assert re.fullmatch(r"Exited \(2\) (Less than a second|\d+ seconds?) ago exited", out)


class TestTop:
    def test_default_columns(self, each_cli: Cli) -> None:
        created = sleeping(each_cli)
        lines = each_cli("top", created).ok().splitlines()
        assert lines[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        assert len(lines) == 2
        assert lines[1].endswith("sleep 600")
        assert lines[1].split()[1] == each_cli.field(created, "{{.State.Pid}}")

    def test_columns_of_choice(self, cli: Cli) -> None:
        created = cli("run", "-d", "busybox", "sh", "-c", "sleep 500 & sleep 600; true").ok()
        eventually(lambda: cli("top", created).out.count("sleep") >= 3)
        lines = cli("top", created, "-o", "pid,args").ok().splitlines()
        assert lines[0].split() == ["PID", "COMMAND"]
        assert len(lines) == 4

    def test_stopped(self, cli: Cli) -> None:
        created = cli("create", "busybox").ok()
        cli("top", created).failed(1, f"[Cc]ontainer {created} is not running")


class TestEvents:
    def test_life_of_a_container(self, each_cli: Cli, engine: object) -> None:
        del engine
        with each_cli.start("events", "--format", "{{json .}}", "-f", "container=seen") as process:
            # The stream is established when the daemon's answer is: an event from the past
            # would not be shown, so make one until it is.
            assert process.stdout is not None
            each_cli("ps").ok()
            eventually(lambda: _connected(process.pid))
            each_cli("run", "--rm", "--name", "seen", "busybox", "sh", "-c", "exit 3")
            names: list[str] = []
            while not names or names[-1] != "destroy":
                event = json.loads(process.stdout.readline())
                names.append(event["Action"])
                assert event["Type"] == "container"
                assert event["Actor"]["Attributes"]["name"] == "seen"
                assert event["Actor"]["Attributes"]["image"] == "busybox"
                if event["Action"] == "die":
                    assert event["Actor"]["Attributes"]["exitCode"] == "3"
            process.terminate()
        assert names == ["create", "attach", "start", "die", "destroy"]

    def test_past(self, cli: Cli) -> None:
        created = cli("run", "-d", "--name", "past", "busybox", "true").ok()
        cli("wait", created).ok()
        words = ("--since", "1h", "--until", now(), "-f", f"container={created}")
        out = cli("events", *words, "--format", "{{.Action}}").ok().splitlines()
        assert out == ["create", "start", "die"]

    def test_filters(self, cli: Cli) -> None:
        created = sleeping(cli, "-l", "mark=1")
        cli("kill", "-s", "WINCH", created).ok()
        cli("rm", "-f", created).ok()
        window = ("--since", "1h", "--until", now(), "--format", "{{.Action}}")
        mine = (*window, "-f", f"container={created}")
        assert cli("events", *mine, "-f", "event=kill").ok().split() == ["kill", "kill"]
        both = cli("events", *mine, "-f", "event=start", "-f", "event=die").ok().split()
        assert both == ["start", "die"]
        assert cli("events", *mine, "-f", "type=image").ok() == ""
        assert "create" in cli("events", *window, "-f", "label=mark=1").ok()
        networks = cli("events", *window, "-f", "type=network", "-f", "network=bridge").ok()
        assert {"connect", "disconnect"} <= set(networks.split())

    def test_kill_has_the_signal(self, cli: Cli) -> None:
        created = sleeping(cli)
        cli("kill", "-s", "USR1", created).ok()
        words = (
            "--since",
            "1h",
            "--until",
            now(),
            "-f",
            f"container={created}",
            "-f",
            "event=kill",
        )
        out = cli("events", *words, "--format", "{{.Actor.Attributes.signal}}").ok()
        assert out == "10"


def _connected(pid: int) -> bool:
    from pathlib import Path

    return len(list(Path(f"/proc/{pid}/fd").glob("*"))) > 5


class TestAttach:
    def test_input_and_output(self, each_cli: Cli) -> None:
        created = each_cli("run", "-d", "-i", "busybox", "cat").ok()
        with each_cli.start("attach", created) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"to the container\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"to the container\n"
            each_cli("kill", created).ok()
            assert process.wait(20) == 137

    def test_input_ends_with_the_first_attached(self, cli: Cli) -> None:
        created = cli("create", "-i", "busybox", "sh", "-c", "cat; echo end").ok()
        assert cli("start", "-ai", created, stdin=b"once\n").ok() == "once\nend"
        assert cli.field(created, "{{.Config.OpenStdin}} {{.Config.StdinOnce}}") == "true true"

    def test_exit_code(self, cli: Cli) -> None:
        created = trapping(cli, "TERM")
        with cli.start("attach", "--no-stdin", created) as process:
            eventually(lambda: _connected(process.pid))
            assert process.stdout is not None
            cli("stop", created).ok()
            assert process.stdout.read() in (b"got\n", b"")
            assert process.wait(10) == 3

    def test_signal_proxy(self, cli: Cli) -> None:
        created = trapping(cli, "USR1")
        with cli.start("attach", "--no-stdin", created) as process:
            eventually(lambda: _connected(process.pid))

            def ended() -> bool:
                if process.poll() is None:
                    process.send_signal(10)
                return process.poll() is not None

            eventually(ended, interval=0.2)
            assert state(cli, created) == "exited 3"

    def test_stopped(self, cli: Cli) -> None:
        created = cli("create", "busybox").ok()
        cli("attach", created).failed(1, "You cannot attach to a stopped container")

    def test_two_at_a_time(self, cli: Cli) -> None:
        created = cli("run", "-d", "-i", "busybox", "cat").ok()
        with cli.start("attach", created) as one, cli.start("attach", created) as two:
            assert one.stdin and one.stdout and two.stdout
            writer, reader = one.stdin, two.stdout
            os.set_blocking(reader.fileno(), False)

            def heard() -> bool:
                # Again each time: nobody tells from outside when the second is attached.
                writer.write(b"shared\n")
                writer.flush()
                return (reader.readline() or b"") == b"shared\n"

            eventually(heard, interval=0.1)
            assert one.stdout.readline() == b"shared\n"
            cli("kill", created).ok()


class TestExec:
    def test_output_and_code(self, each_cli: Cli) -> None:
        created = sleeping(each_cli)
        done = each_cli("exec", created, "sh", "-c", "echo out; echo err >&2; exit 6")
        assert (done.code, done.out, done.err) == (6, "out\n", "err\n")

    def test_stdin(self, each_cli: Cli) -> None:
        created = sleeping(each_cli)
        data = b"x" * 1_000_000
        assert each_cli("exec", "-i", created, "wc", "-c", stdin=data).ok() == "1000000"

    def test_detached(self, each_cli: Cli) -> None:
        created = sleeping(each_cli)
        assert each_cli("exec", "-d", created, "touch", "/made").ok() == ""
        eventually(lambda: each_cli("exec", created, "ls", "/made").code == 0)

    def test_user_directory_environment(self, each_cli: Cli) -> None:
        created = sleeping(each_cli, "-e", "A=1", "-e", "B=2")
        words = ("-u", "user", "-w", "/www", "-e", "B=3", "-e", "C=4")
        out = each_cli("exec", *words, created, "sh", "-c", "id -un; pwd; echo $A$B$C $HOME").ok()
        assert out == "user\n/www\n134 /home/user"

    def test_inherits_the_container_s(self, cli: Cli) -> None:
        created = sleeping(cli, "-u", "user", "-w", "/www")
        assert cli("exec", created, "sh", "-c", "id -u; pwd").ok() == "1000\n/www"

    def test_privileged(self, cli: Cli, is_gantry: bool) -> None:
        if not is_gantry:
            pytest.skip("Debian's dockerd fails where the machine lacks a capability")
        created = sleeping(cli)
        caps = ("grep", "CapEff", "/proc/self/status")
        plain = cli("exec", created, *caps).ok()
        everything = cli("exec", "--privileged", created, *caps).ok()
        assert plain.split()[1] == "00000000a80425fb"
        assert everything > plain
        assert int(everything.split()[1], 16) & (1 << 21)

    def test_failures(self, each_cli: Cli, is_gantry: bool) -> None:
        created = sleeping(each_cli)
        done = each_cli("exec", created, "no-such")
        assert done.code == (127 if is_gantry else 126)  # 127 since version 23
        assert "executable file not found in $PATH" in done.out + done.err
        done = each_cli("exec", created, "/etc/passwd")
        assert done.code == 126
        assert "permission denied" in done.out + done.err
        each_cli("exec", "nope", "true").failed(1, "No such container: nope")

    def test_not_running(self, cli: Cli) -> None:
        created = cli("create", "busybox").ok()
        cli("exec", created, "true").failed(1, f"[Cc]ontainer {created} is not running")

    def test_sees_the_container_s_processes(self, cli: Cli) -> None:
        created = sleeping(cli)
        out = cli("exec", created, "ps", "-o", "pid,args").ok()
        assert re.search(r"^\s+1 sleep 600$", out, re.M)

    def test_ends_with_the_container(self, cli: Cli) -> None:
        created = sleeping(cli)
        with cli.start("exec", created, "sleep", "600") as process:
            eventually(lambda: cli("top", created).out.count("sleep 600") == 2)
            cli("kill", created).ok()
            assert process.wait(20) == 137

    def test_restricted_as_the_container(self, cli: Cli) -> None:
        created = sleeping(cli, "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
        out = cli(
            "exec", created, "sh", "-c", "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/1/status"
        )
        own = cli("exec", created, "grep", "-E", "CapEff|NoNewPrivs|Seccomp:", "/proc/self/status")
        assert out.ok() == own.ok()
        assert "CapEff:\t0000000000000000" in own.out
        assert "Seccomp:\t2" in own.out


class TestVersionAndInfo:
    def test_version(self, each_cli: Cli) -> None:
        shown = json.loads(each_cli("version", "--format", "{{json .}}").ok())
        server = shown["Server"]
        assert server["Os"] == "linux"
        assert re.match(r"\d+\.\d+", server["ApiVersion"])
        assert {part["Name"] for part in server["Components"]} >= {"Engine"}
        assert "Server" in each_cli("version").ok()

    def test_info(self, each_cli: Cli) -> None:
        sleeping(each_cli)
        shown = json.loads(each_cli("info", "--format", "{{json .}}").ok())
        assert (shown["Containers"], shown["ContainersRunning"]) == (1, 1)
        assert shown["Driver"] in ("overlay2", "vfs")
        assert shown["OSType"] == "linux"
        assert shown["NCPU"] >= 1
        assert shown["CgroupVersion"] in ("1", "2")
        assert {"bridge", "host", "null"} <= set(shown["Plugins"]["Network"])
        assert "Server Version" in each_cli("info").ok()


class TestInspect:
    def test_sections(self, each_cli: Cli) -> None:
        created = sleeping(each_cli, "--name", "looked-at")
        (shown,) = json.loads(each_cli("inspect", "looked-at").ok())
        assert shown["Id"] == created
        assert shown["Path"] == "sleep"
        assert shown["Args"] == ["600"]
        assert shown["Driver"] in ("overlay2", "vfs")
        assert shown["Image"].startswith("sha256:")
        assert shown["Config"]["Image"] == "busybox"
        assert shown["HostConfig"]["NetworkMode"] in ("default", "bridge")
        assert shown["State"]["Pid"] > 0
        assert set(shown["NetworkSettings"]["Networks"]) == {"bridge"}

    def test_size(self, cli: Cli) -> None:
        created = cli("run", "-d", "busybox", "sh", "-c", "head -c 5000 /dev/zero > /f").ok()
        cli("wait", created).ok()
        template = "{{.SizeRw}} {{.SizeRootFs}}"
        own, whole = cli("inspect", "-s", "-f", template, created).ok().split()
        assert 5000 <= int(own) < 20_000
        assert int(whole) > 1_500_000

    def test_missing(self, each_cli: Cli) -> None:
        done = each_cli("inspect", "nope")
        assert done.code == 1
        assert done.out == "[]\n"
        assert "No such object: nope" in done.err

    def test_diff_and_cp(self, cli: Cli) -> None:
        created = cli(
            "run", "-d", "busybox", "sh", "-c", "echo data > /new; rm /www/index.html"
        ).ok()
        cli("wait", created).ok()
        lines = set(cli("diff", created).ok().splitlines())
        assert {"A /new", "C /www", "D /www/index.html"} <= lines

    def test_programs_know_that_they_are_in_a_container(self, cli: Cli) -> None:
        created = cli("create", "busybox", "stat", "-c", "%a %u %g %s", "/.dockerenv").ok().strip()
        assert cli("start", "-a", created).ok().strip() == "755 0 0 0"
        assert "dockerenv" not in cli("diff", created).ok()
        cli("commit", created, "marked").ok()
        again = cli("create", "marked", "true").ok().strip()  # an image's own is no hindrance
        assert "dockerenv" not in cli("diff", again).ok()
        cli("rm", created, again).ok()
        cli("rmi", "marked").ok()
