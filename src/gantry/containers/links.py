"""Legacy links: who calls whom by which name (moby daemon/links.go).

A link is `HostConfig.Links`' "NAME[:ALIAS]" of the container that uses it. It gives the one
that is named a further name, "/USER/ALIAS", which `ps` shows and `rm --link` takes away.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from gantry.containers import netfiles
from gantry.containers.core import Core, encode_record
from gantry.containers.record import Container, Record
from gantry.containers.table import parse_link as parse
from gantry.model.errors import InvalidParameter, NotFound


def shown(core: Core, record: Record) -> list[str] | None:
    """`HostConfig.Links` as inspect shows it: "/NAME:/USER/ALIAS"."""
    found = []
    for link in record.host_config.links or ():
        name, alias = parse(link)
        target = core.table.find(name)
        if target is not None:
            found.append(f"/{target.name}:/{record.name}/{alias}")
    return found or None


def names(core: Core) -> dict[str, list[str]]:
    """Further names of containers by links, by id."""
    found: dict[str, list[str]] = {}
    for container in core.table:
        for link in container.record.host_config.links or ():
            name, alias = parse(link)
            target = core.table.find(name)
            if target is not None:
                found.setdefault(target.id, []).append(f"/{container.name}/{alias}")
    return found


async def remove(core: Core, name: str) -> None:
    """Forget the link "USER/ALIAS". InvalidParameter, NotFound."""
    user, _, alias = name.removeprefix("/").partition("/")
    if not alias:
        raise InvalidParameter("Conflict, cannot remove the default link name of the container")
    container = core.table.find(user)
    if container is None:
        raise NotFound(f"Cannot get parent /{user} for link name /{user}/{alias}")
    async with container.lock:
        host = container.record.host_config
        kept = [link for link in host.links or () if parse(link)[1] != alias]
        if len(kept) == len(host.links or ()):
            raise NotFound(f"No such link: /{user}/{alias}")
        record = replace(container.record, host_config=replace(host, links=kept or None))
        await core.store.replace(container.id, container.name, encode_record(record))
        container.record = record
        await _follow(core, container, kept)


async def renamed(core: Core, old: str, new: str) -> None:
    """Links name whom they name, whatever its name has become."""
    for container in core.table:
        host = container.record.host_config
        if not any(parse(link)[0] == old for link in host.links or ()):
            continue
        found = [
            f"{new}:{alias}" if name == old else f"{name}:{alias}"
            for name, alias in map(parse, host.links or ())
        ]
        record = replace(container.record, host_config=replace(host, links=found))
        await core.store.replace(container.id, container.name, encode_record(record))
        container.record = record
        await _follow(core, container, found)


async def _follow(core: Core, container: Container, links: Sequence[str]) -> None:
    """While it runs: its hosts file, and what the packet filter lets through."""
    sandbox = await core.networks.relink(container.id, links)
    if sandbox is not None:
        netfiles.refresh(core.folder(container.id), sandbox)
