"""Which runtime makes a container."""

from __future__ import annotations

from collections.abc import Sequence

from gantry.shim.backend import Backend
from gantry.shim.external import ExternalContainer
from gantry.shim.inprocess import InProcessContainer

GANTRY = "gantry"


def make_backend(
    runtime: str, args: Sequence[str], container_id: str, bundle: str, systemd_cgroup: bool
) -> Backend:
    """The runtime of that name: our own, or a binary's path."""
    if runtime == GANTRY:
        return InProcessContainer(
            container_id=container_id, bundle=bundle, systemd_cgroup=systemd_cgroup
        )
    return ExternalContainer(
        runtime, args, container_id=container_id, bundle=bundle, systemd_cgroup=systemd_cgroup
    )
