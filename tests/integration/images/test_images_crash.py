"""`kill -9` at every step of load, import, commit, rmi, prune and pull.

After each, a restart finds every image that is listed whole and nothing that nobody refers to,
and the same verb, done again, gets to its end.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.support.crashbox import Crashes
from tests.support.imagebox import docker_archive, layer
from tests.support.ownregistry import own_registry

pytestmark = pytest.mark.integration

BASE = layer({"etc": None, "etc/os": "base", "gone": "x", "deep/er/folder/file": "f"})
MIDDLE = layer({"etc/os": "middle", "deep/.wh.er": b"", ".wh.gone": b"", "deep/new": "n"})
TOP = layer({"top": "t" * 100_000})
AGAIN = 8
"""After every so many crashes the verb is done again; it takes as long as all the rest."""
MOST = 400
"""Steps that no verb here has."""


@pytest.fixture(scope="module")
def crashes() -> Iterator[Crashes]:
    with Crashes() as warm:
        yield warm


@pytest.fixture
def box(tmp_path: Path, crashes: Crashes) -> Path:
    """A box with the images `base:1`, `other:1` and a container on the first."""
    root = tmp_path / "box"
    root.mkdir()
    (tmp_path / "base.tar").write_bytes(docker_archive([BASE, MIDDLE], ["base:1"]))
    (tmp_path / "other.tar").write_bytes(docker_archive([BASE, TOP], ["other:1"]))
    for name in ("base", "other"):
        crashes.run(root, "load", {"archive": str(tmp_path / f"{name}.tar")})
    return root


def everywhere(
    crashes: Crashes,
    box: Path,
    verb: str,
    before: set[str],
    after: set[str],
    options: Mapping[str, str],
) -> int:
    """Kill at step 1, 2, 3 … until the verb gets through; how many steps there were."""
    for at in range(1, MOST):
        copy = box.with_name("copy")
        subprocess.run(["cp", "-a", str(box), str(copy)], check=True)
        through = crashes.run(copy, verb, options, at)
        found = crashes.look(copy)
        where = f"{verb}, killed before step {at}: {json.dumps(found)}"
        assert found["damage"] == [], where
        assert found["strays"] == [], where
        names = set(found["names"])
        assert names in (before, after), where
        if at % AGAIN == 0 or through:
            if names == before:
                crashes.run(copy, verb, options)
            again = crashes.look(copy)
            assert (set(again["names"]), again["damage"], again["strays"]) == (after, [], []), where
        shutil.rmtree(copy)
        if through:
            assert names == after
            return at - 1
    raise AssertionError(f"{verb} has no end")


HAVE = {"base:1", "other:1"}


def test_load(crashes: Crashes, box: Path, tmp_path: Path) -> None:
    archive = tmp_path / "new.tar"
    archive.write_bytes(docker_archive([BASE, MIDDLE, TOP], ["new:1"]))
    assert everywhere(crashes, box, "load", HAVE, HAVE | {"new:1"}, {"archive": str(archive)}) > 10


def test_import(crashes: Crashes, box: Path, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(layer({"a": "1", "b/c": "2"}))
    words = {"archive": str(tmp_path / "root.tar"), "name": "new:1"}
    assert everywhere(crashes, box, "import", HAVE, HAVE | {"new:1"}, words) > 10


def test_commit(crashes: Crashes, box: Path) -> None:
    crashes.run(box, "container", {"name": "base:1"})
    words = {"name": "base:1", "to": "made:1"}
    assert everywhere(crashes, box, "commit", HAVE, HAVE | {"made:1"}, words) > 10


def test_remove(crashes: Crashes, box: Path) -> None:
    assert everywhere(crashes, box, "remove", HAVE, {"base:1"}, {"name": "other:1"}) > 3


def test_prune(crashes: Crashes, box: Path) -> None:
    # Each image goes in a transaction of its own: with two, one may be gone and the other not.
    crashes.run(box, "remove", {"name": "base:1"})
    assert everywhere(crashes, box, "prune", {"other:1"}, set(), {}) > 3


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry with `base:1` (four layers) in a thread; its address."""
    loop = asyncio.new_event_loop()
    ready: list[str] = []
    there, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with own_registry(tmp_path / "registry") as own:
            more = layer({"more": "m" * 50_000})
            await own.put_image("pulled", "1", [BASE, MIDDLE, TOP, more])
            ready.append(own.host)
            there.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert there.wait(20)
    yield ready[0]
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def test_pull(crashes: Crashes, box: Path, registry: str) -> None:
    name = f"{registry}/pulled"
    after = HAVE | {f"{name}:1"}
    assert everywhere(crashes, box, "pull", HAVE, after, {"name": name}) > 20
