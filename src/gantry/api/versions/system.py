"""System: what older clients expect of info, events and disk usage."""

from __future__ import annotations

from typing import Final

from gantry.api.backend import Json, Rows
from gantry.api.versions import containers, images
from gantry.api.versions.merge import add_missing

COMMITS: Final = ("ContainerdCommit", "RuncCommit", "InitCommit")

NONDISTRIBUTABLE: Final = (
    "AllowNondistributableArtifactsCIDRs",
    "AllowNondistributableArtifactsHostnames",
)


def info(answer: Json, version: int) -> Json:
    """GET /info; the backend's dict is not changed."""
    answer = dict(answer)
    if answer.get("SystemStatus", "") is None:
        del answer["SystemStatus"]
    if version < 53:
        answer.pop("NRI", None)
    if version < 52:
        answer.setdefault("KernelMemoryTCP", False)
    if version < 50:
        answer.pop("DiscoveredDevices", None)
        add_missing(answer, {"BridgeNfIptables": False, "BridgeNfIp6tables": False})
    if version < 49:
        answer.pop("FirewallBackend", None)
    if version < 46:
        answer.pop("Containerd", None)
    for key in COMMITS:
        if key not in answer:
            continue
        commit = dict(answer[key] or {})
        expected = commit.pop("Expected", commit.get("ID", ""))
        answer[key] = commit | {"Expected": expected} if version < 49 else commit
    registry = {
        key: value
        for key, value in (answer.get("RegistryConfig") or {}).items()
        if not key.startswith("AllowNondistributable")
    }
    if version < 47:
        registry |= dict.fromkeys(NONDISTRIBUTABLE)
    if registry:
        answer["RegistryConfig"] = registry
    if version < 46:
        answer.pop("Containerd", None)
    if version < 44:
        answer["Runtimes"] = {
            name: {key: value for key, value in runtime.items() if key != "status"}
            for name, runtime in (answer.get("Runtimes") or {}).items()
        }
    if version < 42:
        answer.setdefault("KernelMemory", False)
    return answer


def event(message: Json, version: int) -> Json | None:
    """One event, None when this version has no such event."""
    if version >= 52:
        return message
    kind, action = message.get("Type"), message.get("Action")
    if version < 46 and kind == "image" and action == "create":
        return None
    if kind in ("container", "image"):
        actor = message.get("Actor") or {}
        message = {"status": action, "id": actor.get("ID", "")} | message
        if kind == "container":
            message["from"] = (actor.get("Attributes") or {}).get("image", "")
    return message


ACTIVE: Final = ("running", "paused", "restarting")


def disk_usage(answer: Json, version: int, *, verbose: bool) -> Json:
    """GET /system/df, from {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"}
    (those that were asked for).

    Up to 1.51 that is the answer; 1.52 and later add figures for each type and leave the old
    fields out when the client asked for `verbose`.
    """
    if version < 52:
        return _old_usage(answer, version)
    made: Json = {}
    if "Images" in answer:
        images = answer["Images"]
        total = answer.get("LayersSize", 0)
        unused = [image for image in images if image.get("Containers", 0) <= 0]
        # What others share stays, whoever of them is used (moby daemon/disk_usage.go).
        spare = sum(image.get("Size", 0) - max(image.get("SharedSize", 0), 0) for image in unused)
        made["ImageUsage"] = _usage(images, len(images) - len(unused), total, spare)
    if "Containers" in answer:
        rows = answer["Containers"]
        active = [row for row in rows if row.get("State") in ACTIVE]
        total = sum(row.get("SizeRw", 0) for row in rows)
        kept = sum(row.get("SizeRw", 0) for row in active)
        made["ContainerUsage"] = _usage(rows, len(active), total, total - kept)
    if "Volumes" in answer:
        volumes = answer["Volumes"]
        sizes = [
            (max(usage.get("Size", 0), 0), usage.get("RefCount", 0) > 0)
            for usage in (volume.get("UsageData") or {} for volume in volumes)
        ]
        total = sum(size for size, _ in sizes)
        kept = sum(size for size, used in sizes if used)
        count = sum(used for _, used in sizes)
        made["VolumeUsage"] = _usage(volumes, count, total, total - kept)
    if "BuildCache" in answer:
        records = answer["BuildCache"]
        total = sum(record.get("Size", 0) for record in records)
        kept = sum(record.get("Size", 0) for record in records if record.get("InUse"))
        count = sum(bool(record.get("InUse")) for record in records)
        made["BuildCacheUsage"] = _usage(records, count, total, total - kept)
    if verbose:
        return made
    for usage in made.values():
        usage.pop("Items", None)
    return answer | made


def _usage(items: Rows, active: int, total: int, reclaimable: int) -> Json:
    """One type's figures; zeros and empty lists are left out, as Docker does."""
    figures = {
        "ActiveCount": active,
        "Items": items,
        "Reclaimable": max(reclaimable, 0),
        "TotalCount": len(items),
        "TotalSize": total,
    }
    return {key: value for key, value in figures.items() if value}


def _old_usage(answer: Json, version: int) -> Json:
    old = dict(answer)
    if "Containers" in old:
        old["Containers"] = [containers.old_row(row, version) for row in old["Containers"]]
    if "Images" in old:
        old["Images"] = [images.row(dict(image), version, counts=True) for image in old["Images"]]
    if version < 42:
        old["BuilderSize"] = 0
    return old
