"""What a registry knows besides its blobs: which repository has what, under which names.

On disk, below `<root>/repositories/<name>/` (no part of a repository's name starts with an
underscore)::

    _blobs/<digest>               empty: this blob may be read here
    _manifests/<digest>           the manifest's media type
    _tags/<tag>                   the digest it means
    _referrers/<digest>/<digest>  the descriptor of a manifest whose subject is the first one

Every file is written whole by one rename; what is not empty is on the disk before that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Final

from gantry.model.errors import System

_PARTS: Final = ("_blobs", "_manifests", "_tags", "_referrers")


class Repositories:
    """See the module. Blocking, but for small files only."""

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "repositories")
        try:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
        except OSError as error:
            raise System(f"cannot open registry in {root}: {error}") from error

    # ---- blobs

    def has_blob(self, name: str, digest: str) -> bool:
        return os.path.exists(self._file(name, "_blobs", digest))

    def add_blob(self, name: str, digest: str) -> None:
        self._write(self._file(name, "_blobs", digest), "")

    def drop_blob(self, name: str, digest: str) -> bool:
        return self._remove(self._file(name, "_blobs", digest))

    # ---- manifests

    def manifest_type(self, name: str, digest: str) -> str | None:
        """The media type of a manifest of the repository; None when it has none such."""
        return self._read(self._file(name, "_manifests", digest))

    def add_manifest(self, name: str, digest: str, media_type: str) -> None:
        self._write(self._file(name, "_manifests", digest), media_type)

    def drop_manifest(self, name: str, digest: str) -> bool:
        """Forget a manifest, the tags that mean it, and that it refers to others."""
        if not self._remove(self._file(name, "_manifests", digest)):
            return False
        for tag in self.tags(name):
            if self.tag(name, tag) == digest:
                self.drop_tag(name, tag)
        referrers = self._file(name, "_referrers")
        for subject in _names(referrers):
            self._remove(os.path.join(referrers, subject, digest))
        return True

    def manifests(self, name: str) -> list[str]:
        return _names(self._file(name, "_manifests"))

    # ---- tags

    def tag(self, name: str, tag: str) -> str | None:
        return self._read(self._file(name, "_tags", tag))

    def set_tag(self, name: str, tag: str, digest: str) -> None:
        self._write(self._file(name, "_tags", tag), digest)

    def drop_tag(self, name: str, tag: str) -> bool:
        return self._remove(self._file(name, "_tags", tag))

    def tags(self, name: str) -> list[str]:
        return sorted(_names(self._file(name, "_tags")))

    # ---- referrers

    def add_referrer(self, name: str, subject: str, digest: str, descriptor: str) -> None:
        self._write(self._file(name, "_referrers", subject, digest), descriptor)

    def referrers(self, name: str, subject: str) -> list[str]:
        """Descriptors as JSON texts."""
        folder = self._file(name, "_referrers", subject)
        found = (self._read(os.path.join(folder, one)) for one in sorted(_names(folder)))
        return [text for text in found if text]

    # ---- all

    def exists(self, name: str) -> bool:
        return any(os.path.isdir(self._file(name, part)) for part in _PARTS)

    def catalog(self) -> list[str]:
        """All repositories that hold something, sorted."""
        return sorted(self._walk(self._root, ""))

    def used(self) -> set[str]:
        """All digests that any repository refers to."""
        found: set[str] = set()
        for name in self.catalog():
            found.update(_names(self._file(name, "_blobs")))
            found.update(_names(self._file(name, "_manifests")))
        return found

    def refers(self, digest: str) -> bool:
        """Whether any repository has this as a blob or a manifest."""
        return any(
            self.has_blob(name, digest) or self.manifest_type(name, digest) is not None
            for name in self.catalog()
        )

    # ---- inside

    def _file(self, name: str, *parts: str) -> str:
        return os.path.join(self._root, name, *parts)

    def _walk(self, folder: str, prefix: str) -> Iterator[str]:
        holds = False
        for name in _names(folder):
            if name in _PARTS:
                holds = holds or bool(_names(os.path.join(folder, name)))
            elif not name.startswith("_"):
                below = f"{prefix}/{name}" if prefix else name
                yield from self._walk(os.path.join(folder, name), below)
        if holds and prefix:
            yield prefix

    @staticmethod
    def _read(path: str) -> str | None:
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    @staticmethod
    def _write(path: str, text: str) -> None:
        folder = os.path.dirname(path)
        fresh = os.path.join(folder, f".{secrets.token_hex(6)}")
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            with open(fresh, "x", encoding="utf-8") as file:
                file.write(text)
                if text:
                    file.flush()
                    os.fdatasync(file.fileno())
            os.rename(fresh, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise System(f"cannot write {path}: {error}") from error

    @staticmethod
    def _remove(path: str) -> bool:
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def _names(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
