"""Which of the host's interfaces are, or lead to, real devices."""

from __future__ import annotations

from pathlib import Path

from gantry.network.nft import physical_interfaces


def test_what_leads_to_a_real_device_is_one(tmp_path: Path) -> None:
    for name, inside in {
        "eth0": ("device",),
        "eth0.10": ("lower_eth0",),
        "bond0": ("lower_eth1",),
        "eth1": ("device", "upper_bond0"),
        "br0": ("lower_bond0.7", "lower_tap3"),
        "bond0.7": ("lower_bond0",),
        "docker0": ("lower_veth1",),
        "veth1": (),
        "lo": (),
    }.items():
        for entry in inside:
            (tmp_path / name / entry).mkdir(parents=True)
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "bonding_masters").write_text("bond0\n")
    assert physical_interfaces(str(tmp_path)) == [
        "bond0",
        "bond0.7",
        "br0",
        "eth0",
        "eth0.10",
        "eth1",
    ]


def test_no_devices_at_all(tmp_path: Path) -> None:
    assert physical_interfaces(str(tmp_path / "none")) == []
