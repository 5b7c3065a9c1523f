"""Namespaces made and joined, names, sysctls, user namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.oci.bundles import Bundle, Runtime, wait_for

KINDS = ("pid", "net", "ipc", "uts", "mnt")


def test_each_namespace_is_new(runtime: Runtime, bundle: Bundle) -> None:
    bundle.sh(" ".join(f"readlink /proc/self/ns/{kind};" for kind in KINDS))
    mine = [os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS]
    theirs = runtime.ok(bundle).split()
    assert len(theirs) == len(mine)
    assert not set(theirs) & set(mine)


def test_those_not_named_are_the_host_s(runtime: Runtime, bundle: Bundle) -> None:
    bundle.without("network").without("ipc")
    bundle.sh("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc")
    mine = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "ipc")]
    assert runtime.ok(bundle).split() == mine


def test_hostname_and_domainname(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.ok(bundle.args("hostname")).strip() == "box"
    if runtime.name == "runc":
        return  # 1.1 knows no domainname
    bundle.config["domainname"] = "example.org"
    assert runtime.ok(bundle.args("cat", "/proc/sys/kernel/domainname")).strip() == "example.org"


def test_a_hostname_needs_its_namespace(runtime: Runtime, bundle: Bundle) -> None:
    bundle.without("uts")
    result = runtime.run(bundle)
    assert result.code == 1
    assert "unable to set hostname without a private UTS namespace" in result.err


def test_a_new_network_has_lo_up(runtime: Runtime, bundle: Bundle) -> None:
    text = runtime.ok(bundle.args("ip", "link"))
    assert text.count("mtu") == 1
    assert "LOOPBACK,UP" in text


@pytest.fixture
def holder() -> Iterator[int]:
    """A process in namespaces of its own that others can join."""
    process = subprocess.Popen(
        ["unshare", "--net", "--ipc", "--uts", "--", "sleep", "1000"], stdout=subprocess.DEVNULL
    )
    mine = os.readlink("/proc/self/ns/net")
    wait_for(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != mine)
    yield process.pid
    process.kill()
    process.wait()


def test_join_by_path(runtime: Runtime, bundle: Bundle, holder: int) -> None:
    bundle.namespace("network", f"/proc/{holder}/ns/net")
    bundle.namespace("ipc", f"/proc/{holder}/ns/ipc")
    bundle.sh("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc")
    theirs = [os.readlink(f"/proc/{holder}/ns/{kind}") for kind in ("net", "ipc")]
    assert runtime.ok(bundle).split() == theirs


def test_join_the_namespaces_of_a_container(
    runtime: Runtime, bundle: Bundle, tmp_path: Path, root_template: Path
) -> None:
    first = runtime.detached(bundle.args("sleep", "1000"))
    pid = runtime.pid(first)
    (tmp_path / "second").mkdir()
    second = Bundle(tmp_path / "second", root_template)
    second.namespace("pid", f"/proc/{pid}/ns/pid")
    second.namespace("network", f"/proc/{pid}/ns/net")
    second.sh("readlink /proc/self/ns/pid; readlink /proc/self/ns/net; ps | grep -c 'sleep 1000'")
    lines = runtime.ok(second).split()
    assert lines[:2] == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "net")]
    assert int(lines[2]) >= 1


@pytest.mark.parametrize("path", ["/proc/self/ns/uts", "/etc/passwd", "/no/such/file"])
def test_a_path_that_is_no_such_namespace(runtime: Runtime, bundle: Bundle, path: str) -> None:
    bundle.namespace("network", path)
    result = runtime.run(bundle)
    assert result.code == 1
    assert result.err.strip()


def test_a_namespace_given_twice(runtime: Runtime, bundle: Bundle) -> None:
    bundle.entries("linux", "namespaces").append({"type": "ipc"})
    result = runtime.run(bundle)
    assert result.code == 1
    assert "duplicated ns" in result.err


def test_an_unknown_namespace(runtime: Runtime, bundle: Bundle) -> None:
    bundle.entries("linux", "namespaces").append({"type": "nonesuch"})
    assert runtime.run(bundle).code == 1


def test_sysctls(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("linux")["sysctl"] = {
        "net.ipv4.ip_unprivileged_port_start": "81",
        "kernel.msgmax": "4096",
    }
    bundle.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax")
    assert runtime.ok(bundle).split() == ["81", "4096"]


@pytest.mark.parametrize("name", ["kernel.msgmax", "net.ipv4.ip_forward"])
def test_sysctls_need_their_namespace(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.without("ipc").without("network")
    bundle.part("linux")["sysctl"] = {name: "1"}
    result = runtime.run(bundle)
    assert result.code == 1
    assert f'sysctl "{name}"' in result.err.replace('\\"', '"')
    assert "allowed in" in result.err


def test_sysctls_that_are_the_host_s(runtime: Runtime, bundle: Bundle) -> None:
    bundle.part("linux")["sysctl"] = {"vm.overcommit_memory": "1"}
    result = runtime.run(bundle)
    assert result.code == 1
    assert "is not in a separate kernel namespace" in result.err


def test_time_namespace(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 has no time namespace")
    if not os.path.exists("/proc/self/ns/time"):
        pytest.skip("this kernel has no time namespace")
    bundle.namespace("time")
    bundle.part("linux")["timeOffsets"] = {"boottime": {"secs": 1000000}}
    uptime = float(runtime.ok(bundle.args("cat", "/proc/uptime")).split()[0])
    assert uptime > 1000000
    name = runtime.detached(bundle.args("sleep", "1000"))
    assert float(runtime("exec", name, "cat", "/proc/uptime").out.split()[0]) > 1000000


@pytest.fixture
def mapped(bundle: Bundle) -> Bundle:
    bundle.namespace("user")
    linux = bundle.part("linux")
    linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    for path in [bundle.rootfs, *bundle.rootfs.rglob("*")]:
        if path.name != "busybox":
            os.lchown(path, 100000, 200000)
    return bundle


def test_user_namespace(runtime: Runtime, mapped: Bundle) -> None:
    mapped.sh("id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map; touch /mine")
    words = runtime.ok(mapped).split()
    assert words == ["0", "0", "0", "100000", "65536", "0", "200000", "65536"]
    status = (mapped.rootfs / "mine").stat()
    assert (status.st_uid, status.st_gid) == (100000, 200000)


def test_user_namespace_owns_the_others(runtime: Runtime, mapped: Bundle) -> None:
    mapped.caps("CAP_SYS_ADMIN", "CAP_NET_ADMIN")
    mapped.part("process")["noNewPrivileges"] = False
    mapped.sh("hostname changed && hostname; ip link set lo down && echo down")
    assert runtime.ok(mapped).split() == ["changed", "down"]


def test_user_namespace_other_user_and_groups(runtime: Runtime, mapped: Bundle) -> None:
    mapped.part("process")["user"] = {"uid": 10, "gid": 11, "additionalGids": [12]}
    assert runtime.ok(mapped.sh("id -u; id -g; id -G")).split() == ["10", "11", "11", "12"]


def test_user_namespace_devices_are_bound(runtime: Runtime, mapped: Bundle) -> None:
    mapped.sh("echo x > /dev/null && head -c 2 /dev/zero | wc -c; ls /dev/pts/ptmx")
    assert runtime.ok(mapped).split() == ["2", "/dev/pts/ptmx"]


def test_user_namespace_without_maps(runtime: Runtime, bundle: Bundle) -> None:
    bundle.namespace("user")
    result = runtime.run(bundle)
    assert result.code == 1
    assert "no" in result.err and "mappings found" in result.err


def test_maps_without_user_namespace(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 does not mind")
    bundle.part("linux")["uidMappings"] = [{"containerID": 0, "hostID": 1000, "size": 1}]
    result = runtime.run(bundle)
    assert result.code == 1
    assert "isn't enabled in the config" in result.err


def test_exec_in_a_user_namespace(runtime: Runtime, mapped: Bundle) -> None:
    name = runtime.detached(mapped.args("sleep", "1000"))
    result = runtime("exec", name, "sh", "-c", "id -u; cat /proc/self/uid_map")
    assert result.out.split() == ["0", "0", "100000", "65536"], result.err


def test_idmapped_mount(runtime: Runtime, mapped: Bundle, tmp_path: Path) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 has no idmapped mounts")
    source = tmp_path / "ids"
    source.mkdir()
    (source / "file").write_text("x")
    os.chown(source / "file", 5, 6)
    mapped.entries("mounts").append(
        {
            "destination": "/mnt/ids",
            "type": "bind",
            "source": str(source),
            "options": ["bind"],
            "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
        }
    )
    result = runtime.run(mapped.args("stat", "-c", "%u %g", "/mnt/ids/file"))
    if "mount_setattr: invalid argument" in result.err and os.uname().release < "6.3":
        pytest.skip("this kernel cannot map the ids of a tmpfs")
    assert result.out.split() == ["5", "6"], result.err


def test_a_source_that_only_root_may_reach(
    runtime: Runtime, mapped: Bundle, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    (locked / "in").mkdir(parents=True)
    (locked / "in/file").write_text("reached")
    (locked / "in").chmod(0o755)
    locked.chmod(0o700)
    mapped.mount("/mnt/l", "bind", str(locked / "in"), "bind")
    assert runtime.ok(mapped.args("cat", "/mnt/l/file")) == "reached"


@pytest.mark.parametrize("mapped", [False, True])
def test_a_network_device_moves_in(runtime: Runtime, bundle: Bundle, mapped: bool) -> None:
    """With its addresses, under another name, and up."""
    if runtime.name == "runc":
        pytest.skip("runc 1.1 moves no devices")
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2")
    bundle.part("linux", "netDevices")["gvt0"] = {"name": "eth7"}
    if mapped:
        bundle.namespace("user")
        maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        bundle.part("linux")["uidMappings"] = bundle.part("linux")["gidMappings"] = maps
    words = [*runtime.command, "--root", str(runtime.root), "run"]
    words += ["-b", str(bundle.args("ip", "addr", "show", "eth7").write()), runtime.new_id()]
    script = (
        "ip link add gvt0 type veth peer name gvt1 && ip link set gvt0 mtu 1400 && "
        "ip addr add 10.77.0.5/24 dev gvt0 && ip addr add 2001:db8::5/64 dev gvt0 nodad && "
        'ip link set gvt1 up && "$@" && ! ip link show gvt0 2>&1'
    )
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", script, "sh", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for part in ("mtu 1400", ",UP", "inet 10.77.0.5/24", "inet6 2001:db8::5/64"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("devices", "network", "text"),
    [
        ({"nonesuch0": {}}, True, "nonesuch0"),
        ({"a/b": {}}, True, "invalid network device name"),
        ({"lo": {"name": "x" * 16}}, True, "invalid network device name"),
        ({"lo": {}}, False, "without a NET namespace"),
    ],
)
def test_a_network_device_that_cannot_move(
    runtime: Runtime, bundle: Bundle, devices: dict[str, object], network: bool, text: str
) -> None:
    if runtime.name == "runc":
        pytest.skip("runc 1.1 moves no devices")
    bundle.part("linux")["netDevices"] = devices
    if not network:
        bundle.without("network")
    result = runtime.run(bundle)
    assert result.code == 1
    assert text in result.err
