"""Mounts among each other: order, late read-only, sources that mounts have made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime

MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def mount_of(lines: str, point: str) -> str:
    """The last line of mountinfo about a mount point."""
    found = [line for line in lines.splitlines() if line.split()[4] == point]
    assert found, lines
    return found[-1]


def test_a_read_only_dev_is_filled_first(runtime: Runtime, bundle: Bundle) -> None:
    for mount in bundle.entries("mounts"):
        assert isinstance(mount, dict)
        if mount["destination"] == "/dev":
            mount["options"].append("ro")
    out = runtime.ok(bundle.sh("grep ' /dev ' /proc/self/mounts; touch /dev/x 2>&1; ls /dev/null"))
    assert " ro," in out.splitlines()[0]
    assert "Read-only file system" in out
    assert out.endswith("/dev/null\n")


def test_targets_inside_a_read_only_tmpfs(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 makes other folders than /dev read-only at once")
    (bundle.folder / "source").mkdir()
    bundle.mount("/mnt", "tmpfs", "tmpfs", "ro").mount("/mnt/a/b", "bind", "source", "bind")
    out = runtime.ok(bundle.sh("cat /proc/self/mountinfo; touch /mnt/x 2>&1; touch /mnt/a/b/y"))
    assert " ro," in mount_of(out[: out.rindex("touch")], "/mnt")
    assert (bundle.folder / "source/y").exists()


def test_a_tmpfs_in_a_new_place_is_everybody_s(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 takes the mode of the folder that it has just made")
    bundle.mount("/new/place", "tmpfs", "tmpfs", "nosuid")
    assert runtime.ok(bundle.args("stat", "-c", "%a", "/new/place")).strip() == "1777"


def test_a_mode_that_is_given_counts(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 takes the folder's mode all the same")
    (bundle.rootfs / "there").mkdir(mode=0o710)
    bundle.mount("/there", "tmpfs", "tmpfs", "mode=1500")
    assert runtime.ok(bundle.args("stat", "-c", "%a", "/there")).strip() == "1500"
    assert (bundle.rootfs / "there").stat().st_mode & 0o7777 == 0o710


@pytest.mark.parametrize("mapped", [False, True])
def test_a_source_among_the_container_s_own_mounts(
    runtime: Runtime, bundle: Bundle, mapped: bool
) -> None:
    if mapped and runtime.name == "runc":
        pytest.skip("runc 1.1 opens all sources first")
    for name in ("a", "b"):
        (bundle.folder / name / "in").mkdir(parents=True)
        (bundle.folder / name / "file").write_text(name)
    for name in ("one", "two"):  # whoever is root in there may not make them
        (bundle.rootfs / name).mkdir()
    root = os.path.realpath(bundle.rootfs)
    bundle.mount("/one", "bind", str(bundle.folder / "a"), "rbind")
    bundle.mount("/one/in", "bind", str(bundle.folder / "b"), "rbind")
    bundle.mount("/two", "bind", f"{root}/one", "rbind")
    if mapped:
        bundle.namespace("user")
        bundle.part("linux")["uidMappings"] = bundle.part("linux")["gidMappings"] = MAPS
    assert runtime.ok(bundle.sh("cat /two/file /two/in/file")) == "ab"


def test_a_destination_by_the_host_s_path(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.folder / "a").mkdir()
    (bundle.folder / "a/file").write_text("a")
    root = os.path.realpath(bundle.rootfs)
    bundle.mount(f"{root}/mnt", "bind", str(bundle.folder / "a"), "bind")
    assert runtime.ok(bundle.args("cat", "/mnt/file")) == "a"


@pytest.mark.parametrize("mapped", [False, True])
def test_a_shared_mount_is_shared_at_the_end(
    runtime: Runtime, bundle: Bundle, mapped: bool
) -> None:
    (bundle.folder / "a").mkdir()
    bundle.mount("/mnt", "bind", str(bundle.folder / "a"), "bind", "shared")
    if mapped:
        bundle.namespace("user")
        bundle.part("linux")["uidMappings"] = bundle.part("linux")["gidMappings"] = MAPS
    line = mount_of(runtime.ok(bundle.args("cat", "/proc/self/mountinfo")), "/mnt")
    assert "shared:" in line


def test_a_path_masked_twice_has_one_cover(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 covers it twice")
    (bundle.rootfs / "secret").mkdir()
    bundle.part("linux")["maskedPaths"] = ["/secret", "/proc/kcore", "/secret"]
    assert runtime.ok(bundle.sh("grep -c ' /secret ' /proc/self/mounts")).strip() == "1"


def test_without_pivot_root_no_whole_proc_is_left(runtime: Runtime, bundle: Bundle) -> None:
    """Or the container could mount a procfs without covers."""
    bundle.sh("mkdir /tmp/p; unshare -mrpf mount -t proc none /tmp/p")
    out = runtime.run(bundle, "--no-pivot").text
    assert "denied" in out or "not permitted" in out


def test_a_container_of_the_host_s_mount_namespace(runtime: Runtime, bundle: Bundle) -> None:
    """Its mounts stay on the host, below one that whoever cleans up takes off."""
    bundle.without("mount")
    bundle.part("linux")["maskedPaths"] = []
    bundle.part("linux")["readonlyPaths"] = []
    bundle.config["mounts"] = [m for m in bundle.entries("mounts") if "proc" in str(m)]
    root = os.path.realpath(bundle.rootfs)
    # In a mount namespace of the test's own: the machine's is left alone.
    words = [*runtime.command, "--root", str(runtime.root), "run"]
    words += ["-b", str(bundle.args("echo", "ran").write()), runtime.new_id()]
    script = f'"$@" && umount -R -l {root} && ! grep -q {root} /proc/self/mounts'
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


def test_the_host_s_shared_mounts_stay(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """Letting go of the old root must not unmount it where it came from."""
    place = tmp_path / "place"
    place.mkdir()
    bundle.part("linux")["rootfsPropagation"] = "shared"
    words = [*runtime.command, "--root", str(runtime.root), "run"]
    words += ["-b", str(bundle.write()), runtime.new_id()]
    script = (
        f"mount -t tmpfs none {place} && mount --make-rshared / && "
        f'"$@" && grep -q {place} /proc/self/mounts && mountpoint -q /proc'
    )
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture
def flagged(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A mount of the host's with the flags that are asked for; its path."""
    folder = tmp_path / "flagged"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "x", str(folder)], check=True)

    def remount(flags: str) -> str:
        time = "" if "atime" in flags else ",strictatime"
        words = f"remount,bind,dev,suid,exec,rw,{flags}{time}"
        subprocess.run(["mount", "-o", words, str(folder)], check=True)
        return str(folder)

    yield remount
    subprocess.run(["umount", str(folder)], check=True)


# The host's flags, the bind's words; what it has then, what it has not.
FLAGS = [
    ("ro,noexec,noatime", [], "ro noexec noatime", "rw"),
    ("ro,noexec,noatime", ["nosuid"], "rw nosuid noatime", "noexec"),
    ("ro,nodev", ["rw"], "rw", "nodev"),
    ("nodev,nosuid", ["ro"], "ro", "nodev nosuid"),
    ("noatime", ["atime"], "noatime", "relatime"),
    ("noatime", ["relatime"], "relatime", "noatime"),
    ("noatime", ["nodiratime"], "nodiratime relatime", "noatime"),
    ("nodiratime", ["strictatime"], "rw", "nodiratime relatime noatime"),
]


@pytest.mark.parametrize(("host", "words", "has", "has_not"), FLAGS)
def test_the_flags_of_a_bind(
    runtime: Runtime,
    bundle: Bundle,
    flagged: Callable[[str], str],
    host: str,
    words: list[str],
    has: str,
    has_not: str,
) -> None:
    """With none it has its source's, with some it has those and no others."""
    if words == ["rw"] and runtime.name == "runc":
        pytest.skip("runc 1.1 takes it for none")
    bundle.mount("/mnt", "bind", flagged(host), "bind", *words)
    found = runtime.ok(bundle.sh("grep ' /mnt ' /proc/self/mounts")).split()[3].split(",")
    assert set(has.split()) <= set(found), found
    assert set(has_not.split()).isdisjoint(found), found


# As above, in a user namespace; None: it is refused.
LOCKED = [
    ("ro,noexec", ["nosuid"], "ro noexec nosuid"),
    ("nodev,nosuid,noatime", ["ro"], "ro nodev nosuid noatime"),
    ("ro", ["rw"], None),
    ("nodev", ["dev"], None),
    ("noatime", ["relatime"], None),
    ("noatime", ["norelatime"], "noatime"),
]


@pytest.mark.parametrize(("host", "words", "has"), LOCKED)
def test_the_flags_of_a_bind_are_locked_for_a_user_namespace(
    runtime: Runtime,
    bundle: Bundle,
    flagged: Callable[[str], str],
    host: str,
    words: list[str],
    has: str | None,
) -> None:
    if runtime.name == "runc":
        pytest.skip("since runc 1.2")
    bundle.namespace("user")
    for kind in ("uidMappings", "gidMappings"):
        bundle.part("linux")[kind] = MAPS
    bundle.mount("/mnt", "bind", flagged(host), "bind", *words)
    result = runtime.run(bundle.sh("grep ' /mnt ' /proc/self/mounts"))
    if has is None:
        assert result.code == 1, result.out
        assert "error during container init: error mounting" in result.err
        assert "operation not permitted" in result.err
    else:
        assert set(has.split()) <= set(result.out.split()[3].split(",")), result.text
