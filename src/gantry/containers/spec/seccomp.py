"""Seccomp profiles: Docker's default one, worked out a capability set at a time, and files.

`seccomp.json` says in groups what a container may call and what depends on capability,
architecture and kernel; the facts are those of Docker's default profile. A profile of the
user's has Docker's format (moby profiles/seccomp: archMap, includes, excludes). Both come
out as `linux.seccomp` of the runtime spec, encoded once and kept.
"""

from __future__ import annotations

import functools
import os
import re
from importlib import resources
from typing import Any, Final

import msgspec

from gantry.model.errors import InvalidParameter

Json = dict[str, Any]

_MACHINES: Final = {
    "x86_64": ("amd64", "X86_64"),
    "aarch64": ("arm64", "AARCH64"),
    "i686": ("x86", "X86"),
    "armv7l": ("arm", "ARM"),
    "ppc64le": ("ppc64le", "PPC64LE"),
    "s390x": ("s390x", "S390X"),
    "riscv64": ("riscv64", "RISCV64"),
    "loongarch64": ("loongarch64", "LOONGARCH64"),
}
_ALLOW: Final = "SCMP_ACT_ALLOW"


def machine() -> tuple[str, str]:
    """(libseccomp's name of this architecture, the spec's without prefix)."""
    return _MACHINES.get(os.uname().machine, (os.uname().machine, ""))


def kernel_at_least(wanted: str) -> bool:
    """Whether the running kernel is `wanted` ("4.8") or newer."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    asked = re.fullmatch(r"(\d+)\.(\d+)", wanted)
    if asked is None:
        raise InvalidParameter(f'invalid kernel version "{wanted}" in the seccomp profile')
    return found is not None and (int(found[1]), int(found[2])) >= (int(asked[1]), int(asked[2]))


@functools.lru_cache(maxsize=64)
def default(capabilities: tuple[str, ...]) -> msgspec.Raw:
    """Docker's default profile for a container with `capabilities`, as encoded JSON."""
    return msgspec.Raw(msgspec.json.encode(_default(frozenset(capabilities))))


def _default(capabilities: frozenset[str]) -> Json:
    text = resources.files("gantry.containers.spec").joinpath("seccomp.json").read_bytes()
    facts: dict[str, Any] = msgspec.json.decode(text)
    arch, name = machine()
    names = set(" ".join(facts["purposes"].values()).split())
    names.update(facts["architectures"].get(arch, "").split())
    for release, calls in facts["kernels"].items():
        if kernel_at_least(release):
            names.update(calls.split())
    for capability, calls in facts["capabilities"].items():
        if capability in capabilities:
            names.update(calls.split())
    rules: list[Json] = [{"names": sorted(names), "action": _ALLOW}]
    for call, values in facts["values of the first argument"].items():
        rules += [_compare(call, 0, value, "SCMP_CMP_EQ") for value in values]
    families = facts["address families of socket"]
    rules += [
        _compare("socket", 0, families["below"], "SCMP_CMP_LT"),
        _compare("socket", 0, families["equal"], "SCMP_CMP_EQ"),
        _compare("socket", 0, families["above"], "SCMP_CMP_GT"),
    ]
    if "CAP_SYS_ADMIN" not in capabilities:
        # clone without new namespaces; clone3 hides its flags in memory: "no such call", so
        # that libraries fall back to clone.
        index = 1 if arch in ("s390", "s390x") else 0
        flags = facts["namespace flags of clone"]
        rules.append(_compare("clone", index, flags, "SCMP_CMP_MASKED_EQ"))
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
    siblings = facts["siblings"].get(name, "").split()
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": [f"SCMP_ARCH_{each}" for each in [name, *siblings] if each],
        "syscalls": rules,
    }


def _compare(call: str, index: int, value: int, op: str) -> Json:
    return {
        "names": [call],
        "action": _ALLOW,
        "args": [{"index": index, "value": value, "valueTwo": 0, "op": op}],
    }


def custom(text: str, capabilities: tuple[str, ...]) -> msgspec.Raw | None:
    """A profile in Docker's format. None when it switches seccomp off. InvalidParameter."""
    try:
        profile = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from None
    if not isinstance(profile, dict):
        raise InvalidParameter("Decoding seccomp profile failed: it is not a JSON object")
    try:
        made = _translate(profile, frozenset(capabilities))
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from None
    return None if made is None else msgspec.Raw(msgspec.json.encode(made))


def _translate(profile: Json, capabilities: frozenset[str]) -> Json | None:
    calls = profile.get("syscalls") or []
    if not profile.get("defaultAction") and not calls:
        return None
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidParameter(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use"
            " either 'architectures' or 'archMap'"
        )
    arch, name = machine()
    result: Json = {
        key: profile[key]
        for key in ("defaultAction", "defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")
        if profile.get(key) is not None
    }
    result["architectures"] = list(profile.get("architectures") or [])
    for entry in profile.get("archMap") or []:
        if entry["architecture"] == f"SCMP_ARCH_{name}":
            result["architectures"] += [entry["architecture"], *(entry["subArchitectures"] or [])]
            break
    rules = []
    for call in calls:
        names = call.get("names") or []
        if call.get("name"):
            if names:
                raise InvalidParameter(
                    "both 'name' and 'names' are specified in the seccomp profile, use either"
                    " 'name' or 'names'"
                )
            names = [call["name"]]
        if _applies(call, arch, capabilities):
            rule = {"names": names, "action": call["action"]}
            if call.get("errnoRet") is not None:
                rule["errnoRet"] = call["errnoRet"]
            if call.get("args"):
                rule["args"] = call["args"]
            rules.append(rule)
    result["syscalls"] = rules
    return result


def _applies(call: Json, arch: str, capabilities: frozenset[str]) -> bool:
    excludes, includes = call.get("excludes") or {}, call.get("includes") or {}
    if arch in (excludes.get("arches") or ()):
        return False
    if capabilities.intersection(excludes.get("caps") or ()):
        return False
    if excludes.get("minKernel") and kernel_at_least(excludes["minKernel"]):
        return False
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if not capabilities.issuperset(includes.get("caps") or ()):
        return False
    return not includes.get("minKernel") or kernel_at_least(includes["minKernel"])
