"""All containers by id, prefix and name; names and ids are reserved before anything is made."""

from __future__ import annotations

from collections.abc import Iterator

from gantry.containers.record import Container
from gantry.model.errors import Conflict, InvalidParameter, NotFound


def parse_link(link: str) -> tuple[str, str]:
    """(container, alias) of one of HostConfig.Links, "NAME[:ALIAS]"; the alias may be the name."""
    name, _, alias = link.partition(":")
    name = name.removeprefix("/")
    return name, alias.rpartition("/")[2] or name


class Table:
    """The containers of this engine. Not thread-safe: the event loop's own."""

    def __init__(self) -> None:
        self._by_id: dict[str, Container] = {}
        self._names: dict[str, str] = {}
        self.version = 0

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def by_id(self, container_id: str) -> Container | None:
        return self._by_id.get(container_id)

    def add(self, container: Container) -> None:
        """Put in a container whose name is reserved (or free)."""
        self._names[container.name] = container.id
        self._by_id[container.id] = container
        self.version += 1

    def discard(self, container: Container) -> None:
        self._by_id.pop(container.id, None)
        self.release(container.name, container.id)
        self.version += 1

    def reserve(self, name: str, container_id: str) -> None:
        """Conflict with Docker's text when the name is taken."""
        owner = self._names.get(name)
        if owner is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container'
                f' "{owner}". You have to remove (or rename) that container to be able to'
                " reuse that name."
            )
        self._names[name] = container_id

    def release(self, name: str, container_id: str) -> None:
        if self._names.get(name) == container_id:
            del self._names[name]

    def get(self, name: str) -> Container:
        """By full id, by name, by unique id prefix, in this order (moby GetContainer)."""
        found = self._by_id.get(name)
        if found is not None:
            return found
        if not name:
            raise InvalidParameter('invalid name or ID supplied: ""')
        owner = self._names.get(name.removeprefix("/"))
        if owner is not None and owner in self._by_id:
            return self._by_id[owner]
        matches = [c for i, c in self._by_id.items() if i.startswith(name)]
        if len(matches) > 1:
            raise InvalidParameter(f"Multiple IDs found with provided prefix: {name}")
        if not matches:
            return self._linked(name)
        return matches[0]

    def _linked(self, name: str) -> Container:
        """By the name that a link gives: USER/ALIAS."""
        user, _, alias = name.removeprefix("/").partition("/")
        owner = self._by_id.get(self._names.get(user, "")) if alias else None
        for link in (owner.record.host_config.links or ()) if owner is not None else ():
            target, called = parse_link(link)
            if called == alias:
                return self.get(target)
        raise NotFound(f"No such container: {name}")

    def find(self, name: str) -> Container | None:
        """As `get`, None where there is none or more than one."""
        try:
            return self.get(name)
        except (NotFound, InvalidParameter):
            return None
