"""The kernel's table of neighbours grows with networks, and only grows."""

from __future__ import annotations

import pytest

from gantry.network import interfaces


def test_room_for_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    ipv4 = "net.ipv4.neigh.default.gc_thresh"
    sysctls = {ipv4 + "1": "128", ipv4 + "2": "512", ipv4 + "3": "1048576"}  # no IPv6 here

    def write(name: str, value: str, *, required: bool = False) -> None:
        sysctls[name] = value

    monkeypatch.setattr(interfaces, "read_sysctl", lambda name: sysctls.get(name, ""))
    monkeypatch.setattr(interfaces, "write_sysctl", write)
    interfaces.room_for_neighbours(1000)
    assert sysctls == {ipv4 + "1": "1000", ipv4 + "2": "4000", ipv4 + "3": "1048576"}
    interfaces.room_for_neighbours(500)
    assert sysctls == {ipv4 + "1": "1000", ipv4 + "2": "4000", ipv4 + "3": "1048576"}
