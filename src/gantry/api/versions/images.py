"""Images: what older clients expect of list and inspect."""

from __future__ import annotations

from typing import Final

from gantry.api.backend import Json
from gantry.api.versions.merge import add_missing

NEVER: Final = "0001-01-01T00:00:00Z"

CONFIG_150: Final[Json] = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": None,
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}
"""Image config fields that 1.50 and 1.51 have even when empty."""

CONFIG_149: Final[Json] = CONFIG_150 | {
    "AttachStderr": False,
    "AttachStdin": False,
    "AttachStdout": False,
    "Domainname": "",
    "Hostname": "",
    "Image": "",
    "OpenStdin": False,
    "StdinOnce": False,
    "Tty": False,
}
"""What 1.49 and older have: an image's config had the type of a container's."""


def row(summary: Json, version: int, *, counts: bool = False) -> Json:
    """One row of GET /images/json; `summary` is ours to change.

    counts: keep the number of containers, as /system/df always had it.
    """
    tags, digests = summary.get("RepoTags") or [], summary.get("RepoDigests") or []
    if version < 43 and not tags and not digests:
        tags, digests = ["<none>:<none>"], ["<none>@<none>"]
    summary["RepoTags"], summary["RepoDigests"] = tags, digests
    if version < 48:
        summary.pop("Descriptor", None)
    if version < 51 and not counts:
        summary["Containers"] = -1
    if version < 44:
        summary["VirtualSize"] = summary.get("Size", 0)
    return summary


def inspect(image: Json, version: int) -> Json:
    """GET /images/{name}/json; `image` is ours to change."""
    image["RepoTags"] = image.get("RepoTags") or []
    image["RepoDigests"] = image.get("RepoDigests") or []
    if version < 53:
        image.pop("Identity", None)
    if version < 48:
        image.pop("Descriptor", None)
        image.pop("Manifests", None)
    if version >= 45:
        image.pop("Container", None)
        image.pop("ContainerConfig", None)
    if version >= 52:
        return image
    add_missing(image, {"Parent": "", "Comment": "", "DockerVersion": "", "Author": ""})
    image["Config"] = dict(image.get("Config") or {})
    add_missing(image["Config"], CONFIG_149 if version < 50 else CONFIG_150)
    if version < 45:
        add_missing(image, {"Container": "", "ContainerConfig": {}})
        add_missing(image["ContainerConfig"], CONFIG_149)
    if version < 44:
        image["VirtualSize"] = image.get("Size", 0)
        image["Created"] = image.get("Created") or NEVER
    return image
