"""What the engine does by itself: restart policies, health checks."""

from __future__ import annotations

from tests.support.cli import Cli
from tests.support.wait import eventually


class TestRestartPolicy:
    def test_on_failure_gives_up(self, each_cli: Cli) -> None:
        words = ("--restart", "on-failure:2")
        created = each_cli("run", "-d", *words, "busybox", "sh", "-c", "echo run; exit 1").ok()
        template = "{{.State.Status}} {{.RestartCount}}"
        eventually(lambda: each_cli.field(created, template) == "exited 2")
        assert each_cli("logs", created).ok() == "run\nrun\nrun"

    def test_on_failure_is_content_with_success(self, cli: Cli) -> None:
        created = cli("run", "-d", "--restart", "on-failure", "busybox", "true").ok()
        cli("wait", created).ok()
        template = "{{.State.Status}} {{.RestartCount}}"
        assert cli.field(created, template) == "exited 0"

    def test_always(self, cli: Cli) -> None:
        created = cli("run", "-d", "--restart", "always", "busybox", "true").ok()
        eventually(lambda: int(cli.field(created, "{{.RestartCount}}")) >= 2)
        cli("stop", created).ok()
        assert cli.field(created, "{{.State.Running}} {{.State.Restarting}}") == "false false"

    def test_stopped_by_hand_stays_stopped(self, cli: Cli) -> None:
        program = "trap 'exit 1' TERM; while :; do sleep 0.05; done"
        words = ("--restart", "always")
        created = cli("run", "-d", *words, "busybox", "sh", "-c", program).ok()
        cli("stop", created).ok()
        assert cli.field(created, "{{.State.Status}} {{.RestartCount}}") == "exited 0"

    def test_bad_policies(self, cli: Cli) -> None:
        cli("create", "--restart", "nope", "busybox").refused(
            "invalid restart policy '?nope|unknown policy 'nope'"
        )
        cli("create", "--restart", "always:3", "busybox").refused(
            "maximum (restart|retry) count (cannot|can only) be used"
        )
        cli("create", "--rm", "--restart", "always", "busybox").refused(
            "[Cc]onflicting options: (cannot specify both )?--restart and --rm|AutoRemove"
        )


class TestHealth:
    def test_becomes_healthy_and_unhealthy(self, each_cli: Cli) -> None:
        words = ("--health-cmd", "test ! -e /ill", "--health-interval", "100ms")
        more = ("--health-retries", "2", "--health-timeout", "5s")
        created = each_cli("run", "-d", *words, *more, "busybox", "sleep", "600").ok()
        template = "{{.State.Health.Status}}"
        assert each_cli.field(created, template) in ("starting", "healthy")
        eventually(lambda: each_cli.field(created, template) == "healthy")
        assert "(healthy)" in each_cli("ps", "--format", "{{.Status}}").ok()
        assert each_cli("ps", "-q", "--no-trunc", "-f", "health=healthy").ok() == created
        each_cli("exec", created, "touch", "/ill").ok()
        eventually(lambda: each_cli.field(created, template) == "unhealthy")
        log = "{{range .State.Health.Log}}{{.ExitCode}} {{end}}"
        assert "1" in each_cli.field(created, log).split()

    def test_output_is_kept(self, cli: Cli) -> None:
        words = ("--health-cmd", "echo some words; exit 3", "--health-interval", "100ms")
        created = cli("run", "-d", *words, "busybox", "sleep", "600").ok()
        template = '{{range .State.Health.Log}}{{.ExitCode}}{{printf "%q" .Output}} {{end}}'
        eventually(lambda: '3"some words\\n"' in cli.field(created, template))

    def test_none(self, cli: Cli) -> None:
        created = cli("run", "-d", "--no-healthcheck", "busybox", "sleep", "600").ok()
        assert cli.field(created, "{{json .State.Health}}") in ("null", "")
