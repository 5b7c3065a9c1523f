"""The networks there are, found by id, name or the beginning of an id."""

from __future__ import annotations

from collections.abc import Iterator

from gantry.model.errors import InvalidParameter, NotFound
from gantry.model.network import NetworkRecord

PREDEFINED = ("bridge", "host", "none")


class Catalog:
    """Records by id; names are unique."""

    def __init__(self) -> None:
        self._records: dict[str, NetworkRecord] = {}
        self._names: dict[str, str] = {}

    def __iter__(self) -> Iterator[NetworkRecord]:
        return iter(list(self._records.values()))

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: NetworkRecord) -> None:
        self._records[record.id] = record
        self._names[record.name] = record.id

    def drop(self, record: NetworkRecord) -> None:
        if self._records.pop(record.id, None) is not None:
            self._names.pop(record.name, None)

    def named(self, name: str) -> NetworkRecord | None:
        found = self._names.get(name)
        return self._records[found] if found is not None else None

    def get(self, network_id: str) -> NetworkRecord | None:
        return self._records.get(network_id)

    def find(self, term: str) -> NetworkRecord:
        """By whole id, name, or the beginning of an id. NotFound; InvalidParameter when the
        beginning fits several."""
        found = self._records.get(term) or self.named(term)
        if found is not None:
            return found
        matches = [r for r in self._records.values() if term and r.id.startswith(term)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InvalidParameter(
                f"network {term} is ambiguous ({len(matches)} matches found based on ID prefix)"
            )
        raise NotFound(f"network {term} not found")


def user_defined(name: str) -> bool:
    """Whether a network of that name is a user's own (and so has names and static addresses)."""
    return name not in (*PREDEFINED, "default")
