"""Names of images: `[domain/]path[:tag][@digest]`, normalised as Docker does.

Grammar and error texts: the `distribution/reference` library, which every Docker client and
engine uses. A *familiar* name is what users type and read (`busybox`), a full one says
everything (`docker.io/library/busybox`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from gantry.model.errors import InvalidParameter
from gantry.oci.image_digest import is_digest

DEFAULT_DOMAIN: Final = "docker.io"
_LEGACY_DOMAIN: Final = "index.docker.io"
_OFFICIAL: Final = "library/"
DEFAULT_TAG: Final = "latest"

_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_TAG: Final = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_ID: Final = re.compile(r"[a-f0-9]{64}")
_BAD: Final = "invalid reference format"


@dataclass(frozen=True, slots=True)
class Reference:
    """A full name. tag and digest are "" where not given."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """docker.io/library/busybox"""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """busybox"""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        path = self.path.removeprefix(_OFFICIAL)
        return path if "/" not in path else self.path

    @property
    def suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        """busybox:latest"""
        return self.familiar_name + self.suffix

    def __str__(self) -> str:
        return self.name + self.suffix

    def with_default_tag(self) -> Reference:
        """`latest` where there is neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def with_tag(self, tag: str) -> Reference:
        if not _TAG.fullmatch(tag):
            raise InvalidParameter("invalid tag format")
        return replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> Reference:
        return replace(self, tag="", digest=digest)


@lru_cache(maxsize=1024)
def parse(name: str) -> Reference:
    """Normalise what a user typed. InvalidParameter with Docker's texts."""
    if _ID.fullmatch(name):
        raise InvalidParameter(
            f"invalid repository name ({name}), cannot specify 64-byte hexadecimal strings"
        )
    rest, at, digest = name.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise InvalidParameter(_BAD)
    if at and digest.split(":")[0] in ("sha256", "sha512") and not is_digest(digest):
        raise InvalidParameter("invalid checksum digest length")
    domain, path = _split_domain(rest)
    head, slash, last = path.rpartition("/")
    last, colon, tag = last.partition(":")
    path = head + slash + last
    if colon and not _TAG.fullmatch(tag):
        raise InvalidParameter(_BAD)
    if path.lower() != path:
        raise InvalidParameter(f"{_BAD}: repository name ({path}) must be lowercase")
    if not _PATH.fullmatch(path) or not _DOMAIN.fullmatch(domain):
        raise InvalidParameter(_BAD)
    if len(path) > 255:
        raise InvalidParameter("repository name must not be more than 255 characters")
    return Reference(domain, path, tag, digest)


def parse_any(name: str) -> Reference | str:
    """A reference, or a digest where the name is an image's full id (with or without sha256:)."""
    if _ID.fullmatch(name):
        return "sha256:" + name
    if is_digest(name):
        return name
    return parse(name)


def _split_domain(name: str) -> tuple[str, str]:
    """What comes before the first slash is a host where it looks like one."""
    first, slash, rest = name.partition("/")
    if not slash or not (
        "." in first or ":" in first or first == "localhost" or first.lower() != first
    ):
        domain, path = DEFAULT_DOMAIN, name
    else:
        domain, path = first, rest
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path
