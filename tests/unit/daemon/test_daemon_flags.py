"""gantryd's options: flags as pflag reads them, daemon.json, and dockerd's complaints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gantry.containers.settings import Runtime
from gantry.daemon.choices import (
    container_settings,
    min_api_version,
    network_settings,
    registry_settings,
)
from gantry.daemon.flags import CommandLine, parse, parse_size, usage
from gantry.daemon.main import run
from gantry.daemon.options import OPTIONS
from gantry.model.errors import InvalidParameter


@pytest.fixture
def empty(tmp_path: Path) -> str:
    path = tmp_path / "daemon.json"
    path.write_text("{}")
    return str(path)


def parsed(config: str, *words: str) -> CommandLine:
    return parse(["--config-file", config, *words])


def test_forms_of_flags(empty: str) -> None:
    options = parsed(
        empty,
        *("-H", "unix:///a", "-Htcp://b", "--host=fd://", "-D", "-l", "warn", "-p=/p"),
        *("--icc=false", "--mtu", "1400", "--default-shm-size", "1g", "--log-opt", "max-size=1m"),
        *("--add-runtime", "x=/bin/x", "--default-ulimit", "nofile=10:20"),
        *("--default-address-pool", "base=10.0.0.0/8,size=24"),
    ).options
    assert options.words("hosts") == ("unix:///a", "tcp://b", "fd://")
    assert options.flag("debug") is True
    assert options.text("log-level") == "warn"
    assert options.text("pidfile") == "/p"
    assert options.flag("icc") is False
    assert options.number("mtu") == 1400
    assert options.number("default-shm-size") == 1 << 30
    assert options.mapping("log-opts") == {"max-size": "1m"}
    assert options.flag("ip-masq") is True
    assert not options.given("ip-masq")
    networks = network_settings(options)
    assert (networks.icc, networks.mtu) == (False, 1400)
    assert networks.default_address_pools == (("10.0.0.0/8", 24),)
    settings = container_settings(options)
    assert settings.runtime("x").path == "/bin/x"
    assert settings.default_ulimits["nofile"].hard == 20


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--odd",), "unknown flag: --odd"),
        (("-z",), "unknown shorthand flag: 'z' in -z"),
        (("stray",), 'unknown command: "stray"'),
        (("--mtu", "x"), 'invalid argument "x" for "--mtu" flag'),
        (("--icc=maybe",), 'invalid argument "maybe" for "--icc" flag'),
        (("--data-root",), "flag needs an argument: --data-root"),
        (("-l", "loud"), "invalid logging level: loud"),
        (("--firewall-backend", "pf"), 'invalid firewall-backend "pf"'),
        (("--label", "x"), "bad attribute format: x"),
        (("--exec-opt", "a=b"), "Unknown option to --exec-opt: a"),
        (("--max-download-attempts", "0"), "invalid max download attempts: 0"),
        (("--default-ulimit", "nofile=x"), "invalid ulimit argument: nofile=x"),
    ],
)
def test_flags_that_make_no_sense(empty: str, words: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        parsed(empty, *words)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"odd": 1, "bad": 2}', "don't match any configuration option: bad, odd"),
        ('{"debug": "yes"}', "cannot unmarshal string into Go struct field Config.debug"),
        ('{"mtu": true}', "cannot unmarshal bool"),
        ("[]", "the file must hold one JSON object"),
        ("{", "unable to configure the Docker daemon with file"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(content)
    with pytest.raises(InvalidParameter, match=text):
        parsed(str(path))


@pytest.mark.parametrize("backend", ["nftables", "iptables", "iptables-nft", "iptables-legacy"])
def test_every_firewall_backend_can_be_chosen(empty: str, backend: str) -> None:
    options = parsed(empty, "--firewall-backend", backend).options
    assert network_settings(options).firewall_backend == backend


def test_file_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    content = {
        "debug": True,
        "labels": ["a=b"],
        "hosts": ["unix:///x"],
        "proxies": {"http-proxy": "http://p"},
        "insecure-registries": ["r:5000"],
    }
    path.write_text(json.dumps(content))
    options = parsed(str(path), "--mtu", "9000").options
    assert options.flag("debug")
    assert options.words("labels") == ("a=b",)
    registries = registry_settings(options)
    assert registries.insecure("r:5000")
    assert registries.proxies.http == "http://p"
    with pytest.raises(
        InvalidParameter,
        match=r"specified both as a flag and in the configuration file: debug: \(from flag: true,",
    ):
        parsed(str(path), "-D")
    with pytest.raises(InvalidParameter, match="no such file or directory"):
        parsed(str(tmp_path / "nothing.json"))


def test_sizes() -> None:
    assert [parse_size(t) for t in ("1", "1k", "1.5M", "2gb", "1GiB")] == [
        1,
        1024,
        1572864,
        2 << 30,
        1 << 30,
    ]
    with pytest.raises(InvalidParameter, match="invalid size: 'much'"):
        parse_size("much")


def test_help_and_version(capsys: pytest.CaptureFixture[str], empty: str) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gantryd version ")
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown == usage()
    assert all(f"--{option.flag}" in shown for option in OPTIONS if option.flag)
    assert run(["--config-file", empty, "--validate"]) == 0
    assert capsys.readouterr().out == "configuration OK\n"
    assert run(["--nope"]) == 1
    assert capsys.readouterr().err.startswith("gantryd: unknown flag: --nope")


def with_runtime(tmp_path: Path, entry: object, *words: str) -> Runtime:
    config = tmp_path / "daemon.json"
    config.write_text(json.dumps({"runtimes": {"mine": entry}}))
    return container_settings(parsed(str(config), *words).options).runtime("mine")


CONTAINERD = ("--containerd", "/run/containerd/containerd.sock")


def test_runtimes_by_type(tmp_path: Path) -> None:
    runc = {"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": "/opt/crun"}}
    assert with_runtime(tmp_path, runc).path == "/opt/crun"
    kata = {"runtimeType": "io.containerd.kata.v2", "options": {"ConfigPath": "/k"}}
    found = with_runtime(tmp_path, kata, *CONTAINERD)
    assert (found.type, found.path, found.options) == (
        "io.containerd.kata.v2",
        "",
        {"ConfigPath": "/k"},
    )
    with pytest.raises(InvalidParameter, match=r"kata\.v2 needs a containerd \(--containerd\)"):
        with_runtime(tmp_path, kata)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({}, "runtime mine: either a runtimeType or a path must be configured"),
        ("/bin/x", "runtime mine: either a runtimeType or a path must be configured"),
        (
            {"path": "/x", "runtimeType": "a.b"},
            "runtime mine: cannot configure both path and runtimeType for the same runtime",
        ),
        (
            {"path": "/x", "options": {"a": 1}},
            "runtime mine: options cannot be used with a path runtime",
        ),
        (
            {"runtimeType": "a.b", "runtimeArgs": ["x"]},
            "runtime mine: args cannot be used with a runtimeType runtime",
        ),
    ],
)
def test_runtimes_that_make_no_sense(tmp_path: Path, entry: object, text: str) -> None:
    with pytest.raises(InvalidParameter) as failed:
        with_runtime(tmp_path, entry, *CONTAINERD)
    assert str(failed.value) == text


def test_runtimes_of_containerd_need_one(empty: str) -> None:
    name = "io.containerd.kata.v2"
    settings = container_settings(parsed(empty, *CONTAINERD).options)
    assert settings.runtime(name).type == name
    for bad in ("kata", "/bin/sh", "a/b.c", ".v2", "a."):
        with pytest.raises(InvalidParameter, match="unknown or invalid runtime name"):
            settings.runtime(bad)
    with pytest.raises(InvalidParameter, match="unknown or invalid runtime name"):
        container_settings(parsed(empty).options).runtime(name)


def test_the_file_of_docker_s_documentation(tmp_path: Path) -> None:
    """Every key that dockerd knows is taken, while it says nothing that is not there."""
    file = tmp_path / "daemon.json"
    known: dict[str, object] = {
        "authorization-plugins": [],
        "builder": {"gc": {"enabled": True, "policy": [{"keepStorage": "10GB"}]}},
        "containerd-plugin-namespace": "plugins.moby",
        "cpu-rt-period": 0,
        "dns": [],
        "icc": False,
        "log-level": "",
        "max-concurrent-downloads": 0,
        "default-stop-timeout": 3,
        "features": {"cdi": True, "containerd-snapshotter": True},
        "host-gateway-ip": "192.0.2.9",
        "min-api-version": "1.44",
        "nri-opts": {},
        "proxies": {"http-proxy": "http://proxy.example.com:80", "no-proxy": "example.org"},
        "resolv-conf": "/run/resolv.conf",
        "rootless": False,
        "runtimes": {"custom": {"path": "/usr/bin/custom", "runtimeArgs": ["--debug"]}},
        "swarm-raft-election-tick": 0,
        "userns-remap": "",
    }
    file.write_text(json.dumps(known))
    options = parsed(str(file)).options
    assert (options.text("log-level"), options.number("max-concurrent-downloads")) == ("info", 3)
    assert not options.flag("icc")
    assert container_settings(options).default_stop_timeout == 3
    assert network_settings(options).host_gateway_ips == ("192.0.2.9",)
    assert network_settings(options).resolv_conf == "/run/resolv.conf"
    assert min_api_version(options) == 44


@pytest.mark.parametrize(
    "words",
    [
        ("--authorization-plugin", "guard"),
        ("--userns-remap", "default"),
        ("--rootless",),
        ("--cpu-rt-period=1000",),
    ],
)
def test_what_protects_somebody_is_not_passed_over(empty: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidParameter, match="is not supported yet"):
        parsed(empty, *words)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("v1.44", 'must be provided without "v" prefix'),
        ("1.12", "minimum supported API version is 1.24: 1.12"),
        ("1.99", "maximum supported API version is 1.55: 1.99"),
        ("new", "not an API version: new"),
    ],
)
def test_the_oldest_api_version(
    empty: str, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    options = parsed(empty).options
    assert min_api_version(options) == 24
    monkeypatch.setenv("DOCKER_MIN_API_VERSION", "1.40")
    assert min_api_version(options) == 40
    monkeypatch.setenv("DOCKER_MIN_API_VERSION", text)
    with pytest.raises(InvalidParameter, match=f"invalid DOCKER_MIN_API_VERSION: .*{problem}"):
        min_api_version(options)
