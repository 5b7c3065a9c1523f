"""AppArmor's profile: when containers have one, and that it is one."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gantry.containers.settings import Settings
from gantry.containers.spec.security import apparmor_profile
from gantry.daemon import apparmor
from gantry.model.container import HostConfig

WITHOUT = Settings(data_root="/data", exec_root="/run/x")
WITH = replace(WITHOUT, apparmor=apparmor.PROFILE)


def kernel(root: Path, enabled: str, *profiles: str) -> str:
    """/sys of a kernel with AppArmor."""
    module = root / "sys/module/apparmor/parameters"
    security = root / "sys/kernel/security/apparmor"
    module.mkdir(parents=True)
    security.mkdir(parents=True)
    (module / "enabled").write_text(enabled)
    (security / "profiles").write_text("".join(f"{name} (enforce)\n" for name in profiles))
    return str(root)


def test_where_there_is_none(tmp_path: Path) -> None:
    assert apparmor.default_profile(str(tmp_path)) == ""
    assert apparmor.default_profile(kernel(tmp_path, "N\n", apparmor.PROFILE)) == ""


def test_what_is_loaded_is_taken(tmp_path: Path) -> None:
    root = kernel(tmp_path, "Y\n", "unrelated", apparmor.PROFILE)
    assert apparmor.default_profile(root) == apparmor.PROFILE


def test_what_is_not_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    monkeypatch.setattr(apparmor, "load", lambda: loads.append(1))
    assert apparmor.default_profile(kernel(tmp_path, "Y\n", "docker")) == apparmor.PROFILE
    assert loads == [1]


def test_what_cannot_be_loaded_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert apparmor.default_profile(kernel(tmp_path, "Y\n")) == ""
    assert "containers run without AppArmor" in caplog.text


@pytest.mark.skipif(
    shutil.which("apparmor_parser", path="/usr/sbin:/sbin") is None or os.geteuid() != 0,
    reason="needs root and the package apparmor",
)
def test_the_parser_understands_it() -> None:
    apparmor.load("--skip-kernel-load", "--skip-read-cache")


@pytest.mark.parametrize(
    ("host", "profile"),
    [
        (HostConfig(), apparmor.PROFILE),
        (HostConfig(privileged=True), "unconfined"),
        (HostConfig(security_opt=["apparmor=mine"]), "mine"),
        (HostConfig(security_opt=["apparmor:unconfined"]), "unconfined"),
        (HostConfig(security_opt=["apparmor=mine"], privileged=True), "mine"),
    ],
)
def test_which_one(host: HostConfig, profile: str) -> None:
    assert apparmor_profile(host, WITH) == profile
    assert apparmor_profile(host, WITHOUT) == ""
