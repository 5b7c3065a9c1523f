"""Image names as people write them."""

from __future__ import annotations

from gantry.model.errors import InvalidParameter


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


def check_lower_case(name: str) -> None:
    """The mistake people make; the engine checks the rest. Raises InvalidParameter."""
    repository, _ = split_reference(name)
    if not repository:
        raise InvalidParameter("invalid reference format")
    host, slash, path = repository.partition("/")
    if not slash:
        path, repository = host, f"library/{host}"
    if path != path.lower():
        raise InvalidParameter(
            f"invalid reference format: repository name ({repository}) must be lowercase"
        )
