"""Which of an index's manifests runs here (after containerd's `platforms`)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gantry.model.errors import InvalidParameter
from gantry.oci.image import Descriptor, Platform

_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i686": ("386", ""),
    "i386": ("386", ""),
}
_KNOWN: Final = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le"}
    | {"ppc64", "ppc64le", "riscv64", "s390", "s390x", "sparc64", "wasm"}
)
_SYSTEMS: Final = frozenset(
    {"aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux"}
    | {"nacl", "netbsd", "openbsd", "plan9", "solaris", "wasip1", "windows", "zos"}
)
_OS: Final = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?")
_COMPONENT: Final = re.compile(r"[A-Za-z0-9_.-]+")
_ARM: Final = ("v8", "v7", "v6", "v5")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A platform asked for. strict: nothing else will do."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def normalise(architecture: str, variant: str = "") -> tuple[str, str]:
    architecture, found = _ARCHITECTURES.get(architecture.lower(), (architecture.lower(), ""))
    variant = variant.lower() or found
    if architecture == "arm64" and variant in ("8", "v8"):
        variant = ""
    if architecture == "arm":
        variant = "v" + variant if variant[:1].isdigit() else variant or "v7"
    if architecture == "amd64" and variant == "v1":
        variant = ""
    return architecture, variant


HOST: Final = Wanted("linux", *normalise(os.uname().machine))


def parse_platform(text: str) -> Wanted:
    """`os[/arch[/variant]]` or an architecture alone (containerd's `platforms.Parse`).
    InvalidParameter."""
    first, *parts = text.split("/")
    os_name = _OS.fullmatch(first)
    if os_name is None:
        raise InvalidParameter(
            f'"{first}" is an invalid OS component of "{text}": OSAndVersion specifier component'
            f' must match "^{_OS.pattern}$": invalid argument'
        )
    system = os_name[1].lower().replace("macos", "darwin")
    for part in parts[:3]:
        if not _COMPONENT.fullmatch(part):
            raise InvalidParameter(
                f'"{part}" is an invalid component of "{text}": platform specifier component must'
                f' match "^{_COMPONENT.pattern}$": invalid argument'
            )
    if len(parts) > 2:
        raise InvalidParameter(f'"{text}": cannot parse platform specifier: invalid argument')
    if parts:
        return Wanted(system, *normalise(*parts))
    if system in _SYSTEMS:
        return Wanted(system, HOST.architecture, HOST.variant)
    architecture, variant = normalise(first)
    if architecture not in _KNOWN:
        raise InvalidParameter(
            f'"{text}": unknown operating system or architecture: invalid argument'
        )
    return Wanted(HOST.os, architecture, variant)


def parse_one(text: str) -> Wanted | None:
    """Of an archive to write or read; None for any. InvalidParameter for several."""
    if "," in text:
        raise InvalidParameter(
            "multiple platforms not supported for this image store; use a multi-platform image"
            " store such as containerd-snapshotter"
        )
    return parse_platform(text) if text else None


def rank(platform: Platform, wanted: Wanted) -> int | None:
    """How well a platform fits: 0 exactly, more for older variants, None not at all."""
    architecture, variant = normalise(platform.architecture, platform.variant)
    if (platform.os or "linux") != wanted.os:
        return None
    if architecture == wanted.architecture:
        if variant == wanted.variant or not platform.variant:
            return 0 if variant == wanted.variant else 1
        if architecture == "arm" and wanted.variant in _ARM and variant in _ARM:
            steps = _ARM.index(variant) - _ARM.index(wanted.variant)
            return steps if steps >= 0 else None
        if architecture == "amd64" and not variant:
            return 1
        return None
    if wanted.architecture == "arm64" and architecture == "arm":
        return 10 + _ARM.index(variant) if variant in _ARM else None
    if wanted.architecture == "amd64" and architecture == "386":
        return 10
    return None


def choose(descriptors: Sequence[Descriptor], wanted: Wanted) -> Descriptor | None:
    """The best of an index's entries; one without a platform is taken where nothing fits."""
    best: tuple[int, int] | None = None
    for position, descriptor in enumerate(descriptors):
        platform = descriptor.platform
        fit = 1000 if platform is None else rank(platform, wanted)
        if fit is not None and (best is None or (fit, position) < best):
            best = (fit, position)
    return None if best is None else descriptors[best[1]]


def matches(os_name: str, architecture: str, variant: str, wanted: Wanted) -> bool:
    """Whether an image of that platform satisfies a request for `wanted`."""
    return rank(Platform(architecture, os_name, variant=variant), wanted) is not None
