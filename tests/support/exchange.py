"""Pulling and pushing in tests: images of two layers, our own registry beside an ImageBox."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from tests.support.imagebox import ImageBox, collect, layer
from tests.support.ownregistry import OwnRegistry

BASE = layer({"etc": None, "etc/os": "base"})
NOISE = random.Random(7).randbytes(3_000_000)
TOP = layer({"big": NOISE})
INDEX = "application/vnd.oci.image.index.v1+json"

Json = dict[str, Any]
Exchange = Callable[[ImageBox, OwnRegistry], Awaitable[None]]
Served = Callable[[Exchange], None]
"""Runs a test's body with a box and a registry."""


async def pull(box: ImageBox, name: str, tag: str = "", **more: Any) -> list[Json]:
    options: Json = {"platform": "", "auth": {}, **more}
    return await collect(box.images.pull(name, tag=tag, **options))


async def push(box: ImageBox, name: str, tag: str = "", **more: Any) -> list[Json]:
    options: Json = {"platform": "", "auth": {}, **more}
    return await collect(box.images.push(name, tag=tag, **options))


def statuses(messages: list[Json], identity: str = "") -> list[str]:
    """The texts of one line, each once in a row."""
    texts = [m["status"] for m in messages if "status" in m and m.get("id", "") == identity]
    return [text for i, text in enumerate(texts) if i == 0 or texts[i - 1] != text]
