"""cgroup v2: conversions, the order of writes, and what the device program decides."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.cgroups import devices, files, v2_set
from gantry.model.resources import CPU, BlockIO, DeviceRule, Memory, Pids, Resources


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(files, "write", lambda folder, name, value: found.append((name, value)))
    return found


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (0, 0), (1, 1), (2**40, 10000)]
)
def test_weights(shares: int, weight: int) -> None:
    assert v2_set.weight_of_shares(shares) == weight


@given(st.integers(2, 262143))
def test_weights_grow_with_shares(shares: int) -> None:
    assert 1 <= v2_set.weight_of_shares(shares) <= v2_set.weight_of_shares(shares + 1) <= 10000


@pytest.mark.parametrize(
    ("memory", "swap"),
    [
        (Memory(limit=100, swap=150), "50"),
        (Memory(limit=100, swap=100), "0"),
        (Memory(limit=100, swap=-1), "max"),
        (Memory(limit=100), None),
        (Memory(limit=-1), "max"),
        (Memory(limit=100, swap=0), None),
    ],
)
def test_swap(memory: Memory, swap: str | None) -> None:
    assert v2_set.swap_of(memory) == swap


@pytest.mark.parametrize("memory", [Memory(swap=100), Memory(limit=100, swap=50)])
def test_swap_that_makes_no_sense(memory: Memory) -> None:
    with pytest.raises(OSError):
        v2_set.swap_of(memory)


def test_limits(writes: list[tuple[str, str]]) -> None:
    v2_set.apply(
        "/nonesuch",
        Resources(
            memory=Memory(limit=-1, reservation=5),
            cpu=CPU(quota=-1, period=1000, shares=1024),
            pids=Pids(limit=-1),
            block_io=BlockIO(weight=1000),
        ),
    )
    assert ("memory.max", "max") in writes
    assert ("memory.low", "5") in writes
    assert ("cpu.max", "max 1000") in writes
    assert ("cpu.weight", "100") in writes
    assert ("pids.max", "max") in writes
    assert ("io.weight", "default 10000") in writes


def test_unified_comes_last_and_line_by_line(writes: list[tuple[str, str]]) -> None:
    v2_set.apply("/nonesuch", Resources(pids=Pids(limit=5), unified={"io.max": "a\nb"}))
    assert writes == [("pids.max", "5"), ("io.max", "a"), ("io.max", "b")]
    with pytest.raises(OSError, match="must be a file name"):
        v2_set.apply("/nonesuch", Resources(unified={"../x.y": "1"}))


# --- the device program, run by an interpreter of these few instructions -----------------


def decide(code: bytes, kind: str, access: str, major: int, minor: int) -> bool:
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = {0: bits << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    registers = [0] * 11
    at = 0
    while True:
        operation, where, offset, value = struct.unpack_from("<BBhi", code, at * 8)
        target, source = where & 0xF, where >> 4
        at += 1
        if operation == 0x61:
            registers[target] = context[offset]
        elif operation == 0x54:
            registers[target] &= value & 0xFFFFFFFF
        elif operation == 0x74:
            registers[target] >>= value
        elif operation == 0xBC:
            registers[target] = registers[source]
        elif operation == 0xB7:
            registers[target] = value
        elif operation == 0x55:
            at += offset if registers[target] != value else 0
        elif operation == 0x15:
            at += offset if registers[target] == value else 0
        elif operation == 0x95:
            return registers[0] == 1
        else:
            raise AssertionError(hex(operation))


def by_hand(rules: tuple[DeviceRule, ...], kind: str, access: str, major: int, minor: int) -> bool:
    """The rules as a table of (device, letter) → allowed: what writing them in order means."""
    allowed = dict.fromkeys("rwm", True)
    for rule in rules:
        matches = rule.type in ("", "a") or (
            rule.type == kind
            and rule.major in (None, -1, major)
            and rule.minor in (None, -1, minor)
        )
        if matches:
            for letter in "rwm" if rule.type in ("", "a") else rule.access or "rwm":
                allowed[letter] = rule.allow
    return all(allowed[letter] for letter in access)


RULES = st.lists(
    st.builds(
        lambda allow, kind, major, minor, access: DeviceRule(
            allow=allow, type=kind, major=major, minor=minor, access=access
        ),
        st.booleans(),
        st.sampled_from(["a", "b", "c", "c"]),
        st.sampled_from([None, -1, 1, 2]),
        st.sampled_from([None, 3, 4]),
        st.sampled_from(["r", "rw", "rwm", "m", "wm"]),
    ),
    max_size=8,
).map(tuple)


@settings(max_examples=500, deadline=None)
@given(
    RULES,
    st.sampled_from("bc"),
    st.sampled_from(["r", "w", "m", "rw", "rm"]),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([3, 4, 9]),
)
def test_the_program_decides_as_the_rules_say(
    rules: tuple[DeviceRule, ...], kind: str, access: str, major: int, minor: int
) -> None:
    assert decide(devices.program(rules), kind, access, major, minor) == by_hand(
        rules, kind, access, major, minor
    )
