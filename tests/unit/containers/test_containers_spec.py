"""From configurations to OCI specs: environment, mounts, users, capabilities, seccomp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gantry.containers import merge, mountspec
from gantry.containers.record import MountRecord, Record
from gantry.containers.rootfs import Unsure, layers_of, read_file
from gantry.containers.settings import Settings
from gantry.containers.spec import capabilities, seccomp
from gantry.containers.spec.build import Bind, Start, build
from gantry.containers.spec.users import Identity, resolve
from gantry.model.container import (
    BindOptions,
    ContainerConfig,
    HostConfig,
    MountSpec,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
)
from gantry.model.errors import InvalidParameter, System
from gantry.model.mount import Mount

SETTINGS = Settings(data_root="/data", exec_root="/run/x")
ROOT = Identity(0, 0, (0,), "/root")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001:u:/home/user:/bin/sh\nbad line\n"
GROUP = b"root:x:0:\naudio:x:29:user,other\nstaff:x:50:\n"


def record(config: ContainerConfig, host: HostConfig) -> Record:
    host = merge.with_defaults(host, SETTINGS, tty=config.tty)
    path, args = merge.command(config)
    return Record(
        id="a" * 64,
        name="n",
        created=1,
        image="",
        platform="linux",
        driver="overlay2",
        path=path,
        args=args,
        config=config,
        host_config=host,
        networks={},
        mounts=[],
        runtime="gantry",
    )


PLAIN = HostConfig()
TRUE = ContainerConfig(cmd=["true"])
START = Start(hostname="h", identity=ROOT, binds=())


def spec(
    host: HostConfig = PLAIN, config: ContainerConfig = TRUE, start: Start = START
) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(build(record(config, host), SETTINGS, start))
    return value


def options_of(value: dict[str, Any], destination: str) -> list[str]:
    found = [m["options"] for m in value["mounts"] if m["destination"] == destination]
    assert len(found) == 1, (destination, found)
    options: list[str] = found[0]
    return options


def test_defaults() -> None:
    value = spec()
    assert [m["destination"] for m in value["mounts"]] == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/mqueue",
        "/dev/shm",
    ]
    assert "size=67108864" in options_of(value, "/dev/shm")
    assert value["process"]["args"] == ["true"]
    assert value["process"]["cwd"] == "/"
    assert value["process"]["env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=h",
        "HOME=/root",
    ]
    assert len(value["process"]["capabilities"]["bounding"]) == 14
    assert "inheritable" not in value["process"]["capabilities"]
    linux = value["linux"]
    assert linux["cgroupsPath"] == "/docker/" + "a" * 64
    assert {n["type"] for n in linux["namespaces"]} == {"mount", "network", "uts", "pid", "ipc"}
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert linux["sysctl"]["net.ipv4.ip_unprivileged_port_start"] == "0"
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}


def test_environment() -> None:
    config = ContainerConfig(cmd=["x"], env=["A=1", "PATH=/p", "GONE", "HOME=/h"], tty=True)
    start = Start(hostname="h", identity=ROOT, binds=(), env=("LINK=1", "A=0", "GONE=2"))
    assert spec(config=config, start=start)["process"]["env"] == [
        "PATH=/p",
        "HOSTNAME=h",
        "TERM=xterm",
        "LINK=1",
        "A=1",
        "HOME=/h",
    ]


def test_privileged() -> None:
    value = spec(HostConfig(privileged=True))
    assert value["process"]["capabilities"]["effective"] == list(capabilities.known())
    assert "seccomp" not in value["linux"]
    assert "maskedPaths" not in value["linux"]
    assert value["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "ro" not in options_of(value, "/sys")
    assert "ro" not in options_of(value, "/sys/fs/cgroup")


def test_security_options() -> None:
    assert "seccomp" not in spec(HostConfig(security_opt=["seccomp=unconfined"]))["linux"]
    value = spec(HostConfig(security_opt=["no-new-privileges", "systempaths=unconfined"]))
    assert value["process"]["noNewPrivileges"] is True
    assert value["linux"]["maskedPaths"] == []
    own = (
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO"}]}'
    )
    rules = spec(HostConfig(security_opt=["seccomp=" + own]))["linux"]["seccomp"]["syscalls"]
    assert rules == [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]
    for wrong in ("nonsense", "a=b", "seccomp=[]", "no-new-privileges=maybe"):
        with pytest.raises(InvalidParameter):
            spec(HostConfig(security_opt=[wrong]))


def test_namespaces_of_others() -> None:
    start = Start(
        hostname="h",
        identity=ROOT,
        binds=(),
        namespaces={"network": "", "pid": "/proc/7/ns/pid", "uts": ""},
    )
    value = spec(HostConfig(cgroupns_mode="private"), start=start)
    namespaces = {n["type"]: n.get("path") for n in value["linux"]["namespaces"]}
    assert namespaces == {"mount": None, "pid": "/proc/7/ns/pid", "ipc": None, "cgroup": None}
    assert "hostname" not in value
    assert "sysctl" not in value["linux"]


def test_resources() -> None:
    host = HostConfig(
        memory=64 << 20,
        nano_cpus=1_500_000_000,
        pids_limit=10,
        cpuset_cpus="0",
        blkio_weight=100,
        ulimits=[Ulimit(name="nofile", soft=10, hard=-1)],
        oom_score_adj=5,
    )
    value = spec(host)
    resources = value["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
    assert resources["cpu"] == {"period": 100000, "quota": 150000, "cpus": "0"}
    assert resources["pids"] == {"limit": 10}
    assert resources["blockIO"] == {"weight": 100}
    limits = [{"type": "RLIMIT_NOFILE", "hard": (1 << 64) - 1, "soft": 10}]
    assert value["process"]["rlimits"] == limits
    assert value["process"]["oomScoreAdj"] == 5


def test_binds_lie_on_each_other_in_order() -> None:
    binds = [
        Bind(MountRecord(kind="bind", destination="/a/b/c", propagation="rshared"), "/h3"),
        Bind(MountRecord(kind="bind", destination="/a", writable=False), "/h1"),
        Bind(MountRecord(kind="tmpfs", destination="/t", options="exec,size=1m"), ""),
        Bind(MountRecord(kind="bind", destination="/dev"), "/dev"),
    ]
    start = Start(
        hostname="h", identity=ROOT, binds=binds, files={"/etc/hosts": "/f/hosts", "/a": "/no"}
    )
    value = spec(HostConfig(readonly_rootfs=True), start=start)
    order = [m["destination"] for m in value["mounts"]]
    assert order == ["/proc", "/sys", "/sys/fs/cgroup", "/a", "/t", "/dev", "/etc/hosts", "/a/b/c"]
    assert options_of(value, "/a") == ["rbind", "rro", "rprivate"]
    assert options_of(value, "/a/b/c") == ["rbind", "rshared"]
    assert options_of(value, "/t") == ["nosuid", "nodev", "rprivate", "exec", "size=1m"]
    assert options_of(value, "/etc/hosts") == ["rbind", "rprivate", "ro"]
    assert value["linux"]["rootfsPropagation"] == "shared"
    assert value["root"]["readonly"] is True


def test_capabilities() -> None:
    def effective(add: list[str], drop: list[str]) -> tuple[str, ...]:
        return capabilities.effective(add, drop, privileged=False)

    assert "CAP_NET_ADMIN" in effective(["net_admin"], [])
    assert "CAP_CHOWN" not in effective([], ["CAP_CHOWN"])
    assert effective(["chown"], ["ALL"]) == ("CAP_CHOWN",)
    assert set(capabilities.known()) - set(effective(["all"], ["kill"])) == {"CAP_KILL"}
    with pytest.raises(InvalidParameter, match='invalid CapAdd: unknown capability: "CAP_NOPE"'):
        effective(["nope"], [])


def test_seccomp_follows_capabilities() -> None:
    def allowed(*caps: str) -> set[str]:
        profile = json.loads(bytes(seccomp.default(caps)))
        rules = profile["syscalls"]
        return {n for r in rules if r["action"] == "SCMP_ACT_ALLOW" for n in r["names"]}

    plain = allowed()
    assert {"read", "openat2", "socket", "clone"} <= plain
    assert not {"mount", "bpf", "keyctl", "ptrace_nope", "reboot", "io_uring_setup"} & plain
    admin = allowed("CAP_SYS_ADMIN")
    assert admin - plain >= {"mount", "clone3", "setns"}
    assert allowed("CAP_SYS_BOOT") - plain == {"reboot"}


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (0,), "/root")),
        ("user", Identity(1000, 1001, (1001, 29), "/home/user")),
        ("1000", Identity(1000, 1001, (1001, 29), "/home/user")),
        ("1000:0", Identity(1000, 0, (0,), "/home/user")),
        ("user:staff", Identity(1000, 50, (50,), "/home/user")),
        ("4242:77", Identity(4242, 77, (77,), "/")),
    ],
)
def test_users(user: str, expected: Identity) -> None:
    assert resolve(PASSWD, GROUP, user) == expected


@pytest.mark.parametrize("number", ["9" * 5000, "--5", "-", "+1", "\u0661", "1_0", " 1"])
def test_numbers_that_are_none(number: str) -> None:
    """What an image's passwd can hold: no number is nobody's, and no failure of ours."""
    passwd = f"root:x:0:0::/root:\nodd:x:{number}:{number}::/:\n".encode()
    assert resolve(passwd, f"odd:x:{number}:odd\n".encode(), "0").uid == 0
    with pytest.raises(System, match="no matching entries in passwd file"):
        resolve(PASSWD, GROUP, number)


def test_users_that_are_not_there() -> None:
    assert resolve(None, None, "5", ("29",)) == Identity(5, 0, (0, 29), "/")
    assert resolve(PASSWD, GROUP, "0", ("audio",)).gids == (0, 29)
    for user, extra, text in (
        ("who", (), "unable to find user who: no matching entries in passwd file"),
        ("user:none", (), "unable to find group none: no matching entries in group file"),
        ("", ("none",), "Unable to find group none"),
        ("4294967296", (), "uids and gids must be in range 0-2147483647"),
        ("-1", (), "uids and gids must be in range"),
    ):
        with pytest.raises(System, match=text):
            resolve(PASSWD, GROUP, user, extra)


def test_files_are_looked_up_through_layers(tmp_path: Path) -> None:
    for name, content in (("low", "low"), ("mid", "mid")):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc" / "passwd").write_text(content)
    (tmp_path / "up" / "etc").mkdir(parents=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "etc").symlink_to("/etc")
    folders = [str(tmp_path / name) for name in ("up", "mid", "low")]
    assert read_file(folders, "etc/passwd") == b"mid"
    assert read_file(folders[2:], "etc/passwd") == b"low"
    assert read_file(folders[:1], "etc/passwd", below=7) == 7
    assert read_file(folders, "etc/nothing") is None
    with pytest.raises(Unsure):
        read_file([str(tmp_path / "link")], "etc/passwd")
    (tmp_path / "up" / "etc" / "group").symlink_to("passwd")
    with pytest.raises(Unsure):
        read_file(folders, "etc/group")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "etc").write_text("no folder")
    assert read_file([str(tmp_path / "file"), folders[1]], "etc/passwd") is None


def test_where_layers_lie() -> None:
    overlay = Mount("overlay", "overlay", ("lowerdir=/b:/a", "upperdir=/u", "workdir=/w"))
    assert layers_of((overlay,)).upper == "/u"
    assert layers_of((overlay,)).lower == ("/b", "/a")
    assert layers_of((Mount("bind", "/x", ("rbind",)),)).upper == "/x"
    with pytest.raises(Unsure):
        layers_of((Mount("btrfs", "/dev/x"),))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("/h:/c", MountRecord(kind="bind", source="/h", destination="/c", propagation="rprivate")),
        (
            "/h/:/c/:ro,rshared",
            MountRecord(
                kind="bind",
                source="/h",
                destination="/c",
                mode="ro,rshared",
                writable=False,
                propagation="rshared",
            ),
        ),
        ("vol:/c:nocopy", MountRecord(kind="volume", name="vol", destination="/c", mode="nocopy")),
        ("/c", MountRecord(kind="volume", destination="/c", copy=True, anonymous=True)),
    ],
)
def test_binds(raw: str, expected: MountRecord) -> None:
    parsed = mountspec.parse_bind(raw, "")
    parsed = mountspec.with_propagation(parsed, "/data-root")
    assert replace(parsed, create=False) == expected


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("", "invalid volume specification: ''"),
        ("/a:/b:/c:/d", "invalid volume specification"),
        ("/a:rw", "invalid volume specification: '/a:rw'"),
        ("/a:/b:wrong", "invalid mode: wrong"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:b", "mount path must be absolute"),
        ("/a:/", "destination can't be '/'"),
        ("v:/b:rshared", "field BindOptions must not be specified"),
    ],
)
def test_binds_that_make_no_sense(raw: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        mountspec.parse_bind(raw, "")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (MountSpec(type="bind", target="/c"), "field Source must not be empty"),
        (MountSpec(type="bind", source="/", target=""), "field Target must not be empty"),
        (
            MountSpec(type="bind", source="/no/such/thing", target="/c"),
            'invalid mount config for type "bind": bind source path does not exist: /no/such/thing',
        ),
        (
            MountSpec(
                type="bind", source="/", target="/c", bind_options=BindOptions(propagation="odd")
            ),
            "invalid propagation mode: odd",
        ),
        (
            MountSpec(type="tmpfs", target="/c", volume_options=VolumeOptions()),
            "field VolumeOptions must not be specified",
        ),
        (MountSpec(type="tmpfs", source="x", target="/c"), "field Source must not be specified"),
        (
            MountSpec(
                type="volume", source="v", target="/c", volume_options=VolumeOptions(subpath="../x")
            ),
            "subpath must be a relative path within the volume",
        ),
        (MountSpec(type="odd", target="/c"), "mount type unknown"),
    ],
)
def test_mounts_that_make_no_sense(wrong: MountSpec, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        mountspec.parse_mount(wrong)


def test_tmpfs_and_duplicates() -> None:
    assert mountspec.tmpfs_data(TmpfsOptions(size_bytes=3 << 20, mode=0o700), True) == (
        "ro,mode=700,size=3m"
    )
    with pytest.raises(InvalidParameter, match="Duplicate mount point: /c"):
        mountspec.asked_for(HostConfig(binds=["/a:/c"], tmpfs={"/c/": ""}))
    with pytest.raises(InvalidParameter, match=r'^invalid tmpfs option "nonsense=1"$'):
        mountspec.parse_tmpfs("/t", "nonsense=1")


@pytest.mark.parametrize(
    ("bind", "propagation"),
    [
        ("/data:/c", "rprivate"),
        ("/data/root:/c", "rslave"),
        ("/data/root/containers:/c", "rslave"),
        ("/:/c", "rslave"),
        ("/data/root/x:/c:rshared", "rshared"),
        ("/data/root/x:/c:private", ""),
    ],
)
def test_binds_of_the_daemons_own_folder(bind: str, propagation: str) -> None:
    parsed = mountspec.parse_bind(bind, "")
    if propagation:
        related = bind != "/data:/c"
        root = "/data/root" if related else "/other"
        assert mountspec.with_propagation(parsed, root).propagation == propagation
    else:
        with pytest.raises(InvalidParameter, match="within the daemon root"):
            mountspec.with_propagation(parsed, "/data/root")
