"""What the server needs of a blob store (`gantry.content.store.ContentStore` has it)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol


class BlobWriter(Protocol):
    """A blob on its way in. fd: its data, as far as `offset`."""

    fd: int
    offset: int

    def write(self, data: bytes) -> None: ...

    def digest(self) -> str:
        """Of what was written so far."""

    def commit(self, expected: str | None = None, size: int | None = None) -> str:
        """InvalidParameter when it is not what was expected; the data is dropped then."""

    def abort(self) -> None: ...

    def keep(self) -> None: ...

    def close(self) -> None: ...


class BlobInfo(Protocol):
    @property
    def digest(self) -> str: ...


class Ingest(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def ref(self) -> str: ...

    @property
    def mtime_ns(self) -> int: ...


class BlobStore(Protocol):
    """Blobs by digest; blocking."""

    def path(self, digest: str) -> str: ...

    def size(self, digest: str) -> int | None: ...

    def read(self, digest: str, limit: int) -> bytes: ...

    def put(self, data: bytes, expected: str | None = None) -> str: ...

    def delete(self, digest: str) -> None: ...

    def walk(self) -> Iterator[BlobInfo]: ...

    def writer(self, ref: str = "", *, algorithm: str = "sha256") -> BlobWriter: ...

    def resume(self, name: str, *, algorithm: str = "sha256") -> BlobWriter: ...

    def ingests(self) -> Sequence[Ingest]: ...

    def clean_ingests(self, *, keep_seconds: float) -> None: ...
