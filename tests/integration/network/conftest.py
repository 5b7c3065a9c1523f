"""The machine that network tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
from tests.integration.network.netlab import BACKENDS, SETTINGS
from tests.support.machine import Machine

from gantry.network.settings import NetworkSettings


@pytest.fixture
def needs_nftables() -> None:
    """For tests that look into our nftables tables: skips on kernels without its NAT."""
    if not _has_nftables():
        pytest.skip("this kernel has no nftables NAT in inet tables")


@cache
def _has_nftables() -> bool:
    machine = Machine()
    try:
        machine.start()
        machine.host.run(
            "nft", "add table inet t; add chain inet t c { type nat hook output priority 0; }"
        )
    except RuntimeError:
        return False
    finally:
        machine.stop()
    return True


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A host for the engine and another one on its LAN."""
    machine = Machine()
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


@pytest.fixture(params=BACKENDS)
def settings(request: pytest.FixtureRequest) -> NetworkSettings:
    """Settings for each packet filter backend that there is."""
    if request.param != "iptables-legacy":
        request.getfixturevalue("needs_nftables")
    return replace(SETTINGS, firewall_backend=str(request.param))
