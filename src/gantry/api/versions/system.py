"""System: what older clients expect of info, events and disk usage."""

from __future__ import annotations

from typing import Final

from gantry.api.backend import Json
from gantry.api.versions.merge import add_missing

COMMITS: Final = ("ContainerdCommit", "RuncCommit", "InitCommit")


def info(answer: Json, version: int) -> Json:
    """GET /info; the backend's dict is not changed."""
    answer = dict(answer)
    if version < 53:
        answer.pop("NRI", None)
    if version < 52:
        answer.setdefault("KernelMemoryTCP", False)
    if version < 50:
        answer.pop("DiscoveredDevices", None)
        add_missing(answer, {"BridgeNfIptables": False, "BridgeNfIp6tables": False})
    if version < 49:
        answer.pop("FirewallBackend", None)
        for key in COMMITS:
            commit = dict(answer.get(key) or {})
            commit.setdefault("Expected", commit.get("ID", ""))
            answer[key] = commit
    if version < 47:
        registry = dict(answer.get("RegistryConfig") or {})
        registry.setdefault("AllowNondistributableArtifactsCIDRs", None)
        registry.setdefault("AllowNondistributableArtifactsHostnames", None)
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


USAGES: Final = {
    "ImageUsage": "Images",
    "ContainerUsage": "Containers",
    "VolumeUsage": "Volumes",
    "BuildCacheUsage": "BuildCache",
}


def disk_usage(answer: Json, version: int, *, verbose: bool) -> Json:
    """GET /system/df, from {"ImageUsage": {"TotalSize", "Items": […], …}, …}.

    Up to 1.51 only the old fields, later both unless the client asked for the new ones
    (`verbose`). A backend that gives the old fields is taken as it is.
    """
    if not any(key in answer for key in USAGES):
        return answer
    legacy: Json = {}
    for key, old in USAGES.items():
        usage = answer.get(key)
        if usage is None:
            continue
        legacy[old] = usage.get("Items") or []
        if old == "Images":
            legacy["LayersSize"] = usage.get("TotalSize", 0)
    if version < 44:
        legacy["Images"] = [
            image | {"VirtualSize": image.get("Size", 0)} for image in legacy.get("Images", [])
        ]
    if version < 42:
        legacy["BuilderSize"] = 0
    if version < 52:
        return legacy
    if verbose:
        return answer
    brief = {
        key: {name: value for name, value in usage.items() if name != "Items"}
        for key, usage in answer.items()
        if isinstance(usage, dict)
    }
    return legacy | brief
