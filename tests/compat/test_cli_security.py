"""What a container may do: capabilities, seccomp, masked paths, devices, limits."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.support.cli import Cli

DEFAULT_CAPABILITIES = 0x00000000A80425FB


def status(cli: Cli, *words: str) -> dict[str, str]:
    """Return /proc/self/status of a container's process."""
    out = cli("run", "--rm", *words, "busybox", "cat", "/proc/self/status").ok()
    return {line.split(":")[0]: line.split(":", 1)[1].strip() for line in out.splitlines()}


def everything() -> int:
    """Return all capabilities that this machine gives anybody."""
    found = re.search(r"^CapBnd:\s+(\w+)", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1], 16)


def whole_machine() -> bool:
    """Return whether this machine has all capabilities that its kernel knows."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return everything() == (1 << (last + 1)) - 1


class TestCapabilities:
    def test_default(self, each_cli: Cli) -> None:
        got = status(each_cli)
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(got[name], 16) == DEFAULT_CAPABILITIES, name
        assert int(got["CapAmb"], 16) == 0

    def test_inheritable_set_is_empty_or_the_default(self, cli: Cli, is_gantry: bool) -> None:
        got = int(status(cli)["CapInh"], 16)
        # CVE-2022-24769: 20.10.14 emptied it.
        assert got == 0 if is_gantry else got in (0, DEFAULT_CAPABILITIES)

    def test_of_a_user(self, cli: Cli) -> None:
        got = status(cli, "-u", "1000")
        assert int(got["CapEff"], 16) == 0
        assert int(got["CapPrm"], 16) == 0
        assert int(got["CapBnd"], 16) == DEFAULT_CAPABILITIES

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (("--cap-drop", "ALL"), 0),
            (("--cap-drop", "all", "--cap-add", "NET_BIND_SERVICE"), 1 << 10),
            (("--cap-add", "SYS_TIME"), DEFAULT_CAPABILITIES | 1 << 25),
            (("--cap-add", "CAP_SYS_TIME"), DEFAULT_CAPABILITIES | 1 << 25),
            (("--cap-drop", "chown"), DEFAULT_CAPABILITIES & ~1),
        ],
    )
    def test_add_and_drop(self, cli: Cli, words: tuple[str, ...], expected: int) -> None:
        assert int(status(cli, *words)["CapEff"], 16) == expected

    def test_unknown(self, cli: Cli) -> None:
        cli("create", "--cap-add", "NOPE", "busybox").failed(1, "CAP_NOPE")


class TestSeccomp:
    def test_default(self, each_cli: Cli) -> None:
        assert status(each_cli)["Seccomp"] == "2"

    @pytest.mark.parametrize(
        "program",
        [
            "mount -t tmpfs x /mnt",
            "unshare -U true || false",
            "hostname other",
        ],
    )
    def test_refuses(self, cli: Cli, program: str) -> None:
        done = cli("run", "--rm", "busybox", "sh", "-c", program)
        assert done.code not in (0, 125, 126)

    def test_unconfined(self, cli: Cli) -> None:
        assert status(cli, "--security-opt", "seccomp=unconfined")["Seccomp"] == "0"

    def test_profile_of_choice(self, cli: Cli, tmp_path: Path) -> None:
        profile = tmp_path / "profile.json"
        profile.write_text(
            '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":'
            '[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}'
        )
        words = ("--security-opt", f"seccomp={profile}")
        cli("run", "--rm", *words, "busybox", "mkdir", "/x").failed(1, "Operation not permitted")
        cli("run", "--rm", *words, "busybox", "touch", "/x").ok()

    def test_no_new_privileges(self, cli: Cli) -> None:
        assert status(cli)["NoNewPrivs"] == "0"
        assert status(cli, "--security-opt", "no-new-privileges")["NoNewPrivs"] == "1"

    def test_bad_option(self, cli: Cli) -> None:
        done = cli("run", "--rm", "--security-opt", "nope=1", "busybox", "true")
        done.failed(125, "nope")


class TestPaths:
    @pytest.mark.parametrize("path", ["/proc/kcore", "/proc/keys", "/proc/timer_list"])
    def test_masked_files_are_empty(self, cli: Cli, path: str) -> None:
        if not Path(path).exists():
            pytest.skip(f"this kernel has no {path}")
        assert cli("run", "--rm", "busybox", "cat", path).ok() == ""

    def test_masked_folders_are_empty(self, cli: Cli) -> None:
        program = "for d in /proc/scsi /proc/acpi /sys/firmware; do [ -d $d ] && ls $d; done; true"
        assert cli("run", "--rm", "busybox", "sh", "-c", program).ok() == ""

    @pytest.mark.parametrize("path", ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger"])
    def test_read_only(self, cli: Cli, path: str) -> None:
        if not Path(path).exists():
            pytest.skip(f"this kernel has no {path}")
        done = cli("run", "--rm", "busybox", "sh", "-c", f"echo x > {path}")
        assert done.code == 1
        assert "Read-only file system" in done.err

    def test_sys_is_read_only(self, cli: Cli) -> None:
        done = cli("run", "--rm", "busybox", "mkdir", "/sys/x")
        assert "Read-only file system" in done.err

    def test_privileged(self, each_cli: Cli, is_gantry: bool) -> None:
        if not is_gantry and not whole_machine():
            pytest.skip("Debian's dockerd wants the capabilities that this machine lacks")
        got = status(each_cli, "--privileged")
        assert int(got["CapEff"], 16) == everything()
        assert got["Seccomp"] == "0"
        program = "mount -t tmpfs x /tmp && [ -e /dev/kmsg ] && cat /proc/keys | wc -l"
        assert (
            int(each_cli("run", "--rm", "--privileged", "busybox", "sh", "-c", program).ok()) >= 0
        )

    def test_read_only_root(self, each_cli: Cli) -> None:
        program = "touch /x; touch /etc/hostname; echo $?"
        done = each_cli("run", "--rm", "--read-only", "busybox", "sh", "-c", program)
        assert "touch: /x: Read-only file system" in done.err


class TestDevices:
    def test_default_set(self, each_cli: Cli) -> None:
        out = each_cli("run", "--rm", "busybox", "ls", "/dev").ok()
        names = {"core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm"}
        names |= {"stderr", "stdin", "stdout", "tty", "urandom", "zero"}
        if not Path("/proc/kcore").exists():
            names.discard("core")
        assert set(out.split()) == names

    def test_usable(self, cli: Cli) -> None:
        program = "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x > /dev/null"
        program += "; echo x > /dev/full || echo full"
        assert cli("run", "--rm", "busybox", "sh", "-c", program).ok() == "4\n4\nfull"

    def test_others_are_refused(self, cli: Cli) -> None:
        done = cli("run", "--rm", "busybox", "sh", "-c", "mknod /tmp/k c 1 11 && cat /tmp/k")
        assert done.code != 0
        assert "Operation not permitted" in done.err

    def test_device(self, cli: Cli) -> None:
        choice = [path for path in ("/dev/fuse", "/dev/net/tun") if Path(path).exists()]
        if not choice:
            pytest.skip("no device here that anybody may open")
        number = os.stat(choice[0]).st_rdev
        words = ("--device", f"{choice[0]}:/dev/mine:r")
        out = cli("run", "--rm", *words, "busybox", "sh", "-c", "ls -l /dev/mine; : < /dev/mine")
        assert re.search(rf"{os.major(number)},\s+{os.minor(number)}", out.ok()), out
        done = cli("run", "--rm", *words, "busybox", "sh", "-c", ": > /dev/mine")
        assert "Operation not permitted" in done.err

    def test_device_missing(self, cli: Cli) -> None:
        done = cli("run", "--rm", "--device", "/dev/nope", "busybox", "true")
        assert done.code in (125, 127)  # the client looks for "no such file or directory"
        assert "error gathering device information while adding custom device" in done.err

    def test_shm_size(self, cli: Cli) -> None:
        out = cli("run", "--rm", "busybox", "df", "-k", "/dev/shm").ok()
        assert out.split()[-5] == "65536"
        out = cli("run", "--rm", "--shm-size", "1m", "busybox", "df", "-k", "/dev/shm").ok()
        assert out.split()[-5] == "1024"


class TestLimits:
    def test_ulimit(self, each_cli: Cli) -> None:
        words = ("--ulimit", "nofile=100:200", "--ulimit", "core=0")
        program = "ulimit -Sn; ulimit -Hn; ulimit -c"
        out = each_cli("run", "--rm", *words, "busybox", "sh", "-c", program).ok()
        assert out.split() == ["100", "200", "0"]

    def test_sysctl(self, cli: Cli) -> None:
        words = ("--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "kernel.msgmax=1000")
        files = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax")
        assert cli("run", "--rm", *words, "busybox", "cat", *files).ok() == "0\n1000"

    def test_oom_score(self, cli: Cli) -> None:
        words = ("--oom-score-adj", "321")
        out = cli("run", "--rm", *words, "busybox", "cat", "/proc/self/oom_score_adj").ok()
        assert out == "321"

    def test_namespaces_are_its_own(self, cli: Cli) -> None:
        names = ("mnt", "pid", "net", "ipc", "uts")
        paths = [f"/proc/self/ns/{name}" for name in names]
        program = f"for i in {' '.join(paths)}; do readlink $i; done"
        inside = cli("run", "--rm", "busybox", "sh", "-c", program).ok().splitlines()
        for path, found in zip(paths, inside, strict=True):
            assert str(Path(path).readlink()) != found

    def test_namespaces_of_the_host(self, cli: Cli) -> None:
        words = ("--pid", "host", "--ipc", "host", "--uts", "host")
        paths = [f"/proc/self/ns/{name}" for name in ("pid", "ipc", "uts")]
        program = f"for i in {' '.join(paths)}; do readlink $i; done"
        inside = cli("run", "--rm", *words, "busybox", "sh", "-c", program).ok().splitlines()
        assert inside == [str(Path(path).readlink()) for path in paths]

    def test_cannot_see_host_mounts(self, cli: Cli) -> None:
        out = cli("run", "--rm", "busybox", "cat", "/proc/self/mountinfo").ok()
        points = {line.split()[4] for line in out.splitlines()}
        expected = {"/", "/proc", "/dev", "/dev/pts", "/sys", "/dev/mqueue", "/dev/shm"}
        expected |= {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
        assert expected <= points
        others = {p for p in points - expected if not p.startswith(("/proc/", "/sys/"))}
        assert others == set()

    def test_leaked_descriptors(self, cli: Cli) -> None:
        out = cli("run", "--rm", "busybox", "ls", "/proc/self/fd").ok()
        assert set(out.split()) <= {"0", "1", "2", "3"}

    def test_groups(self, cli: Cli) -> None:
        assert status(cli, "-u", "1234:5678")["Groups"].split() in ([], ["5678"])
        assert status(cli)["Gid"].split() == ["0", "0", "0", "0"]
