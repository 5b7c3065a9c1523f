"""Fixtures of the black-box suite: a runtime of each kind, a bundle for each test."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.oci.bundles import BUSYBOX, Bundle, Runtime, commands, make_root


def _params() -> list[object]:
    found: list[object] = []
    for name in commands():
        # Others' runtimes prove the suite, not gantry: `make test-oci` runs it on them.
        mark = pytest.mark.integration if name == "gantry-runc" else pytest.mark.oci_peer
        found.append(pytest.param(name, id=name, marks=mark))
    return found


SECONDS = 150


@pytest.fixture(autouse=True)
def no_hanging() -> Iterator[None]:
    """A test here takes a second; a runtime that hangs is to fail its test, not the run."""

    def ring(*_: object) -> None:
        pytest.fail(f"not done after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def root_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not os.path.exists(BUSYBOX):
        pytest.skip("needs busybox-static")
    return make_root(tmp_path_factory.mktemp("template"))


@pytest.fixture(params=_params())
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    name = str(request.param)
    made = Runtime(name, commands()[name], tmp_path / "state")
    made.root.mkdir()
    yield made
    made.clean()


@pytest.fixture
def bundle(tmp_path: Path, root_template: Path) -> Iterator[Bundle]:
    folder = tmp_path / "bundle"
    folder.mkdir()
    # Whoever is root in a user namespace must be able to get here.
    for parent in (folder, *folder.parents[:3]):
        if str(parent).startswith(str(tmp_path.parent.parent)):
            parent.chmod(0o755)
    yield Bundle(folder, root_template)
    shutil.rmtree(folder / "rootfs", ignore_errors=True)
