"""Who a container's processes are: its own passwd and group, read without a mount."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gantry.containers.core import Core
from gantry.containers.record import Container
from gantry.containers.rootfs import Unsure, layers_of, read_file
from gantry.containers.spec.users import Identity, resolve
from gantry.model.errors import System
from gantry.model.mount import Mount

_PASSWD, _GROUP = "etc/passwd", "etc/group"


class Identities:
    """Resolves users. What the image's layers say is remembered a stack of layers."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[tuple[tuple[str, ...], str], bytes | None] = {}

    async def of(
        self, container: Container, user: str, mounts: Sequence[Mount] | None = None
    ) -> Identity:
        """The identity of `user` in the container. System when there is no such user."""
        if mounts is None:
            mounts = self._core.snapshots.mounts(container.id)
        try:
            layers = layers_of(mounts)
            passwd = self._read(layers.upper, layers.lower, _PASSWD)
            group = self._read(layers.upper, layers.lower, _GROUP)
        except Unsure:
            passwd, group = await asyncio.to_thread(_read_mounted, tuple(mounts))
        except OSError as error:
            raise System(f"cannot read the users of {container.id[:12]}: {error}") from error
        extra = tuple(container.record.host_config.group_add or ())
        return resolve(passwd, group, user, extra)

    def _read(self, upper: str, lower: tuple[str, ...], path: str) -> bytes | None:
        top = _Below()
        found = read_file([upper], path, below=top)
        if found is not top:
            assert found is None or isinstance(found, bytes)
            return found
        key = (lower, path)
        if key not in self._known:
            if len(self._known) > 512:
                self._known.clear()
            content = read_file(lower, path)
            assert content is None or isinstance(content, bytes)
            self._known[key] = content
        return self._known[key]


class _Below:
    """What `read_file` gives when all folders leave the question open."""


def _read_mounted(mounts: tuple[Mount, ...]) -> tuple[bytes | None, bytes | None]:
    from gantry.containers.view import Tree

    with Tree.mounted(mounts) as tree:
        return tree.read(_PASSWD), tree.read(_GROUP)
