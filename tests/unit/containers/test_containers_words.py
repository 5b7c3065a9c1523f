"""Times, spans, signals, detach keys, log options and validation, in Docker's words."""

from __future__ import annotations

import asyncio
import time

import pytest

from gantry.containers import keys, logconfig, validate
from gantry.containers.archives import go_mode
from gantry.containers.clock import human, parse_duration, parse_moment, rfc3339
from gantry.containers.settings import Settings
from gantry.containers.signals import parse_signal
from gantry.containers.top import parse
from gantry.model.container import (
    ContainerConfig,
    HealthConfig,
    HostConfig,
    PortBinding,
    RestartPolicy,
    Ulimit,
)
from gantry.model.errors import InvalidParameter, System

SETTINGS = Settings(data_root="/data", exec_root="/run/x")


def test_times() -> None:
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
    assert rfc3339(1_500_000_000) == "1970-01-01T00:00:01.5Z"
    assert rfc3339(1_000_000_000) == "1970-01-01T00:00:01Z"
    assert parse_duration("1h30m1.5s") == 5401.5
    assert parse_duration("-10ms") == -0.01
    for wrong in ("", "1", "1x", "h"):
        with pytest.raises(ValueError, match="invalid duration"):
            parse_duration(wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", 1_700_000_000_000_000_000),
        ("1.000000005", 1_000_000_005),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        ("2023-11-14T22:13:20.5Z", 1_700_000_000_500_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000_000_000),
        ("10m", 400_000_000_000),
    ],
)
def test_moments(text: str, expected: int) -> None:
    assert parse_moment(text, now_ns=1_000_000_000_000) == expected


def test_moments_that_are_none() -> None:
    for wrong in ("yesterday", "2023-13-45", "12:30"):
        with pytest.raises(InvalidParameter, match=r"parsing time|failed to parse value"):
            parse_moment(wrong)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.3, "Less than a second"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (49 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (70 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert human(seconds) == words


def test_signals() -> None:
    assert [parse_signal(s) for s in ("9", "KILL", "SIGTERM", "sigrtmin+3", "RTMAX-1")] == [
        9,
        9,
        15,
        37,
        63,
    ]
    for wrong in ("0", "65", "NOPE", "", "-9"):
        text = "does not support signal" if wrong in ("65", "-9") else "invalid signal"
        with pytest.raises(InvalidParameter, match=text):
            parse_signal(wrong)


class Sink:
    def __init__(self) -> None:
        self.data = b""
        self.closed = False

    async def read(self) -> bytes:
        return b"x"

    async def write(self, data: bytes) -> None:
        self.data += data

    async def close_stdin(self) -> None:
        return

    async def close(self) -> None:
        self.closed = True


def test_detach_keys() -> None:
    assert keys.parse(None) == b"\x10\x11"
    assert keys.parse("ctrl-a,b,ctrl-@") == b"\x01b\x00"
    with pytest.raises(InvalidParameter, match="Invalid detach keys"):
        keys.parse("ctrl-1")

    async def scenario() -> None:
        sink = Sink()
        stream = keys.KeyStream(sink, b"\x10\x11")
        await stream.write(b"ab\x10")
        assert sink.data == b"ab"  # held back: it may be the beginning
        await stream.write(b"c\x10\x10x")
        assert sink.data == b"ab\x10c\x10\x10x"
        assert await stream.read() == b"x"
        await stream.write(b"y\x10\x11never")
        assert (sink.data[-1:], sink.closed, stream.detached) == (b"y", True, True)
        assert await stream.read() == b""

    asyncio.run(scenario())


def test_log_options() -> None:
    assert [logconfig.size(t) for t in ("10", "10k", "1.5m", "2GB", "-1")] == [
        10,
        10240,
        1572864,
        2 << 30,
        0,
    ]
    for driver, options, text in (
        ("json-file", {"nope": "1"}, "unknown log opt 'nope' for json-file log driver"),
        ("local", {"labels": "a"}, "unknown log opt 'labels' for log driver local"),
        ("json-file", {"max-file": "0", "max-size": "1k"}, "max-file cannot be less than 1"),
        ("json-file", {"max-size": "much"}, "invalid size"),
        ("json-file", {"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("odd", {}, 'error looking up logging plugin odd: plugin "odd" not found'),
        ("fluentd", {"fluentd-buffer-limit": "x"}, "invalid size: 'x'"),
        ("json-file", {"mode": "odd"}, "logging mode not supported: odd"),
    ):
        with pytest.raises(InvalidParameter, match=text):
            logconfig.check(driver, options)
    logconfig.check("json-file", {"max-size": "10m", "max-file": "3", "mode": "non-blocking"})


@pytest.mark.parametrize(
    ("host", "text"),
    [
        (HostConfig(memory=1), "Minimum memory limit allowed is 6MB"),
        (HostConfig(memory=8 << 20, memory_swap=7 << 20), "should be larger than memory limit"),
        (HostConfig(memory_swap=7 << 20), "You should always set the Memory limit"),
        (HostConfig(nano_cpus=1, cpu_quota=1000), "Nano CPUs and CPU Quota cannot both be set"),
        (HostConfig(nano_cpus=10**12), "ange of CPUs is from 0.01 to"),
        (HostConfig(cpu_period=1), "CPU cfs period can not be less than 1ms"),
        (HostConfig(cpuset_cpus="999"), "Requested CPUs are not available - requested 999"),
        (HostConfig(cpuset_cpus="a"), "Invalid value a for cpuset cpus"),
        (HostConfig(blkio_weight=5), "Range of blkio weight is from 10 to 1000"),
        (HostConfig(memory_swappiness=101), "valid memory swappiness range is 0-100"),
        (HostConfig(pid_mode="odd"), "invalid PID mode: odd"),
        (HostConfig(ipc_mode="container:"), "invalid IPC mode: container:"),
        (HostConfig(uts_mode="x"), "invalid UTS mode: x"),
        (HostConfig(cgroupns_mode="x"), "invalid cgroup namespace mode: x"),
        (HostConfig(oom_score_adj=2000), "range for oom score adj is"),
        (HostConfig(shm_size=-1), "SHM size can not be less than 0"),
        (HostConfig(runtime="odd"), "unknown or invalid runtime name: odd"),
        (HostConfig(extra_hosts=["a"]), 'bad format for add-host: "a"'),
        (HostConfig(extra_hosts=["a:b"]), 'invalid IP address in add-host: "b"'),
        (HostConfig(port_bindings={"x": []}), "invalid JSON: invalid port 'x': invalid syntax"),
        (
            HostConfig(port_bindings={"80/tcp": [PortBinding(host_port="a")]}),
            'invalid port specification: "a"',
        ),
        (HostConfig(restart_policy=RestartPolicy(name="odd")), "unknown policy 'odd'"),
        (
            HostConfig(restart_policy=RestartPolicy(name="no", maximum_retry_count=1)),
            "maximum retry count can only be used with 'on-failure'",
        ),
        (
            HostConfig(auto_remove=True, restart_policy=RestartPolicy(name="always")),
            "can't create 'AutoRemove' container with restart policy",
        ),
        (HostConfig(device_cgroup_rules=["x"]), "invalid device cgroup rule format: 'x'"),
        (HostConfig(ulimits=[Ulimit(name="odd")]), "invalid ulimit type: odd"),
        (HostConfig(isolation="hyperv"), "invalid isolation 'hyperv' on linux"),
    ],
)
def test_host_configurations_that_make_no_sense(host: HostConfig, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        validate.host_config(host, SETTINGS)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (ContainerConfig(hostname="h" * 65), "is too long"),
        (ContainerConfig(working_dir="relative"), "it needs to be an absolute path"),
        (ContainerConfig(env=["=x"]), "invalid environment variable: =x"),
        (ContainerConfig(stop_signal="NOPE"), "invalid signal: NOPE"),
        (
            ContainerConfig(healthcheck=HealthConfig(interval=1)),
            "Interval in Healthcheck cannot be less than 1ms",
        ),
        (ContainerConfig(volumes={"/": {}}), "invalid volume specification"),
    ],
)
def test_configurations_that_make_no_sense(config: ContainerConfig, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        validate.config(config)


def test_warnings() -> None:
    host = HostConfig(
        network_mode="host", port_bindings={"80/tcp": None}, oom_kill_disable=True, cpu_percent=5
    )
    texts = validate.host_config(host, SETTINGS)
    assert [text.split()[0] for text in texts] == ["OOM", "linux", "Published"]
    assert validate.config(ContainerConfig(working_dir="/a//b/../c/")).working_dir == "/a/c"


def test_ps() -> None:
    output = "UID  PID CMD\nroot 1 init a b\nroot 7 mine x  y\n- - thread\n"
    assert parse(output, {7}) == {
        "Titles": ["UID", "PID", "CMD"],
        "Processes": [["root", "7", "mine x y"], ["-", "-", "thread"]],
    }
    with pytest.raises(System, match="Couldn't find PID field in ps output"):
        parse("A B\n", set())


def test_file_modes_of_go() -> None:
    assert go_mode(0o100644) == 0o644
    assert go_mode(0o040755) == 1 << 31 | 0o755
    assert go_mode(0o120777) == 1 << 27 | 0o777
    assert go_mode(0o104755) == 1 << 23 | 0o755
    assert go_mode(0o020600) == 1 << 26 | 1 << 21 | 0o600


def test_now_is_now() -> None:
    assert abs(parse_moment("0s") - time.time_ns()) < 10**9
