"""Registries without TLS: refused, but for this host's own and those that are named insecure."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.engine import Engine
from tests.support.machine import LAN_ADDRESS
from tests.support.registries import DebianRegistry
from tests.support.wait import eventually

pytestmark = pytest.mark.compat


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("daemon") / "daemon.json"
    file.write_text("{}")
    return file


@pytest.fixture(scope="module")
def machine(configuration: Path) -> Iterator[Engine]:
    with Engine("gantry", ("--config-file", str(configuration))) as engine:
        engine.add_image()
        yield engine


@pytest.fixture(scope="module")
def registry(machine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianRegistry]:
    """On another host of the engine's LAN."""
    root = tmp_path_factory.mktemp("registry")
    with DebianRegistry(root, address=LAN_ADDRESS, within=machine.machine.lan) as one:
        yield one


def test_named_insecure_while_the_engine_runs(
    machine: Engine, registry: DebianRegistry, configuration: Path
) -> None:
    cli, name = machine.cli(), f"{registry.host}/busybox:1"
    cli("tag", "busybox", name).ok()
    answered = "http: server gave HTTP response to HTTPS client"
    for verb in ("push", "pull"):
        cli(verb, name).failed(1, answered)
    cli("login", "-u", "me", "-p", "x", registry.host).failed(1, answered)
    assert registry.request("GET", "/v2/_catalog")[1] == b'{"repositories":[]}\n'

    named = str(LAN_ADDRESS.rpartition(".")[0]) + ".0/24"
    configuration.write_text(json.dumps({"insecure-registries": [named, "other.example:5000"]}))
    os.kill(machine.pid, signal.SIGHUP)
    shown = "{{json .RegistryConfig.InsecureRegistryCIDRs}} {{json .RegistryConfig.IndexConfigs}}"
    eventually(lambda: named in cli("info", "-f", shown).ok(), "insecure registries")
    assert "other.example:5000" in cli("info", "-f", shown).ok()

    cli("push", name).ok()
    assert registry.request("GET", "/v2/_catalog")[1] == b'{"repositories":["busybox"]}\n'
    cli("rmi", name).ok()
    cli("pull", name).ok()
    assert cli("run", "--rm", name, "echo", "here").ok() == "here"

    configuration.write_text("{}")
    os.kill(machine.pid, signal.SIGHUP)
    eventually(lambda: named not in cli("info", "-f", shown).ok(), "as before")
    cli("pull", name).failed(1, answered)
