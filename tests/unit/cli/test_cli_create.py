"""From the flags of run to the body of a create request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gantry.cli import mounts, ports
from gantry.cli.create_flags import RUN_FLAGS
from gantry.cli.create_request import build
from gantry.cli.flags import parse


def body(*words: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    options, rest = parse(RUN_FLAGS, [*words, "busybox"], interspersed=False)
    return build(options, rest[0], rest[1:], environment or {})


def test_nothing_but_an_image() -> None:
    made = body()
    assert made["Image"] == "busybox"
    assert made["Cmd"] is None
    assert made["Entrypoint"] is None
    assert (made["AttachStdin"], made["AttachStdout"], made["AttachStderr"]) == (False, True, True)
    assert made["HostConfig"]["NetworkMode"] == "default"
    assert made["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}


def test_interactive() -> None:
    made = body("-it")
    assert made["Tty"] and made["OpenStdin"] and made["StdinOnce"] and made["AttachStdin"]


def test_attach_one_stream() -> None:
    made = body("-a", "STDERR")
    assert (made["AttachStdout"], made["AttachStderr"]) == (False, True)
    with pytest.raises(ValueError, match="valid streams are STDIN, STDOUT and STDERR"):
        body("-a", "stdwhat")


def test_entrypoint_can_be_emptied() -> None:
    assert body("--entrypoint", "")["Entrypoint"] == [""]
    assert body("--entrypoint", "/x")["Entrypoint"] == ["/x"]


def test_variables(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\n  B=2 3\nHERE\nNOTHERE\n")
    made = body(
        "-e", "C=3", "-e", "HERE", "-e", "NOTHERE", "--env-file", str(file),
        environment={"HERE": "yes"},
    )  # fmt: skip
    assert made["Env"] == ["A=1", "B=2 3", "HERE=yes", "C=3", "HERE=yes"]


def test_bad_variables(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("A B=1\n")
    with pytest.raises(ValueError, match="variable 'A B' contains whitespaces"):
        body("--env-file", str(file))
    with pytest.raises(ValueError, match="open /nosuch: no such file or directory"):
        body("--env-file", "/nosuch")
    with pytest.raises(ValueError, match="invalid environment variable: =x"):
        body("-e", "=x")


def test_volumes() -> None:
    made = body("-v", "/data", "-v", "/a:/b:ro", "-v", "named:/c", "-v", "./x:/d")
    assert made["Volumes"] == {"/data": {}}
    assert made["HostConfig"]["Binds"] == ["/a:/b:ro", "named:/c", f"{Path.cwd()}/x:/d"]


def test_limits() -> None:
    host = body("-m", "64m", "--cpus", "1.5", "--pids-limit", "9", "--ulimit", "nofile=1:2")[
        "HostConfig"
    ]
    assert host["Memory"] == 64 << 20
    assert host["NanoCpus"] == 1_500_000_000
    assert host["PidsLimit"] == 9
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]


def test_network() -> None:
    host = body("--network", "host")["HostConfig"]
    assert host["NetworkMode"] == "host"
    made = body("--network", "name=back,alias=db,ip=10.0.0.9")
    assert made["HostConfig"]["NetworkMode"] == "back"
    assert made["NetworkingConfig"]["EndpointsConfig"]["back"] == {
        "Aliases": ["db"],
        "IPAMConfig": {"IPv4Address": "10.0.0.9"},
    }
    two = body("--network", "a", "--network", "b", "--network-alias", "x")
    assert two["NetworkingConfig"]["EndpointsConfig"] == {"a": {"Aliases": ["x"]}, "b": {}}


def test_health() -> None:
    made = body("--health-cmd", "true", "--health-interval", "5s", "--health-retries", "2")
    assert made["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000, "Retries": 2
    }  # fmt: skip
    assert body("--no-healthcheck")["Healthcheck"] == {"Test": ["NONE"]}


def test_seccomp_profile_is_sent_by_value(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }')
    host = body("--security-opt", f"seccomp={profile}", "--security-opt", "no-new-privileges")[
        "HostConfig"
    ]
    assert host["SecurityOpt"] == [
        'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}',
        "no-new-privileges",
    ]


def test_system_paths_are_opened() -> None:
    host = body("--security-opt", "systempaths=unconfined")["HostConfig"]
    assert host["MaskedPaths"] == []
    assert host["SecurityOpt"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--restart", "always", "--rm"], "cannot specify both --restart and --rm"),
        (["-p", "99999999:1"], "invalid hostPort: 99999999"),
        (["-p", "80-81:80-82"], "invalid ranges specified for container and host Ports"),
        (["-p", "1.2.3.4.5:80:80"], "invalid IP address: 1.2.3.4.5"),
        (["-p", "80:80/icmp"], "invalid proto: icmp"),
        (["-p", ":"], "no port specified: :<empty>"),
        (["--expose", "x"], "invalid range format for --expose: x"),
        (["--mac-address", "zz"], "zz is not a valid mac address"),
        (["--memory-swappiness", "101"], "Valid memory swappiness range is 0-100"),
        (["--ulimit", "nofile"], "invalid ulimit argument: nofile"),
        (["--device", "/dev/x:/dev/y:q"], "bad mode specified: q"),
        (["--device", "a:b:c:d"], "bad format for path: a:b:c:d"),
        (["--add-host", "x"], "bad format for add-host"),
        (["--dns", "x"], "IP address is not correctly formatted: x"),
        (["--network-alias", "x"], "only supported for user-defined networks"),
        (["--network", "a", "--network", "host"], "cannot attach both user-defined and"),
        (["--network", "a", "--network", "a"], 'network "a" is specified multiple times'),
        (["--pid", "x"], "--pid: invalid PID mode"),
        (["--no-healthcheck", "--health-cmd", "x"], "--no-healthcheck conflicts with --health"),
        (["--storage-opt", "x"], "invalid storage option"),
        (["--security-opt", "x"], 'invalid --security-opt: "x"'),
        (["--log-driver", "none", "--log-opt", "a=b"], "invalid logging opts for driver none"),
        (["--mount", "type=bind"], "target is required"),
        (["--mount", "type=bind,dst=/a,volume-nocopy"], "cannot mix 'volume-\\*' options"),
        (["-v", ":/x"], "empty section between colons"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        body(*words)


def test_ports() -> None:
    exposed, bindings = ports.parse_publish(
        ["8080:80", "127.0.0.1::53/udp", "[::1]:1-2:3-4", "9000-9010:90", "7",
         "published=6,target=5,protocol=udp"]
    )  # fmt: skip
    assert sorted(exposed) == ["3/tcp", "4/tcp", "5/udp", "53/udp", "7/tcp", "80/tcp", "90/tcp"]
    assert bindings["80/tcp"] == [{"HostIp": "", "HostPort": "8080"}]
    assert bindings["53/udp"] == [{"HostIp": "127.0.0.1", "HostPort": ""}]
    assert bindings["4/tcp"] == [{"HostIp": "::1", "HostPort": "2"}]
    assert bindings["90/tcp"] == [{"HostIp": "", "HostPort": "9000-9010"}]
    assert bindings["5/udp"] == [{"HostIp": "", "HostPort": "6"}]


def test_port_column() -> None:
    def port(private: int, public: int = 0, address: str = "") -> dict[str, object]:
        return {"PrivatePort": private, "PublicPort": public, "IP": address, "Type": "tcp"}

    published = [port(81, 81, "0.0.0.0"), port(80, 80, "0.0.0.0"), port(80, 80, "::")]
    assert ports.display([*published, port(90), port(1, 8, "0.0.0.0")]) == (
        "0.0.0.0:80-81->80-81/tcp, [::]:80->80/tcp, 90/tcp, 0.0.0.0:8->1/tcp"
    )


def test_mounts() -> None:
    assert mounts.parse_mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rshared") == {
        "Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True,
        "BindOptions": {"Propagation": "rshared"},
    }  # fmt: skip
    assert mounts.parse_mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770") == {
        "Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}
    }  # fmt: skip
    volume = mounts.parse_mount('src=v,dst=/v,volume-opt=a=b,"volume-opt=o=addr=1,rw"')
    assert volume["VolumeOptions"] == {"DriverConfig": {"Options": {"a": "b", "o": "addr=1,rw"}}}
