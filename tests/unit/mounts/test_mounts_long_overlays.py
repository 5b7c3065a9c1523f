"""Overlays of more layers than a page of options names by whole paths."""

from __future__ import annotations

from gantry.mounts.detached import _from_within


def test_relative_names() -> None:
    layers = ":".join(f"/var/lib/gantry/snapshots/overlay2/l{number}/fs" for number in range(140))
    data = [f"lowerdir={layers}", "upperdir=/var/lib/gantry/snapshots/overlay2/up/fs", "index=off"]
    folder, shorter = _from_within([*data, "workdir=/var/lib/gantry/snapshots/overlay2/up/work"])
    assert folder == "/var/lib/gantry/snapshots/overlay2"
    assert shorter.startswith("lowerdir=l0/fs:l1/fs:")
    assert shorter.endswith(",upperdir=up/fs,index=off,workdir=up/work")
    assert len(shorter) < 4095 < len(",".join(data))


def test_what_cannot_be_shortened() -> None:
    assert _from_within(["lowerdir=a:b"]) == ("", "")
    assert _from_within(["lowerdir=/a\\:b:/c"]) == ("", "")
    assert _from_within(["metacopy=off"]) == ("", "")
