"""Image names as people write them."""

from __future__ import annotations


def familiar(name: str) -> str:
    """`docker.io/library/busybox` as `busybox`."""
    for prefix in ("docker.io/library/", "docker.io/"):
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def split_tag(name: str) -> tuple[str, str]:
    """Repository and tag (empty where there is none); a port is no tag."""
    head, slash, last = name.rpartition("/")
    repository, _, tag = last.partition(":")
    return head + slash + repository, tag


def split_reference(name: str) -> tuple[str, str]:
    """Repository and tag or digest, for the API's fromImage and tag."""
    name, at, digest = name.partition("@")
    if at:
        return split_tag(name)[0], digest
    return split_tag(name)
