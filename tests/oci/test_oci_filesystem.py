"""The container's file system: root, mounts, devices, covers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime


def mounts(text: str) -> dict[str, tuple[str, set[str]]]:
    """mount point → (type, options) from /proc/self/mountinfo; the last one counts."""
    found = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        found[fields[4]] = (right.split()[0], set(fields[5].split(",")))
    return found


def test_the_root_is_the_bundle_s(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "marker").write_text("here")
    assert runtime.ok(bundle.args("cat", "/marker")) == "here"
    runtime.ok(bundle.sh("echo new > /written"))
    assert (bundle.rootfs / "written").read_text() == "new\n"


def test_read_only_root(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("root")["readonly"] = True
    result = runtime.run(bundle.sh("touch /x"))
    assert result.code == 1
    assert "Read-only file system" in result.err
    assert runtime.ok(bundle.sh("touch /dev/shm/x && echo fine")) == "fine\n"


def test_mounts_are_the_spec_s_only(runtime: Runtime, bundle: Bundle) -> None:
    found = mounts(runtime.ok(bundle.args("cat", "/proc/self/mountinfo")))
    wanted = {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys"}
    masked = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
    readonly = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"}
    assert set(found) - masked - readonly == wanted
    assert found["/sys"][1] >= {"ro", "nosuid", "nodev", "noexec"}
    assert found["/dev"][1] >= {"nosuid"}
    assert found["/proc"][0] == "proc"


def test_masked_paths_cannot_be_read(runtime: Runtime, bundle: Bundle) -> None:
    bundle.sh("cat /proc/keys /proc/timer_list; ls -A /sys/firmware; echo end")
    assert runtime.ok(bundle) == "end\n"


def test_masked_file_is_the_null_device(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "etc/secret").write_text("secret")
    bundle.entries("linux", "maskedPaths").append("/etc/secret")
    assert runtime.ok(bundle.sh("cat /etc/secret; stat -c %t:%T /etc/secret")) == "1:3\n"


def test_read_only_paths_cannot_be_written(runtime: Runtime, bundle: Bundle) -> None:
    result = runtime.run(bundle.sh("echo 1 > /proc/sys/kernel/printk"))
    assert result.code == 1
    assert "ead-only file system" in result.err


def test_paths_that_are_not_there_need_no_cover(runtime: Runtime, bundle: Bundle) -> None:
    bundle.entries("linux", "maskedPaths").append("/not/here")
    bundle.entries("linux", "readonlyPaths").append("/nor/here")
    runtime.ok(bundle)


def test_bind_mounts(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("bound")
    bundle.mount("/mnt/rw", "bind", str(source), "rbind", "rw")
    bundle.mount("/mnt/ro", "bind", str(source), "rbind", "ro", "noexec")
    bundle.mount("/mnt/one", "bind", str(source / "file"), "bind")
    bundle.sh("cat /mnt/rw/file /mnt/one; echo x > /mnt/rw/new; touch /mnt/ro/y")
    result = runtime.run(bundle)
    assert result.out == "boundbound"
    assert result.code == 1
    assert (source / "new").read_text() == "x\n"
    assert not (source / "y").exists()


def test_a_relative_source_is_the_bundle_s(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.folder / "data").write_text("beside")
    bundle.mount("/mnt/data", "bind", "data", "bind")
    assert runtime.ok(bundle.args("cat", "/mnt/data")) == "beside"


def test_a_missing_source_is_an_error(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt/x", "bind", "/no/such/source", "bind")
    result = runtime.run(bundle)
    assert result.code == 1
    assert "/no/such/source" in result.err
    assert "no such file or directory" in result.err


def test_nosuid_nodev_noexec_of_a_bind(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.mount("/mnt/b", "bind", str(tmp_path), "bind", "nosuid", "nodev", "noexec", "noatime")
    found = mounts(runtime.ok(bundle.args("cat", "/proc/self/mountinfo")))
    assert found["/mnt/b"][1] >= {"rw", "nosuid", "nodev", "noexec", "noatime"}


def test_mount_points_are_made(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/a/b/c", "tmpfs", "tmpfs", "mode=1700")
    assert runtime.ok(bundle.args("stat", "-c", "%a", "/a/b/c")).strip() == "1700"
    assert (bundle.rootfs / "a/b/c").is_dir()


def test_a_destination_through_links_stays_inside(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bundle.rootfs / "link").symlink_to("/../../../../../../.." + str(outside))
    (bundle.rootfs / "abs").symlink_to("/var/deep")
    bundle.mount("/link/in", "tmpfs", "tmpfs")
    bundle.mount("/abs/in", "tmpfs", "tmpfs")
    runtime.ok(bundle.sh("touch /link/in/x /abs/in/x"))
    assert list(outside.iterdir()) == []
    assert (bundle.rootfs / "var/deep/in").is_dir()


def test_proc_through_a_link_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "proc").rmdir()
    (bundle.rootfs / "proc").symlink_to("/var")
    result = runtime.run(bundle)
    assert result.code == 1
    assert "must be mounted on ordinary directory" in result.err


def test_tmpfs_takes_the_permissions_below(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "var/t").mkdir(mode=0o750)
    bundle.mount("/var/t", "tmpfs", "tmpfs", "size=1m")
    assert runtime.ok(bundle.args("stat", "-c", "%a", "/var/t")).strip() == "750"


def test_tmpcopyup(runtime: Runtime, bundle: Bundle) -> None:
    folder = bundle.rootfs / "var/up"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_text("content")
    (folder / "sub/file").chmod(0o640)
    (folder / "link").symlink_to("sub/file")
    bundle.mount("/var/up", "tmpfs", "tmpfs", "tmpcopyup")
    bundle.sh("cat /var/up/link; stat -c %a /var/up/sub/file; rm -r /var/up/sub")
    assert runtime.ok(bundle) == "content640\n"
    assert (folder / "sub/file").exists()


def test_propagation_of_the_root(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 leaves the root as it was")
    bundle.part("linux")["rootfsPropagation"] = "shared"
    text = runtime.ok(bundle.args("cat", "/proc/self/mountinfo"))
    root = next(line for line in text.splitlines() if line.split()[4] == "/")
    assert "shared:" in root


def test_mounts_inside_do_not_come_out(runtime: Runtime, bundle: Bundle) -> None:
    bundle.caps("CAP_SYS_ADMIN")
    runtime.ok(bundle.sh("mount -t tmpfs none /mnt && touch /mnt/x"))
    assert list((bundle.rootfs / "mnt").iterdir()) == []
    assert str(bundle.rootfs) not in Path("/proc/self/mountinfo").read_text()


def test_slave_mounts_see_what_the_host_mounts(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "in").mkdir()
    assert os.system(f"mount -t tmpfs none {shared} && mount --make-shared {shared}") == 0
    try:
        (shared / "in").mkdir()
        bundle.part("linux")["rootfsPropagation"] = "rslave"
        bundle.mount("/mnt/s", "bind", str(shared), "rbind", "rslave")
        # The host mounts while the container waits for its stdin's end.
        name = runtime.detached(bundle.sh("while ! test -e /mnt/s/in/x; do sleep 0.02; done"))
        assert os.system(f"mount -t tmpfs none {shared}/in && touch {shared}/in/x") == 0
        runtime.wait_status(name, "stopped")
    finally:
        os.system(f"umount {shared}/in; umount {shared}")


def test_default_devices(runtime: Runtime, bundle: Bundle) -> None:
    names = ("null", "zero", "full", "random", "urandom", "tty")
    bundle.sh("stat -c '%n %t:%T %a' " + " ".join(f"/dev/{name}" for name in names))
    assert runtime.ok(bundle).splitlines() == [
        "/dev/null 1:3 666",
        "/dev/zero 1:5 666",
        "/dev/full 1:7 666",
        "/dev/random 1:8 666",
        "/dev/urandom 1:9 666",
        "/dev/tty 5:0 666",
    ]


def test_links_in_dev(runtime: Runtime, bundle: Bundle) -> None:
    bundle.sh("cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done")
    assert runtime.ok(bundle).split() == [
        "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx",
    ]  # fmt: skip


def test_devices_of_the_spec(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("linux")["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3,
         "gid": 4},
        {"path": "/dev/sub/pipe", "type": "p"},
    ]  # fmt: skip
    bundle.entries("linux", "resources", "devices").append(
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"}
    )
    bundle.sh("stat -c '%t:%T %a %u %g' /dev/mine; test -p /dev/sub/pipe && echo fifo")
    assert runtime.ok(bundle) == "1:5 640 3 4\nfifo\n"


def test_devices_that_are_not_allowed(runtime: Runtime, bundle: Bundle) -> None:
    bundle.caps("CAP_MKNOD")
    # /dev/kmsg: made by anybody who may mknod, opened by nobody who is not allowed to.
    result = runtime.run(bundle.sh("mknod /dev/k c 1 11 && echo made && cat /dev/k"))
    assert result.out == "made\n"
    assert "Operation not permitted" in result.err


def test_an_image_s_own_dev_null_is_replaced(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "dev/null").write_text("not a device")
    assert runtime.ok(bundle.args("stat", "-c", "%F", "/dev/null")).startswith("character")


def test_recursive_read_only(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "top"
    (source / "inner").mkdir(parents=True)
    assert os.system(f"mount -t tmpfs none {source}/inner") == 0
    try:
        bundle.mount("/mnt/r", "bind", str(source), "rbind", "rro")
        result = runtime.run(bundle.sh("touch /mnt/r/inner/x"))
        assert "Read-only file system" in result.err
    finally:
        os.system(f"umount {source}/inner")


def test_unknown_mount_type(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt/x", "nonesuchfs", "none")
    result = runtime.run(bundle)
    assert result.code == 1
    assert "/mnt/x" in result.err
    assert "no such device" in result.err


def test_bad_mount_option(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt/x", "tmpfs", "none", "nonesuch=1")
    result = runtime.run(bundle)
    assert result.code == 1
    assert "/mnt/x" in result.err


@pytest.mark.parametrize("path", ["missing", "etc/passwd"])
def test_a_root_that_is_none(runtime: Runtime, bundle: Bundle, path: str) -> None:
    bundle.part("root")["path"] = f"rootfs/{path}"
    result = runtime.run(bundle)
    assert result.code == 1
    assert result.err.strip()
    if path == "missing":
        where = f"{bundle.rootfs}/missing: no such file or directory"
        assert f"invalid rootfs: stat {where}" in result.err
