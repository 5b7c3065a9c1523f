"""Bind mounts, volumes, tmpfs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import image
from tests.support.cli import Cli


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "file").write_text("from the host\n")
    return folder


@pytest.fixture
def volume(cli: Cli) -> Iterator[str]:
    yield "gt-volume"
    for entry in cli("ps", "-aq").ok().split():
        cli("rm", "-f", entry).ok()
    cli("volume", "rm", "-f", "gt-volume").ok()


class TestBind:
    def test_read_and_write(self, each_cli: Cli, shared: Path) -> None:
        program = "cat /data/file; echo back > /data/new"
        words = ("-v", f"{shared}:/data")
        assert each_cli("run", "--rm", *words, "busybox", "sh", "-c", program).ok() == (
            "from the host"
        )
        assert (shared / "new").read_text() == "back\n"

    def test_read_only(self, each_cli: Cli, shared: Path) -> None:
        words = ("-v", f"{shared}:/data:ro")
        done = each_cli("run", "--rm", *words, "busybox", "touch", "/data/x")
        done.failed(1, "Read-only file system")

    def test_source_is_made(self, cli: Cli, tmp_path: Path) -> None:
        cli("run", "--rm", "-v", f"{tmp_path}/new/folder:/d", "busybox", "true").ok()
        assert (tmp_path / "new/folder").is_dir()

    def test_source_missing_for_mount(self, cli: Cli, tmp_path: Path) -> None:
        words = ("--mount", f"type=bind,source={tmp_path}/none,target=/d")
        done = cli("create", *words, "busybox")
        done.failed(1, f"bind source path does not exist: {tmp_path}/none")

    def test_mount_flag(self, cli: Cli, shared: Path) -> None:
        words = ("--mount", f"type=bind,source={shared},target=/d,readonly")
        assert cli("run", "--rm", *words, "busybox", "cat", "/d/file").ok() == "from the host"
        assert cli("run", "--rm", *words, "busybox", "touch", "/d/x").code == 1

    def test_file(self, cli: Cli, shared: Path) -> None:
        words = ("-v", f"{shared}/file:/etc/made/for/it")
        assert cli("run", "--rm", *words, "busybox", "cat", "/etc/made/for/it").ok() == (
            "from the host"
        )

    def test_nested(self, cli: Cli, shared: Path, tmp_path: Path) -> None:
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner/f").write_text("inner")
        words = ("-v", f"{tmp_path}/inner:/a/b", "-v", f"{shared}:/a")
        (shared / "b").mkdir()
        assert cli("run", "--rm", *words, "busybox", "cat", "/a/b/f").ok() == "inner"

    def test_target_through_a_link_stays_inside(self, cli: Cli, shared: Path) -> None:
        # /bin/sh is a link to busybox; a link to an absolute path is resolved in the root.
        created = cli("create", "-v", f"{shared}:/lnk/x", "busybox", "ls", "/lnk/x").ok()
        assert cli("start", "-a", created).ok() == "file"

    def test_bad_specs(self, cli: Cli, shared: Path) -> None:
        cli("create", "-v", f"{shared}:relative", "busybox").failed(
            1, "invalid mount path: 'relative' mount path must be absolute|must be absolute"
        )
        cli("create", "-v", f"{shared}:/d:nope", "busybox").failed(1, "invalid mode: nope|nope")
        cli("create", "-v", f"{shared}:/", "busybox").failed(1, "destination can't be '/'")

    def test_shown_by_inspect(self, cli: Cli, shared: Path) -> None:
        created = cli("create", "-v", f"{shared}:/data:ro", "busybox").ok()
        template = "{{range .Mounts}}{{.Type}} {{.Source}} {{.Destination}} {{.RW}}{{end}}"
        assert cli.field(created, template) == f"bind {shared} /data false"


class TestVolumes:
    def test_named(self, each_cli: Cli, volume: str) -> None:
        words = ("-v", f"{volume}:/data")
        each_cli("run", "--rm", *words, "busybox", "sh", "-c", "echo kept > /data/f").ok()
        assert each_cli("run", "--rm", *words, "busybox", "cat", "/data/f").ok() == "kept"
        assert volume in each_cli("volume", "ls", "-q").ok().split()
        point = each_cli("volume", "inspect", "-f", "{{.Mountpoint}}", volume).ok()
        assert (Path(point) / "f").read_text() == "kept\n"

    def test_filled_from_the_image(self, cli: Cli, volume: str) -> None:
        out = cli("run", "--rm", "-v", f"{volume}:/www", "busybox", "ls", "/www").ok()
        assert out == "index.html"
        out = cli("run", "--rm", "-v", f"{volume}:/etc", "busybox", "ls", "/etc/index.html").ok()
        assert out == "/etc/index.html"

    def test_nocopy(self, cli: Cli, volume: str) -> None:
        assert cli("run", "--rm", "-v", f"{volume}:/www:nocopy", "busybox", "ls", "/www").ok() == ""

    def test_anonymous_goes_with_rm(self, cli: Cli) -> None:
        before = set(cli("volume", "ls", "-q").ok().split())
        cli("run", "--rm", "-v", "/data", "busybox", "true").ok()
        assert set(cli("volume", "ls", "-q").ok().split()) == before

    def test_anonymous_stays_without_v(self, cli: Cli) -> None:
        created = cli("create", "-v", "/data", "busybox").ok()
        name = cli.field(created, "{{(index .Mounts 0).Name}}")
        cli("rm", created).ok()
        assert name in cli("volume", "ls", "-q").ok().split()
        cli("volume", "rm", name).ok()

    def test_of_the_image(self, cli: Cli) -> None:
        changes = ("-c", "VOLUME /var/lib/thing", "-c", 'CMD ["sh"]')
        cli("import", *changes, "-", "with-volume", stdin=image.rootfs()).ok()
        created = cli("create", "with-volume").ok()
        template = "{{range .Mounts}}{{.Type}} {{.Destination}} {{.Driver}}{{end}}"
        assert cli.field(created, template) == "volume /var/lib/thing local"
        cli("rm", "-v", created).ok()
        cli("rmi", "with-volume").ok()

    def test_in_use(self, cli: Cli, volume: str) -> None:
        created = cli("create", "-v", f"{volume}:/d", "busybox").ok()
        done = cli("volume", "rm", volume)
        done.failed(1, rf"remove {volume}: volume is in use - \[{created}\]")

    def test_volumes_from(self, cli: Cli, volume: str) -> None:
        cli("create", "--name", "source", "-v", f"{volume}:/d", "busybox").ok()
        words = ("--volumes-from", "source:ro")
        cli("run", "--rm", *words, "busybox", "touch", "/d/x").failed(1, "Read-only file system")
        cli("run", "--rm", "--volumes-from", "source", "busybox", "touch", "/d/x").ok()

    def test_create_and_remove(self, cli: Cli, volume: str) -> None:
        assert cli("volume", "create", "--label", "a=1", volume).ok() == volume
        assert cli("volume", "inspect", "-f", "{{.Labels.a}}", volume).ok() == "1"
        assert cli("volume", "rm", volume).ok() == volume
        cli("volume", "inspect", volume).failed(
            1, f"[Nn]o such volume: {volume}|get {volume}: no such volume"
        )


class TestTmpfs:
    def test_options(self, each_cli: Cli) -> None:
        words = ("--tmpfs", "/scratch:size=1m,mode=700")
        program = "df -k /scratch | tail -1; stat -c %a /scratch; touch /scratch/x"
        out = each_cli("run", "--rm", *words, "busybox", "sh", "-c", program).ok().splitlines()
        assert out[0].split()[1] == "1024"
        assert out[1] == "700"

    def test_defaults(self, cli: Cli) -> None:
        program = "grep ' /scratch ' /proc/self/mountinfo"
        out = cli("run", "--rm", "--tmpfs", "/scratch", "busybox", "sh", "-c", program).ok()
        assert {"nosuid", "nodev", "noexec"} <= set(out.split()[5].split(","))

    def test_mount_flag(self, cli: Cli) -> None:
        words = ("--mount", "type=tmpfs,target=/t,tmpfs-size=2097152")
        out = cli("run", "--rm", *words, "busybox", "df", "-k", "/t").ok()
        assert out.split()[-5] == "2048"

    def test_with_read_only_root(self, cli: Cli) -> None:
        words = ("--read-only", "--tmpfs", "/tmp")
        cli("run", "--rm", *words, "busybox", "touch", "/tmp/x").ok()


def test_a_volume_of_a_device_that_is_not_there(cli: Cli) -> None:
    options = ("-o", "type=none", "-o", "o=bind", "-o", "device=/not/there")
    cli("volume", "create", *options, "nodevice").ok()
    try:
        cli("run", "--rm", "-v", "nodevice:/x", "busybox", "true").failed(
            127, r"failed to mount local volume: mount /not/there:\S+/_data, flags: 0x1000: no such"
        )
    finally:
        cli("volume", "rm", "nodevice").ok()
