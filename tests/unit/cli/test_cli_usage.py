"""system df: the same figures from old engines' lists and new engines' sums."""

from __future__ import annotations

from gantry.cli.commands.prune import _items, _reclaimable, _summary

OLD = {
    "LayersSize": 1000,
    "Images": [
        {"Containers": 1, "Size": 400, "SharedSize": 100},
        {"Containers": 0, "Size": 600, "SharedSize": 100},
    ],
    "Containers": [{"State": "running", "SizeRw": 5}, {"State": "exited", "SizeRw": 7}],
    "Volumes": [{"UsageData": {"Size": 9, "RefCount": 0}}, {"UsageData": None}],
    "BuildCache": [{"Size": 3, "InUse": False}, {"Size": 50, "Shared": True}],
}
NEW = {
    "ImageUsage": {"TotalCount": 2, "ActiveCount": 1, "TotalSize": 1000, "Reclaimable": 700},
    "ContainerUsage": {"TotalCount": 2, "ActiveCount": 1, "TotalSize": 12, "Reclaimable": 7},
    "VolumeUsage": {"TotalCount": 2, "TotalSize": 9, "Reclaimable": 9, "Items": [{"Name": "v"}]},
    "BuildCacheUsage": {"TotalCount": 2, "TotalSize": 3, "Reclaimable": 3},
}


def test_old_and_new_engines_say_the_same() -> None:
    assert _summary(OLD) == _summary(NEW) == _summary({**OLD, **NEW})


def test_items_are_found_in_either_place() -> None:
    assert _items(NEW, "Local Volumes") == [{"Name": "v"}]
    assert len(_items(OLD, "Images")) == 2
    assert _items({}, "Containers") == []


def test_share_that_can_be_freed() -> None:
    rows = _summary(OLD)
    assert [_reclaimable(row) for row in rows] == ["700B (70%)", "7B (58%)", "9B (100%)", "3B"]
