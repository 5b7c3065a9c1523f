"""Each storage driver under a whole engine, by the stock docker client."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import image
from tests.support.cli import Cli
from tests.support.engine import Engine

pytestmark = pytest.mark.integration

DRIVERS = ("overlay2", "overlay", "vfs", "btrfs", "fuse-overlayfs", "devicemapper")
LAYERS = 140
"""More than overlayfs's options of one page would name by whole paths."""


def give_disk(engine: Engine, make: tuple[str, ...], options: str = "loop") -> None:
    """A fresh file system as the data root; `Engine.destroy` unmounts it."""
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    file = engine.root / "disk.img"
    with file.open("wb") as disk:
        disk.truncate(1 << 30)
    subprocess.run([*make, str(file)], check=True, capture_output=True)
    engine.data_root.mkdir()
    mount = ["mount", "-o", options, str(file), str(engine.data_root)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


def started(engine: Engine) -> None:
    """Start it; skip where the driver is not possible here."""
    try:
        engine.start()
    except RuntimeError as error:
        if "driver not supported" in str(error):
            pytest.skip(str(error).strip().splitlines()[-1])
        raise
    engine.add_image()


@pytest.fixture(scope="module", params=DRIVERS)
def driven(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine with one driver."""
    flags: tuple[str, ...] = ("--storage-driver", request.param)
    if request.param == "devicemapper":
        for option in ("dm.loopdatasize=2G", "dm.loopmetadatasize=64M", "dm.basesize=256M"):
            flags += ("--storage-opt", option)
    engine = Engine("gantry", flags)
    try:
        engine.create()
        if request.param == "btrfs":
            give_disk(engine, ("mkfs.btrfs", "-q"))
        started(engine)
        yield engine
    finally:
        engine.destroy()


def many_layers(name: str) -> bytes:
    """A loadable image of busybox and 140 layers that each change something."""
    layers = [image.rootfs()]
    for number in range(LAYERS - 1):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            image.add_file(tar, "count", str(number).encode())
            image.add_file(tar, f"www/file-{number}", b"x")
            if number:
                image.add_file(tar, f"www/.wh.file-{number - 1}", b"")
        layers.append(out.getvalue())
    return image.docker_archive(name, layers)


class TestDriver:
    def test_info(self, driven: Engine) -> None:
        wanted = {"overlay": "overlay2"}.get(driven.flags[1], driven.flags[1])
        info = json.loads(driven.cli()("info", "--format", "{{json .}}").ok())
        assert info["Driver"] == wanted
        assert all(len(row) == 2 for row in info["DriverStatus"])
        [shown] = json.loads(driven.cli()("inspect", "busybox").ok())
        assert shown["GraphDriver"]["Name"] == wanted

    def test_changes_and_commit(self, driven: Engine) -> None:
        cli = driven.cli()
        program = "echo new > /made; rm /www/index.html; mkdir /d; chmod 700 /home; ln /made /d/m"
        cli("run", "--name", "changed", "-v", "/data", "busybox", "sh", "-c", program).ok()
        changed = set(cli("diff", "changed").ok().splitlines())
        expected = {"A /made", "A /d", "A /d/m", "C /www", "D /www/index.html", "C /home"}
        assert expected <= changed
        assert not {line for line in changed if line.split()[1] in ("/etc", "/dev", "/etc/hosts")}
        cli("commit", "changed", "made:1").ok()
        look = "cat /made /d/m; ls /www | wc -l; stat -c %a /home; stat -c %h /made"
        out = cli("run", "--rm", "made:1", "sh", "-c", look).ok()
        assert out.split() == ["new", "new", "0", "700", "2"]
        members = layer_names(cli, "made:1")
        assert {"made", "d", "d/m", "www", "www/.wh.index.html", "home"} <= members
        assert not members & {"etc", "etc/hosts", "dev", "proc", "sys", ".dockerenv"}
        cli("rm", "-v", "changed").ok()
        cli("rmi", "made:1").ok()

    def test_copy_and_export(self, driven: Engine, tmp_path: Path) -> None:
        cli = driven.cli()
        (tmp_path / "in").write_text("copied")
        cli("create", "--name", "copied", "busybox", "cat", "/tmp/in").ok()
        cli("cp", str(tmp_path / "in"), "copied:/tmp/in").ok()
        assert cli("start", "-a", "copied").ok() == "copied"
        cli("cp", "copied:/etc/passwd", str(tmp_path / "out")).ok()
        assert (tmp_path / "out").read_text() == image.PASSWD
        cli("export", "-o", str(tmp_path / "all.tar"), "copied").ok()
        with tarfile.open(tmp_path / "all.tar") as tar:
            assert {"tmp/in", "bin/busybox", "www/index.html"} <= set(tar.getnames())
        size = cli("ps", "-as", "--filter", "name=copied", "--format", "{{.Size}}").ok()
        assert re.match(r"6B \(virtual 1\.9\dMB\)", size), size
        cli("rm", "copied").ok()

    def test_image_mounts(self, driven: Engine) -> None:
        """Whole images and parts of them, of several layers, as volumes."""
        cli = driven.cli()
        if cli.major < 28:
            pytest.skip("image mounts are new in docker 28")
        upper = io.BytesIO()
        with tarfile.open(fileobj=upper, mode="w") as tar:
            image.add_file(tar, "www/added", b"added\n")
            image.add_file(tar, "www/.wh.index.html", b"")
        layers = [image.rootfs(), upper.getvalue()]
        cli("load", stdin=image.docker_archive("two:1", layers)).ok()
        for words, path in (("", "/m/www"), (",image-subpath=www", "/m")):
            mount = f"type=image,source=two:1,target=/m{words}"
            out = cli("run", "--rm", "--mount", mount, "busybox", "ls", path).ok()
            assert out == "added"
        mount = "type=image,source=two:1,target=/m,image-subpath=www/added"
        assert cli("run", "--rm", "--mount", mount, "busybox", "cat", "/m").ok() == "added"
        mount = "type=image,source=two:1,target=/m,image-subpath=none"
        cli("run", "--rm", "--mount", mount, "busybox", "true").failed(127, "cannot access path")
        cli("rmi", "two:1").ok()

    def test_survives_a_restart(self, driven: Engine) -> None:
        cli = driven.cli()
        cli("run", "--name", "kept", "busybox", "sh", "-c", "echo kept > /kept").ok()
        driven.restart()
        assert "kept" in cli("cp", "kept:/kept", "-").ok()
        assert cli("run", "--rm", "busybox", "echo", "x").ok() == "x"
        cli("rm", "kept").ok()

    def test_many_layers(self, driven: Engine) -> None:
        if driven.flags[1] == "vfs":
            pytest.skip("copies all for every layer")
        cli = driven.cli()
        cli("load", stdin=many_layers("many:1"), timeout=120).ok()
        out = cli("run", "--rm", "many:1", "sh", "-c", "cat /count; echo; ls /www").ok()
        assert out.split() == [str(LAYERS - 2), f"file-{LAYERS - 2}", "index.html"]
        cli("rmi", "many:1").ok()

    def test_leaves_nothing(self, driven: Engine) -> None:
        cli = driven.cli()
        cli("rmi", "busybox").ok()
        driven.stop()
        mounts = [point for point in driven.mounts() if point != str(driven.data_root)]
        folder = {"overlay": "overlay2"}.get(driven.flags[1], driven.flags[1])
        left = {path.name for path in (driven.data_root / "snapshots" / folder).iterdir()}
        driven.start()
        driven.add_image()
        assert mounts == []
        assert left <= {"trash", "base", "pool", "backingFsBlockDev", "mnt"}


class TestSizes:
    """--storage-opt size= is a limit that the container meets."""

    @pytest.mark.parametrize(
        ("driver", "make", "options"),
        [
            ("overlay2", ("mkfs.xfs", "-q"), "loop,pquota"),
            ("overlay2", ("mkfs.ext4", "-q", "-O", "quota,project"), "loop,prjquota"),
            ("btrfs", ("mkfs.btrfs", "-q"), "loop"),
        ],
    )
    def test_limit(self, driver: str, make: tuple[str, ...], options: str) -> None:
        engine = Engine("gantry", ("--storage-driver", driver))
        try:
            engine.create()
            give_disk(engine, make, options)
            started(engine)
            cli = engine.cli()
            fill = ("dd", "if=/dev/zero", "of=/full", "bs=1M", "count=60")
            words = ("run", "--rm", "--cap-drop", "SYS_RESOURCE", "--storage-opt")
            done = cli(*words, "size=40M", "busybox", *fill)
            assert done.code == 1
            assert any(text in done.err for text in ("No space left", "quota exceeded"))
            cli(*words, "size=100M", "busybox", *fill).ok()
        finally:
            engine.destroy()

    def test_not_here(self) -> None:
        engine = Engine("gantry", ("--storage-driver", "vfs"))
        with engine:
            engine.add_image()
            done = engine.cli()("create", "--storage-opt", "size=1G", "busybox")
            done.failed(1, "--storage-opt.* is not supported")


class TestChoice:
    def test_prior_data_is_used_again(self) -> None:
        with Engine("gantry", ("--storage-driver", "vfs")) as engine:
            engine.add_image()
            engine.stop()
            engine.flags = ()
            engine.start()
            assert engine.cli()("info", "--format", "{{.Driver}}").ok() == "vfs"
            assert engine.cli()("run", "--rm", "busybox", "echo", "x").ok() == "x"

    @pytest.mark.parametrize(
        ("flags", "text"),
        [
            (("--storage-driver", "aufs"), "driver not supported: aufs"),
            (("--storage-driver", "zfs"), "driver not supported: zfs"),
            (("--storage-driver", "colour"), "driver not supported: colour"),
            (("--storage-driver", "overlay2", "--storage-opt", "dm.fs=xfs"), "Unknown option"),
        ],
    )
    def test_refused(self, flags: tuple[str, ...], text: str) -> None:
        if flags[1] == "zfs" and shutil.which("zfs"):
            pytest.skip("ZFS is installed")
        engine = Engine("gantry", flags)
        try:
            engine.create()
            with pytest.raises(RuntimeError, match=text):
                engine.start()
            assert "Traceback" not in engine.tail()
        finally:
            engine.destroy()


def layer_names(cli: Cli, name: str) -> set[str]:
    """What is in an image's top layer."""
    done = subprocess.run(cli.argv("save", name), env=cli.env(), capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        index = tar.extractfile("manifest.json")
        assert index is not None
        top = tar.extractfile(json.loads(index.read())[0]["Layers"][-1])
        with tarfile.open(fileobj=top) as layer:
            return set(layer.getnames())
