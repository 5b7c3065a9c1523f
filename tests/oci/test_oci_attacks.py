"""Attacks that worked on some runtime once, tried on these. Ids are CVE numbers."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime, wait_for


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def ours_only(runtime: Runtime, why: str) -> None:
    if runtime.name != "gantry-runc":
        pytest.skip(why)


def test_overwriting_the_runtime_by_proc_exe_2019_5736(runtime: Runtime, bundle: Bundle) -> None:
    """A container writes to /proc/PID/exe of whatever enters it."""
    programs = [os.path.realpath(runtime.command[0]), os.path.realpath(sys.executable)]
    before = [digest(program) for program in programs]
    (bundle.rootfs / "bin/evil").symlink_to("/proc/self/exe")
    bundle.part("process")["noNewPrivileges"] = False
    bundle.caps("CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_SETUID")
    bundle.sh(
        "echo ready > /ready; while :; do for e in /proc/[0-9]*/exe; do"
        " [ $(readlink $e) = /bin/busybox ] || { echo evil >> $e; } 2>/dev/null; done; done"
    )
    name = runtime.detached(bundle)
    wait_for((bundle.rootfs / "ready").exists)
    for _ in range(8):
        runtime("exec", name, "/bin/evil")
        runtime("exec", name, "true")
    assert [digest(program) for program in programs] == before
    runtime("delete", "-f", name)
    bundle.args("/bin/evil", "-c", "pass")
    runtime.run(bundle)
    assert [digest(program) for program in programs] == before


# As where the kernel does not let a process change its executable: it starts a second time.
AGAIN = """
import sys
from gantry.kernel import exefile
def refused(fd):
    raise PermissionError(1, "prctl: operation not permitted")
exefile.become = refused
from gantry.runtime.main import main
main()
"""


@pytest.mark.parametrize("way", ["at once", "again"])
def test_what_enters_runs_from_memory_2019_5736(
    runtime: Runtime, bundle: Bundle, tmp_path: Path, way: str
) -> None:
    """A container whose program is /proc/self/exe gets what the runtime says that it runs
    from."""
    ours_only(runtime, "others are other programs")
    if way == "again":
        runtime.command = [sys.executable, "-c", AGAIN]
    hook = {
        "path": "/bin/sh",
        "args": ["sh", "-c", f"readlink /proc/$PPID/exe > {tmp_path}/exe;"
                 f" cat /proc/$PPID/maps > {tmp_path}/maps"],
    }  # fmt: skip
    bundle.config["hooks"] = {"createRuntime": [hook]}
    runtime.ok(bundle.args("true"))
    assert (tmp_path / "exe").read_text().strip() == "/memfd:gantry-runc (deleted)"
    assert os.path.realpath(sys.executable) not in (tmp_path / "maps").read_text().split()


@pytest.mark.parametrize("number", range(3, 20))
def test_working_directory_through_a_leaked_fd_2024_21626(
    runtime: Runtime, bundle: Bundle, number: int
) -> None:
    ours_only(runtime, "one run of this many is enough")
    (bundle.rootfs / "etc/inside").write_text("yes")
    bundle.part("process")["cwd"] = f"/proc/self/fd/{number}"
    bundle.sh("cat ../../../../../../../../../../etc/inside ./etc/inside 2>/dev/null; pwd")
    result = runtime.run(bundle)
    # Either there is no such folder, or it is one of the container's.
    assert result.code != 0 or "yes" in result.out, result.text


def test_working_directory_of_exec_through_a_leaked_fd(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.detached(bundle.args("sleep", "1000"))
    (bundle.rootfs / "etc/inside").write_text("yes")
    for number in range(3, 20):
        result = runtime(
            "exec", "--cwd", f"/proc/self/fd/{number}", name,
            "sh", "-c", "cat ../../../../../../../../etc/inside",
        )  # fmt: skip
        assert result.code != 0 or result.out == "yes"


def test_no_fd_of_the_host_is_seen_while_a_process_enters(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2016-9962: look into the fds of an exec before it has executed."""
    bundle.sh(
        "echo ready > /ready; while :; do for p in /proc/[0-9]*; do"
        " [ $(readlink $p/exe) = /bin/busybox ] || readlink $p/fd/* $p/cwd $p/root; done; done"
        " >> /seen 2>/dev/null"
    )
    name = runtime.detached(bundle)
    wait_for((bundle.rootfs / "ready").exists)
    for _ in range(10):
        assert runtime("exec", name, "true").code == 0
    assert (bundle.rootfs / "seen").read_text().split() == []


def test_a_destination_that_is_swapped_for_a_link_2021_30465(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    """Another container swaps a mount's destination while it is being mounted on."""
    outside = tmp_path / "outside"
    (outside / "x").mkdir(parents=True)
    volume = bundle.rootfs / "vol"
    (volume / "real/x").mkdir(parents=True)
    (volume / "fake").symlink_to(f"/../../../../../../../../..{outside}")
    (volume / "fake-up").symlink_to("../../../../../../../../../../.." + str(outside))
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        names = ["real", "fake", "fake-up"]
        while not stop.is_set():
            for name in names:
                try:
                    os.rename(volume / name, volume / "d")
                except OSError:
                    # The runtime has made one, in the moment when there was none.
                    shutil.rmtree(volume / "d", ignore_errors=True)
                    continue
                swaps += 1
                time.sleep(0.0001)
                os.rename(volume / "d", volume / name)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        bundle.mount("/vol/d/x", "tmpfs", "tmpfs")
        bundle.sh("touch /vol/d/x/made; cat /proc/self/mountinfo; ls /mnt").write()
        for _ in range(15):
            result = runtime.run(bundle)
            # Whatever it was mounted on is below the container's root: nothing of the
            # host's folder is ever its parent.
            for line in result.out.splitlines():
                fields = line.split()
                if len(fields) > 4 and fields[4].endswith("/x"):
                    assert fields[4].startswith("/"), line
            assert list((outside / "x").iterdir()) == []
    finally:
        alive = thread.is_alive()
        stop.set()
        thread.join()
    assert alive, "the attacker gave up"
    assert swaps > 100


def test_dev_null_that_is_a_link_2025_31133(runtime: Runtime, bundle: Bundle) -> None:
    """Masking binds /dev/null over a path: if that is a link, it is made visible instead."""
    ours_only(runtime, "fixed in runc 1.2.8")
    bundle.config["mounts"] = [
        m for m in bundle.entries("mounts")
        if isinstance(m, dict) and not str(m["destination"]).startswith("/dev")
    ]  # fmt: skip
    (bundle.rootfs / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    result = runtime.run(bundle.sh("cat /proc/keys; cat /proc/sys/kernel/core_pattern"))
    assert result.code == 1
    assert "dev/null" in result.err
    assert result.out == ""


def test_dev_console_that_is_a_link_2025_52565(runtime: Runtime, bundle: Bundle) -> None:
    ours_only(runtime, "fixed in runc 1.2.8")
    bundle.config["mounts"] = [
        m for m in bundle.entries("mounts") if isinstance(m, dict) and m["destination"] != "/dev"
    ]
    (bundle.rootfs / "dev/console").symlink_to("/proc/sysrq-trigger")
    bundle.part("process")["terminal"] = True
    result = runtime.run(bundle)
    assert result.code == 1
    assert "console" in result.err


def test_sysctls_go_to_the_kernel_and_not_to_a_file_2025_52881(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    ours_only(runtime, "fixed in runc 1.2.8")
    fake = tmp_path / "fake"
    (fake / "sys/net/ipv4").mkdir(parents=True)
    (fake / "sys/net/ipv4/ip_forward").write_text("untouched")
    (fake / "self").mkdir()
    bundle.config["mounts"] = [
        m for m in bundle.entries("mounts") if isinstance(m, dict) and m["destination"] != "/proc"
    ]
    bundle.mount("/proc", "bind", str(fake), "rbind")
    bundle.part("linux")["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.part("linux")["maskedPaths"] = []
    bundle.part("linux")["readonlyPaths"] = []
    runtime.run(bundle)
    assert (fake / "sys/net/ipv4/ip_forward").read_text() == "untouched"


def test_binds_inside_proc_2019_19921(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """A volume over /proc/self would take the labels that are written there."""
    (tmp_path / "fake").mkdir()
    for destination in ("/proc/self", "/proc/self/attr", "/proc/1"):
        mounts = bundle.copy()["mounts"]
        bundle.mount(destination, "bind", str(tmp_path / "fake"), "bind")
        result = runtime.run(bundle)
        assert result.code == 1, destination
        bundle.config["mounts"] = mounts


def test_masks_are_where_proc_is_2023_27561(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "proc").rmdir()
    (bundle.rootfs / "var/proc").mkdir()
    (bundle.rootfs / "proc").symlink_to("var/proc")
    result = runtime.run(bundle.sh("cat /proc/keys"))
    assert result.code == 1
    assert "must be mounted on ordinary directory" in result.err


def test_nothing_of_the_root_is_written_outside(
    runtime: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    """Every place where a runtime makes something, as a link to the outside."""
    ours_only(runtime, "runc 1.1 makes /dev's links outside")
    outside = tmp_path / "outside"
    outside.mkdir()
    bundle.config["mounts"] = [
        m for m in bundle.entries("mounts") if isinstance(m, dict) and m["destination"] == "/proc"
    ]
    (bundle.rootfs / "dev").rmdir()
    (bundle.rootfs / "dev").symlink_to(outside)
    (bundle.rootfs / "place").symlink_to(outside)
    bundle.part("process")["cwd"] = "/place/cwd"
    bundle.mount("/place/file", "bind", "/etc/passwd", "bind")
    runtime.run(bundle)
    assert list(outside.iterdir()) == []


def test_symlinked_passwd_is_the_container_s(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "etc/passwd").unlink()
    (bundle.rootfs / "etc/passwd").symlink_to("/../../../../../../etc/passwd")
    assert runtime.ok(bundle.sh("echo $HOME")).strip() == "/"


def test_a_passwd_that_never_ends(runtime: Runtime, bundle: Bundle) -> None:
    ours_only(runtime, "runc reads on")
    (bundle.rootfs / "etc/passwd").unlink()
    os.mkfifo(bundle.rootfs / "etc/passwd")
    assert runtime.ok(bundle.sh("echo $HOME")).strip() == "/"
    (bundle.rootfs / "etc/passwd").unlink()
    (bundle.rootfs / "etc/passwd").symlink_to("/dev/zero")
    assert runtime.ok(bundle.sh("echo $HOME")).strip() == "/"


def test_inheritable_capabilities_are_empty_2022_29162(runtime: Runtime, bundle: Bundle) -> None:
    bundle.caps("CAP_NET_RAW")
    name = runtime.detached(bundle.args("sleep", "1000"))
    for words in (["/proc/1/status"], ["/proc/self/status"]):
        text = runtime("exec", name, "grep", "CapInh", *words).out
        assert int(text.split()[1], 16) == 0


def test_the_state_is_root_s_alone_2021_41091(runtime: Runtime, bundle: Bundle) -> None:
    name = runtime.create(bundle)
    assert (runtime.root / name / "state.json").stat().st_mode & 0o077 == 0
    assert (runtime.root / name).stat().st_mode & 0o066 == 0
