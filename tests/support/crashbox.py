"""Image verbs in processes that are killed at a chosen step.

`Crashes` starts one warm process that forks a child for each run. A child opens the image
service on a folder, does one verb, and is killed with SIGKILL just before its n-th *step*: a
system call that changes the disk (those of `os` that the engine's packages use), or a state
transaction's begin or end. In the engine itself nothing is there for this: the hooks are put
around `os`'s functions in the child.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]

STEPS = (
    *("rename", "unlink", "rmdir", "mkdir", "symlink", "link", "mknod"),
    *("ftruncate", "fdatasync", "pwrite", "pwritev"),
)
"""What a layer's files are filled with and how they look (write, utime, chmod …) is left out:
it happens in folders that `mkdir` has made and `symlink` or `rename` finishes."""
DONE = 0
"""Exit code of a child that reached the end."""


class Crashes:
    """The warm process; a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crashbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, root: Path, verb: str, options: Mapping[str, str], at: int = 0) -> bool:
        """Do a verb on the box in `root`, killed before step `at`; whether it got to the end."""
        answer = self._ask({"root": str(root), "verb": verb, "at": at, **options})
        if answer["status"] == -signal.SIGKILL:
            return False
        assert answer["status"] == DONE, answer
        return True

    def look(self, root: Path) -> Json:
        """Open the box as after a restart and report what is there; see `_look`."""
        report = root.with_name(root.name + ".json")
        answer = self._ask({"root": str(root), "verb": "look", "at": 0, "report": str(report)})
        assert answer["status"] == DONE, answer
        found: Json = json.loads(report.read_text())
        return found

    def _ask(self, message: Mapping[str, Any]) -> Json:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        answer: Json = json.loads(self._process.stdout.readline())
        return answer


# ---- the warm process


def main() -> None:
    """Fork a child for each line."""
    from tests.support import imagebox  # noqa: F401 - what the children need is loaded once

    import gantry.registry.transport
    import gantry.store.images  # noqa: F401

    for line in sys.stdin:
        message = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(message)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


def _child(message: Json) -> None:
    code = 1
    try:
        if message["at"]:
            _install(message["at"])
        asyncio.run(_do(message))
        code = DONE
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _install(at: int) -> None:
    """Count steps in all threads; die before number `at`."""
    lock = threading.Lock()
    count = 0

    def step() -> None:
        nonlocal count
        with lock:
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            step()
            return function(*arguments, **named)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    from gantry.store.images import SqliteImageStore

    apply = SqliteImageStore.apply

    async def stepped(self: SqliteImageStore, change: Any) -> None:
        step()
        await apply(self, change)
        step()

    SqliteImageStore.apply = stepped  # type: ignore[method-assign]  # this is the hook


async def _do(message: Json) -> None:
    from tests.support.imagebox import ImageBox

    from gantry.store.database import Database
    from gantry.store.images import SqliteImageStore

    root = Path(message["root"])
    database = Database(str(root / "state.db"))
    box = ImageBox(root)
    box.store = SqliteImageStore(database)  # type: ignore[assignment]  # the real one
    box.open()
    async with box:
        await VERBS[message["verb"]](box, message)
    await database.aclose()


# ---- verbs


async def _load(box: Any, message: Json) -> None:
    await box.load(Path(message["archive"]).read_bytes())


async def _import(box: Any, message: Json) -> None:
    await box.import_(Path(message["archive"]).read_bytes(), repo=message["name"])


async def _container(box: Any, message: Json) -> None:
    box.snapshots.prepare("container", box.images.resolve(message["name"]).chain_id)
    folder = Path(box.snapshots.layer("container").path)
    (folder / "new").write_text("new")
    (folder / "more").mkdir()


async def _commit(box: Any, message: Json) -> None:
    from gantry.images.create import CommitRequest
    from gantry.oci.image_reference import parse

    image = box.images.resolve(message["name"])
    await box.images.commit(
        CommitRequest(
            "container", image.id, "c" * 64, {"Cmd": ["x"]}, {}, reference=parse(message["to"])
        )
    )


async def _remove(box: Any, message: Json) -> None:
    await box.images.remove(message["name"], force=False, noprune=False)


async def _prune(box: Any, message: Json) -> None:
    await box.images.prune({"dangling": ["false"]})


async def _pull(box: Any, message: Json) -> None:
    async for line in box.images.pull(message["name"], tag="1", platform="", auth={}):
        if "error" in line:
            raise RuntimeError(line["error"])


async def _look(box: Any, message: Json) -> None:
    """damage: what `image verify` finds wrong. strays: what nobody refers to and is no part of
    a pull to be gone on with."""
    images = box.images.catalog.images
    leased = {digest for lease in box.store.load().leases for digest in lease.digests}
    chains = {chain for image in images.values() for chain in image.chain_ids}
    strays = [
        f"blob {blob.digest}"
        for blob in box.content.walk()
        if not box.images.catalog.uses_blob(blob.digest) and blob.digest not in leased
    ]
    strays += [f"ingest {item.name}" for item in box.content.ingests() if not item.ref]
    strays += [
        f"snapshot {info.name}"
        for info in box.snapshots.walk()
        if info.name not in chains and info.name != "container"
    ]
    root = Path(box.snapshots.root)
    known = {os.path.basename(os.path.dirname(box.snapshots.layer(i.name).path)) for i in _all(box)}
    strays += [f"folder {path.name}" for path in root.iterdir() if path.name not in known]
    strays += [f"trash {path.name}" for path in (root / "trash").iterdir()]
    damage = [f"{one.kind} {one.digest}: {one.damage}" async for one in verify(box) if one.damage]
    found = {
        "names": sorted(name for image in images.values() for name in image.repo_tags),
        "images": len(images),
        "damage": damage,
        "strays": [stray for stray in strays if stray != "folder trash"],
        "kept": sum(item.offset for item in box.content.ingests()),
        "leased": sorted(leased),
    }
    Path(message["report"]).write_text(json.dumps(found))


def _all(box: Any) -> list[Any]:
    return list(box.snapshots.walk())


async def verify(box: Any) -> AsyncIterator[Any]:
    async for finding in box.images.verify():
        yield finding


VERBS: dict[str, Callable[[Any, Json], Awaitable[None]]] = {
    "load": _load,
    "import": _import,
    "container": _container,
    "commit": _commit,
    "remove": _remove,
    "prune": _prune,
    "pull": _pull,
    "look": _look,
}

if __name__ == "__main__":
    main()
