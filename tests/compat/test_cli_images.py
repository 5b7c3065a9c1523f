"""import, load, save, images, tag, inspect, history, rmi."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import image
from tests.support.cli import Cli


def hello(name: str) -> list[bytes]:
    """Two layers more on top of busybox's: one adds, one takes away."""
    added, removed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=added, mode="w") as tar:
        image.add_file(tar, "hello", f"hello from {name}\n".encode())
    with tarfile.open(fileobj=removed, mode="w") as tar:
        image.add_directory(tar, "www")
        image.add_file(tar, "www/.wh.index.html", b"")
    return [image.rootfs(), added.getvalue(), removed.getvalue()]


class TestImport:
    def test_from_stdin(self, each_cli: Cli) -> None:
        done = each_cli("import", "-", "imported:v1", stdin=image.rootfs())
        assert re.fullmatch("sha256:[0-9a-f]{64}", done.ok().splitlines()[-1])
        assert each_cli("run", "--rm", "imported:v1", "echo", "x").ok() == "x"
        each_cli("rmi", "imported:v1").ok()

    def test_from_a_file(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "root.tar").write_bytes(image.rootfs())
        words = ("-m", "a message", "-c", "ENV A=1", "-c", 'CMD ["true"]')
        made = cli("import", *words, str(tmp_path / "root.tar"), "imported").ok()
        shown = json.loads(cli("inspect", made.splitlines()[-1]).ok())[0]
        assert shown["Config"]["Env"] == ["A=1"]
        assert shown["Config"]["Cmd"] == ["true"]
        assert shown["Comment"] == "a message"
        assert shown["Os"] == "linux"
        cli("rmi", "imported").ok()

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    def test_compressed(self, cli: Cli, pack: Callable[[bytes], bytes]) -> None:
        cli("import", "-", "packed", stdin=pack(image.rootfs())).ok()
        assert cli("run", "--rm", "packed", "echo", "x").ok() == "x"
        cli("rmi", "packed").ok()

    def test_same_content_has_the_same_layer(self, cli: Cli) -> None:
        made = [cli("import", "-", stdin=image.rootfs()).ok().splitlines()[-1] for _ in range(2)]
        layers = {cli.field(name, "{{json .RootFS.Layers}}") for name in made}
        assert layers == {json.dumps(["sha256:" + hashlib.sha256(image.rootfs()).hexdigest()])}
        cli("rmi", *set(made)).ok()

    def test_garbage(self, cli: Cli) -> None:
        done = cli("import", "-", "garbage", stdin=b"not a tar" * 1000)
        assert done.code == 1
        assert "garbage" not in cli("images", "--format", "{{.Repository}}").out

    def test_bad_reference(self, cli: Cli) -> None:
        cli("import", "-", "UPPER", stdin=image.rootfs()).failed(
            1, "repository name .*must be lowercase"
        )

    def test_bad_change(self, cli: Cli) -> None:
        done = cli("import", "-c", "FROM x", "-", "x", stdin=image.rootfs())
        done.failed(
            1, "(?i)from is not (a )?(valid|allowed)|not a valid change|unknown instruction"
        )


class TestLoad:
    @pytest.mark.parametrize("form", ["docker", "oci"])
    def test_layers(self, each_cli: Cli, form: str, is_gantry: bool) -> None:
        if form == "oci" and not is_gantry:
            pytest.skip("OCI layouts load since version 25")
        make = image.docker_archive if form == "docker" else image.oci_layout
        data = make("loaded:v1", hello(form), Labels={"a": "1"})
        assert "Loaded image: loaded:v1" in each_cli("load", stdin=data).ok()
        out = each_cli("run", "--rm", "loaded:v1", "sh", "-c", "cat /hello; ls /www").ok()
        assert out == f"hello from {form}"
        shown = json.loads(each_cli("inspect", "loaded:v1").ok())[0]
        assert len(shown["RootFS"]["Layers"]) == 3
        assert shown["Config"]["Labels"] == {"a": "1"}
        each_cli("rmi", "loaded:v1").ok()

    def test_from_a_file_quietly(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "i.tar").write_bytes(image.docker_archive("quiet:1"))
        assert cli("load", "-q", "-i", str(tmp_path / "i.tar")).ok() == "Loaded image: quiet:1"
        cli("rmi", "quiet:1").ok()

    def test_again(self, cli: Cli) -> None:
        data = image.docker_archive("twice:1")
        assert cli("load", stdin=data).ok() == cli("load", stdin=data).ok()
        cli("rmi", "twice:1").ok()

    def test_damaged(self, cli: Cli) -> None:
        before = cli("images", "-aq").ok()
        data = image.docker_archive("damaged:1")
        done = cli("load", stdin=data[: len(data) // 2])
        assert done.code == 1
        assert cli("images", "-aq").ok() == before

    def test_wrong_layer(self, cli: Cli) -> None:
        layers = hello("x")
        data = image.docker_archive("wrong:1", layers)
        broken = data.replace(b"hello from x", b"hello from y")
        assert cli("load", stdin=broken).code == 1
        assert "wrong" not in cli("images").out

    def test_save_and_load(self, each_cli: Cli, tmp_path: Path) -> None:
        path = str(tmp_path / "saved.tar")
        each_cli("load", stdin=image.docker_archive("saved:1", hello("s"))).ok()
        identity = each_cli.field("saved:1", "{{.Id}}")
        each_cli("save", "-o", path, "saved:1").ok()
        each_cli("rmi", "saved:1").ok()
        each_cli("load", "-i", path).ok()
        assert each_cli.field("saved:1", "{{.Id}}") == identity
        assert each_cli("run", "--rm", "saved:1", "cat", "/hello").ok() == "hello from s"
        each_cli("rmi", "saved:1").ok()


class TestNames:
    def test_images(self, each_cli: Cli) -> None:
        out = each_cli("images").ok().splitlines()
        assert re.split(r"\s{2,}", out[0].strip())[:2] == ["REPOSITORY", "TAG"]
        listed = each_cli("images", "--format", "{{.Repository}}:{{.Tag}}").ok().split()
        assert "busybox:latest" in listed
        assert each_cli("images", "-q", "busybox").ok() != ""
        assert each_cli("images", "-q", "nope").ok() == ""

    def test_tag_and_untag(self, each_cli: Cli) -> None:
        identity = each_cli.field("busybox", "{{.Id}}")
        each_cli("tag", "busybox", "example.org:5000/team/other:v2").ok()
        assert each_cli.field("example.org:5000/team/other:v2", "{{.Id}}") == identity
        out = each_cli("rmi", "example.org:5000/team/other:v2").ok()
        assert out == "Untagged: example.org:5000/team/other:v2"
        assert each_cli.field("busybox", "{{.Id}}") == identity

    def test_tag_errors(self, cli: Cli) -> None:
        cli("tag", "nope", "x").failed(1, "No such image: nope:latest")
        cli("tag", "busybox", "Not/Valid").failed(1, "invalid reference format|is not a valid")

    def test_by_short_id(self, cli: Cli) -> None:
        identity = cli.field("busybox", "{{.Id}}")
        short = identity.removeprefix("sha256:")[:12]
        assert cli("run", "--rm", short, "echo", "x").ok() == "x"
        assert cli.field(short, "{{.Id}}") == identity

    def test_filters(self, cli: Cli) -> None:
        cli("import", "-c", "LABEL mark=yes", "-", "marked", stdin=image.rootfs()).ok()
        out = cli("images", "-f", "label=mark=yes", "--format", "{{.Repository}}").ok()
        assert out == "marked"
        out = cli("images", "-f", "reference=mark*", "--format", "{{.Repository}}").ok()
        assert out == "marked"
        assert cli("images", "-f", "dangling=true", "-q").ok() == ""
        cli("images", "-f", "nope=1").failed(1, "[Ii]nvalid filter")
        cli("rmi", "marked").ok()

    def test_history(self, cli: Cli) -> None:
        cli("load", stdin=image.docker_archive("storied:1", hello("h"))).ok()
        out = cli("history", "-q", "--no-trunc", "storied:1").ok().split()
        assert len(out) == 3
        assert out[0] == cli.field("storied:1", "{{.Id}}")
        cli("rmi", "storied:1").ok()


class TestRemove:
    def test_used_by_a_container(self, each_cli: Cli) -> None:
        each_cli("import", "-c", 'CMD ["sh"]', "-", "used", stdin=image.rootfs()).ok()
        created = each_cli("create", "used").ok()
        each_cli("rmi", "used").failed(
            1,
            r"conflict: unable to remove repository reference \"used\" \(must force\) - "
            rf"container {created[:12]} is using its referenced image",
        )
        each_cli("rmi", "-f", "used").ok()
        each_cli("rm", created).ok()

    def test_used_by_a_running_container(self, cli: Cli) -> None:
        cli("import", "-", "used", stdin=image.rootfs()).ok()
        created = cli("run", "-d", "used", "sleep", "600").ok()
        identity = cli.field("used", "{{.Id}}")
        done = cli("rmi", "-f", identity)
        done.failed(
            1, rf"cannot be forced\) - image is being used by running container {created[:12]}"
        )
        cli("rm", "-f", created).ok()
        assert f"Deleted: {identity}" in cli("rmi", identity).ok()

    def test_several_names(self, cli: Cli) -> None:
        cli("import", "-", "one:1", stdin=image.rootfs()).ok()
        cli("tag", "one:1", "two:2").ok()
        identity = cli.field("one:1", "{{.Id}}").removeprefix("sha256:")
        done = cli("rmi", identity)
        done.failed(1, r"must be forced\) - image is referenced in multiple repositories")
        assert "Untagged: one:1" in cli("rmi", "one:1").ok()
        assert "Deleted: sha256:" + identity in cli("rmi", "two:2").ok()

    def test_missing(self, each_cli: Cli) -> None:
        each_cli("rmi", "nope").failed(1, "No such image: nope:latest|No such image: nope")

    def test_prune(self, cli: Cli) -> None:
        made = cli("import", "-", stdin=image.rootfs()).ok().splitlines()[-1]
        assert made.removeprefix("sha256:") in cli("image", "prune", "-f").ok()


def test_commit(cli: Cli) -> None:
    created = cli("run", "-d", "busybox", "sh", "-c", "echo inside > /made").ok()
    cli("wait", created).ok()
    words = ("-m", "why", "-a", "who", "-c", 'CMD ["cat", "/made"]')
    made = cli("commit", *words, created, "committed:1").ok()
    assert re.fullmatch("sha256:[0-9a-f]{64}", made)
    assert cli("run", "--rm", "committed:1").ok() == "inside"
    cli("rmi", "committed:1").ok()


def test_export(cli: Cli, tmp_path: Path) -> None:
    created = cli("run", "-d", "busybox", "sh", "-c", "echo inside > /made").ok()
    cli("wait", created).ok()
    path = tmp_path / "out.tar"
    cli("export", "-o", str(path), created).ok()
    with tarfile.open(path) as tar:
        found = tar.extractfile("made")
        assert found is not None
        assert found.read() == b"inside\n"


def test_copy(cli: Cli, tmp_path: Path) -> None:
    created = cli("create", "busybox", "cat", "/tmp/in").ok()
    (tmp_path / "in").write_text("copied")
    cli("cp", str(tmp_path / "in"), f"{created}:/tmp/in").ok()
    assert cli("start", "-a", created).ok() == "copied"
    cli("cp", f"{created}:/etc/passwd", str(tmp_path / "out")).ok()
    assert (tmp_path / "out").read_text() == image.PASSWD
    cli("cp", f"{created}:/no/such", str(tmp_path / "x")).failed(
        1, "Could not find the file /no/such"
    )
