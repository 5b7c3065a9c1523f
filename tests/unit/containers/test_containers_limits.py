"""What the kernel cannot limit is left out, with Docker's warnings."""

from __future__ import annotations

from gantry.cgroups.abilities import Abilities
from gantry.containers.limits import supported
from gantry.model.container import HostConfig, WeightDevice


def test_what_is_known_stays() -> None:
    host = HostConfig(memory=64 << 20, cpu_shares=2, blkio_weight=100, oom_kill_disable=True)
    assert supported(host, Abilities()) == (host, [])


def test_what_is_not_known_goes() -> None:
    weights = [WeightDevice(path="/dev/null", weight=10)]
    host = HostConfig(blkio_weight=100, blkio_weight_device=weights, cpuset_cpus="0", cpu_shares=2)
    left, warnings = supported(host, Abilities(weight=False, weight_device=False, cpuset=False))
    assert left == HostConfig(cpu_shares=2)
    assert [warning.rpartition(" or the cgroup")[0] for warning in warnings] == [
        "Your kernel does not support cpuset",
        "Your kernel does not support Block I/O weight",
        "Your kernel does not support Block I/O weight_device",
    ]


def test_swap() -> None:
    host = HostConfig(memory=64 << 20, memory_swap=128 << 20)
    left, warnings = supported(host, Abilities(swap=False))
    assert (left.memory, left.memory_swap) == (64 << 20, -1)
    assert warnings == [
        "Your kernel does not support swap limit capabilities or the cgroup is not mounted."
        " Memory limited without swap."
    ]
    assert supported(HostConfig(memory=64 << 20, memory_swap=-1), Abilities(swap=False))[1] == []


def test_nobody_is_told_that_what_was_off_is_off() -> None:
    can = Abilities(oom_kill_disable=False, swappiness=False)
    left, warnings = supported(HostConfig(oom_kill_disable=False, memory_swappiness=-1), can)
    assert (left.oom_kill_disable, left.memory_swappiness, warnings) == (None, None, [])
    assert supported(HostConfig(oom_kill_disable=True), can)[1] == [
        "Your kernel does not support OomKillDisable. OomKillDisable discarded."
    ]


def test_one_warning_for_period_and_quota() -> None:
    left, warnings = supported(HostConfig(cpu_period=1000, cpu_quota=1000), Abilities(quota=False))
    assert (left.cpu_period, left.cpu_quota, len(warnings)) == (0, 0, 1)
